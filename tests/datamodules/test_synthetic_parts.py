"""The built-in data set: exact, deterministic, and with a label that is known by construction."""

import itertools
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from torch import Tensor
from torch.nn import functional as F

from pellucid import batch as batches
from pellucid.batch import check_batch
from pellucid.datamodules.base import collate
from pellucid.datamodules.figures import (
    COLOURS,
    FACTOR_NAMES,
    FACTORS,
    PARTS,
    SHAPES,
    FigureSpecs,
    RenderedFigures,
    render_figures,
)
from pellucid.datamodules.figures import dataset as figure_dataset
from pellucid.datamodules.synthetic_parts import SyntheticParts

# Nobody was asked where to look.
FIELDS = batches.FIELDS - {"attention"}


def small(**options) -> SyntheticParts:
    return SyntheticParts(**{"train_size": 60, "val_size": 20, "test_size": 40, **options})


@pytest.fixture(scope="module")
def specs() -> FigureSpecs:
    return SyntheticParts(num_classes=8).specs("train", range(120))[0]


@pytest.fixture(scope="module")
def figures(specs) -> RenderedFigures:
    return render_figures(specs, 64)


def assert_equal(first, second) -> None:
    for field in fields(RenderedFigures):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def dilate(mask: Tensor, radius: int = 1) -> Tensor:
    side = 2 * radius + 1
    return F.max_pool2d(mask[:, None].float(), side, stride=1, padding=radius)[:, 0] > 0


# The batch contract.


@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_every_field_is_there(split):
    data = small(batch_size=7)
    batch = next(iter(data.dataloader(split)))
    check_batch(batch, FIELDS)
    assert data.provides == FIELDS
    assert set(batch) == FIELDS
    assert batch["parts"].shape == (7, len(data.part_names), 2)
    assert batch["factors"].shape == (7, len(data.factor_names))
    sizes = dict(zip(data.factor_names, data.factor_sizes, strict=True))
    assert sizes["mirror"] == 2
    measured = [name for name, size in sizes.items() if size is None]
    assert measured[:4] == ["rotation", "scale", "x", "y"]
    for column, size in zip(batch["factors"].T, sizes.values(), strict=True):
        assert size is None or 0 <= int(column.min()) <= int(column.max()) < size
    assert batch["factors"].dtype == torch.int64
    assert batch["image"].dtype == torch.float32
    assert batch["index"].tolist() == list(range(7))


def test_all_is_the_three_splits_one_after_the_other():
    data = small(confound=1.0)
    whole = data.make_dataset("all")
    parts = [data.make_dataset(split) for split in ("train", "val", "test")]
    assert len(whole) == data.length("all") == sum(map(len, parts)) == 120
    places = [(part, index) for part in parts for index in range(len(part))]
    for position, (part, index) in enumerate(places):
        expected, item = part[index], whole[position]
        for name in FIELDS - {"index"}:
            assert torch.equal(item[name], expected[name])
        assert item["index"] == position


def test_the_end_of_the_data_is_an_index_error():
    dataset = small().make_dataset("val")
    with pytest.raises(IndexError, match="20"):
        dataset[20]
    assert len(list(dataset)) == 20


def test_images_are_normalised_with_mean_and_std():
    data = SyntheticParts(train_size=500)
    images = torch.stack([item["image"] for item in data.make_dataset("train")])
    assert images.mean((0, 2, 3)).abs().max() < 0.1
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.1
    restored = images[3] * torch.tensor(data.std)[:, None, None]
    restored = (restored + torch.tensor(data.mean)[:, None, None]) * 255
    shown = render_figures(data.specs("train", [3])[0], 64).images[0]
    assert torch.allclose(restored, shown.float(), atol=1e-3)


def test_there_are_enough_kinds_of_parts():
    assert len(SHAPES) >= 5
    assert all(len(shapes) >= 3 for shapes in SHAPES.values())
    assert len(COLOURS) >= 4
    factors, _ = SyntheticParts(num_classes=8).specs("train")
    for name, factor in FACTORS.items():
        values = np.unique(factors.factor(name))
        assert (values.min(), values.max()) == (factor.low, factor.high)
        assert not factor.names or len(values) == len(factor.names)


# Determinism.


def test_workers_do_not_change_the_data():
    alone, helped = (small(num_workers=n, batch_size=16) for n in (0, 2))
    for split, shuffle in (("train", True), ("test", False)):
        pairs = zip(
            alone.dataloader(split, shuffle=shuffle),
            helped.dataloader(split, shuffle=shuffle),
            strict=True,
        )
        for first, second in pairs:
            assert all(torch.equal(first[name], second[name]) for name in FIELDS)


def test_other_processes_draw_the_same_bytes(monkeypatch):
    kept = small(batch_size=10).dataloader("val")
    monkeypatch.setattr(figure_dataset, "_BYTES_KEPT", 0)  # workers draw each item themselves
    workers = small(batch_size=10, num_workers=2).dataloader("val")
    for first, second in zip(kept, workers, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in FIELDS)


def test_a_figure_does_not_depend_on_its_company(specs, figures):
    order = np.array([100, 7, 55, 8])
    some = render_figures(specs[order], 64)
    for row, index in enumerate(order):
        alone = render_figures(specs[slice(index, index + 1)], 64)
        for field in fields(RenderedFigures):
            expected = getattr(figures, field.name)[index]
            assert torch.equal(getattr(some, field.name)[row], expected)
            assert torch.equal(getattr(alone, field.name)[0], expected)


def test_threads_do_not_change_the_data(specs, figures):
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert_equal(render_figures(specs, 64), figures)
    finally:
        torch.set_num_threads(before)


def test_a_figure_does_not_depend_on_the_size_of_its_split():
    few, many = (SyntheticParts(train_size=n).specs("train") for n in (10, 30))
    assert np.array_equal(few[0].factors, many[0].factors[:10])
    assert np.array_equal(few[0].nuisance, many[0].nuisance[:10])
    assert np.array_equal(few[1], many[1][:10])


def test_seeds_and_splits_differ():
    drawn = [
        small(seed=seed).specs(split, range(20))[0].factors.tobytes()
        for seed, split in itertools.product((0, 1), ("train", "val", "test"))
    ]
    assert len(set(drawn)) == 6


PINNED_LABELS = [2, 1, 3, 0, 3, 0, 1, 2]
PINNED_FACTORS = [1, 1, 0, 1, 2, 0, 0, 1, 5, 1, 0, 3, 3, 0, -8, 974, 67, -33, -6, -5, 6, 13, 13, 0]
PINNED_MEAN = 145.87


def test_the_data_set_stays_what_it_was():
    # Results of others rest on these figures: a change here is a new data set.
    specs, labels = SyntheticParts().specs("test", range(8))
    assert labels.tolist() == PINNED_LABELS
    assert specs.factors[0].tolist() == PINNED_FACTORS
    assert render_figures(specs, 64).images.float().mean().item() == pytest.approx(
        PINNED_MEAN, abs=0.01
    )


def test_items_drawn_one_by_one_are_the_same(monkeypatch):
    kept = small().make_dataset("val")
    monkeypatch.setattr(figure_dataset, "_BYTES_KEPT", 0)
    anew = small().make_dataset("val")
    assert kept.rendered is not None
    assert anew.rendered is None
    for first, second in zip(kept, anew, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in FIELDS)


# Masks and landmarks.


def test_masks_do_not_overlap_and_make_the_object(figures):
    masks = figures.part_masks
    assert masks.shape == (120, len(PARTS), 64, 64)
    assert masks.sum(1).max() == 1
    assert torch.equal(masks.any(1), figures.mask)
    assert 0.1 < figures.mask.float().mean() < 0.4


def test_landmarks_lie_on_their_own_parts(figures):
    masks = figures.part_masks
    on_part = total = 0
    for image, part in figures.visible.nonzero().tolist():
        x, y = figures.landmarks[image, part].round().int().tolist()
        near = masks[image, part, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert near.any(), f"{PARTS[part]} of image {image}"
        on_part += bool(masks[image, part].roll((-y, -x), (0, 1))[0, 0])
        total += 1
    assert on_part / total > 0.98


def test_a_landmark_is_visible_when_its_part_is_seen_and_it_is_inside(specs):
    # At the picture's corner, large figures lose parts.
    corner = render_figures(specs.with_factors(x=180, y=-180, scale=1060), 64)
    seen = corner.part_masks.flatten(2).any(-1)
    inside = ((corner.landmarks >= -0.5) & (corner.landmarks < 63.5)).all(-1)
    assert torch.equal(corner.visible, seen & inside)
    assert not corner.visible.all()
    assert (seen & ~inside).any()
    assert corner.landmarks.isfinite().all()


def test_landmarks_follow_the_pose(specs):
    still = specs.with_factors(
        rotation=0, x=0, y=0, mirror=0, **{n: 0 for n in FACTORS if n.endswith("_angle")}
    )
    points = render_figures(still, 64).landmarks
    unit = torch.from_numpy(still.factor("scale") / 1000 * 32).float()
    moved = render_figures(still.with_factors(x=100, y=-50), 64).landmarks
    assert torch.allclose(moved - points, torch.tensor([6.4, -3.2]), atol=1e-4)
    mirrored = render_figures(still.with_factors(mirror=1), 64).landmarks
    assert torch.allclose(mirrored[..., 0], 63 - points[..., 0], atol=1e-4)
    # All anchors turn about the middle of the picture, clockwise.
    turned = render_figures(still.with_factors(rotation=20), 64).landmarks
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    rotation = torch.tensor([[c, s], [-s, c]], dtype=torch.float32)
    assert torch.allclose(turned - 31.5, (points - 31.5) @ rotation, atol=1e-3)
    raised = render_figures(still.with_factors(tail_angle=15), 64).landmarks
    lowered = render_figures(still.with_factors(tail_angle=-15), 64).landmarks
    tail = PARTS.index("tail")
    assert (raised[:, tail] - lowered[:, tail]).norm(dim=-1).gt(0.1 * unit).all()
    others = [p for p in range(len(PARTS)) if p != tail]
    assert torch.equal(raised[:, others], points[:, others])


@pytest.mark.parametrize("part", PARTS)
def test_removing_a_part_changes_nothing_else(part, specs, figures):
    number = PARTS.index(part)
    without = render_figures(specs, 64, remove_parts=[part])
    alone = render_figures(specs, 64, remove_parts=[p for p in PARTS if p != part])
    nothing = render_figures(specs, 64, remove_parts=PARTS)
    changed = (without.images != figures.images).any(1)
    extent = (alone.images != nothing.images).any(1)
    assert changed.flatten(1).any(1)[figures.visible[:, number]].all()
    # One pixel more: a part's edge may by chance have the colour of what is behind it.
    assert not (changed & ~dilate(extent)).any()
    assert (extent & ~dilate(alone.mask)).float().mean() < 1e-3
    assert not (without.front == number + 1).any()
    elsewhere = figures.front != number + 1
    assert torch.equal(without.front[elsewhere], figures.front[elsewhere])
    assert not without.visible[:, number].any()
    assert torch.equal(without.landmarks, figures.landmarks)
    others = [p for p in range(len(PARTS)) if p != number]
    assert not (figures.visible & ~without.visible)[:, others].any()


def test_a_figure_without_parts_is_its_background(specs):
    empty = render_figures(specs, 64, remove_parts=PARTS)
    other = specs.with_factors(head_shape=0, tail_shape=2, body_colour=1, scale=930, rotation=9)
    assert torch.equal(empty.images, render_figures(other, 64, remove_parts=PARTS).images)
    assert not empty.mask.any()
    assert not empty.visible.any()


@pytest.mark.parametrize("size", [32, 33, 64, 100, 256])
def test_sizes(size, specs):
    few = specs[slice(0, 12)]
    figures = render_figures(few, size)
    assert figures.images.shape == (12, 3, size, size)
    assert figures.images.dtype == torch.uint8
    large = render_figures(few, 256)
    # A mask is where a part covers more than half of a pixel: compare with finer pixels.
    for part, mask in enumerate(figures.part_masks.unbind(1)):
        fine = large.part_masks[:, part].float()[:, None]
        cover = F.interpolate(fine, size=(size, size), mode="area")[:, 0] > 0.5
        iou = (cover & mask).sum() / (cover | mask).sum()
        assert iou > (0.85 if size >= 64 else 0.75), PARTS[part]
        share = fine.mean().item()
        assert mask.float().mean().item() == pytest.approx(share, rel=0.08), PARTS[part]
    position = (figures.landmarks + 0.5) / size
    assert torch.allclose(position, (large.landmarks + 0.5) / 256, atol=1e-5)


# Classes, confounding, and what the label depends on.


@pytest.mark.parametrize("num_classes", range(2, 9))
def test_the_label_is_a_function_of_head_and_tail_together(num_classes):
    data = SyntheticParts(num_classes=num_classes, train_size=400)
    specs, labels = data.specs("train")
    assert len(set(data.class_names)) == data.num_classes == num_classes
    shapes = [specs.factor(f"{part}_shape") for part in data.label_parts]
    classes_of: dict[tuple[int, int], set[int]] = {}
    for head, tail, label in zip(*shapes, labels, strict=True):
        classes_of.setdefault((int(head), int(tail)), set()).add(int(label))
    assert all(len(found) == 1 for found in classes_of.values())
    for shape in shapes:
        best = sum(np.bincount(labels[shape == value]).max() for value in np.unique(shape))
        assert best / len(labels) < 0.9  # two classes: 5/6; more: less


def test_classes_are_balanced_at_every_length():
    data = small(num_classes=5)
    _, labels = data.specs("train")
    for stop in range(1, len(labels) + 1):
        counts = np.bincount(labels[:stop], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert len({tuple(labels[start : start + 5]) for start in range(0, 60, 5)}) > 3


def test_nothing_but_head_and_tail_tells_the_class():
    specs, labels = SyntheticParts(train_size=4000).specs("train")
    for name, factor in FACTORS.items():
        values = specs.factor(name)
        if not factor.names:
            values = (values - factor.low) * 8 // (factor.high - factor.low + 1)
        table = np.zeros((4, values.max() + 1))
        np.add.at(table, (labels, values), 1)
        table = table[:, table.any(0)]
        dependent = chi2_contingency(table).pvalue < 1e-4
        assert dependent == (name in ("head_shape", "tail_shape")), name


def test_confound_ties_the_scene_to_the_class_in_training_only():
    data = small(confound=1.0, train_size=400, test_size=400)
    train, labels = data.specs("train")
    assert np.array_equal(train.factor("scene"), labels)
    for split in ("val", "test"):
        tied, free = data.specs(split)[0], small(test_size=400).specs(split)[0]
        assert np.array_equal(tied.factors, free.factors)
    specs, labels = data.specs("all")
    assert np.array_equal(specs.factor("scene")[:400], labels[:400])
    assert np.mean(specs.factor("scene")[400:] == labels[400:]) < 0.35


def test_confound_ties_the_scene_to_the_class_in_all_splits_on_request():
    data = small(confound=1.0, confound_splits="all", train_size=400, test_size=400)
    for split in ("train", "val", "test", "all"):
        specs, labels = data.specs(split)
        assert np.array_equal(specs.factor("scene"), labels)


def test_the_deconfounded_split_is_that_of_data_without_confounding():
    tied = small(confound=1.0, confound_splits="all", test_size=400)
    free = small(test_size=400)
    specs, labels = tied.specs("test", confound=0.0)
    assert np.array_equal(specs.factors, free.specs("test")[0].factors)
    assert np.mean(specs.factor("scene") == labels) < 0.35


@pytest.mark.parametrize("num_classes", [2, 4, 8])
def test_a_swapped_background_is_another_one_and_all_else_stays(num_classes):
    data = small(num_classes=num_classes, confound=0.9)
    before, labels = data.specs("test")
    after, same = data.specs("test", swap_background=True)
    assert np.array_equal(labels, same)
    assert np.array_equal(before.nuisance, after.nuisance)
    assert not (before.factor("scene") == after.factor("scene")).any()
    assert set(after.factor("scene")) <= set(range(num_classes))
    assert np.array_equal(before.with_factors(scene=0).factors, after.with_factors(scene=0).factors)
    # An image depends on its own position alone, wherever it is asked for.
    assert np.array_equal(
        data.specs("test", [9], swap_background=True)[0].factors[0], after.factors[9]
    )
    batch, original = data.render("test", [9], swap_background=True), data.render("test", [9])
    assert torch.equal(batch["part_masks"], original["part_masks"])
    assert not torch.equal(batch["image"], original["image"])
    assert torch.equal(
        data.make_dataset("test", swap_background=True)[9]["image"], batch["image"][0]
    )


def test_confound_moves_the_scene_alone():
    free, tied = (small(confound=c).specs("train")[0] for c in (0.0, 1.0))
    assert np.array_equal(tied.with_factors(scene=0).factors, free.with_factors(scene=0).factors)
    assert np.array_equal(tied.nuisance, free.nuisance)


@pytest.mark.parametrize("confound", [0.0, 0.5, 1.0])
def test_confound_is_the_share_of_tied_images(confound):
    specs, labels = SyntheticParts(train_size=4000, confound=confound).specs("train")
    agree = np.mean(specs.factor("scene") == labels)
    assert agree == pytest.approx(confound + (1 - confound) / 4, abs=0.025)


def test_the_test_split_can_be_drawn_as_confounded_as_training():
    data = small()
    specs, labels = data.specs("test", confound=1.0)
    assert np.array_equal(specs.factor("scene"), labels)
    batch = data.render("test", range(40), confound=1.0)
    scene = FACTOR_NAMES.index("scene")
    assert torch.equal(batch["factors"][:, scene], batch["label"])
    dataset = data.make_dataset("test", confound=1.0)
    assert torch.equal(dataset[9]["image"], batch["image"][9])
    assert torch.equal(data.render("test", [9])["part_masks"][0], batch["part_masks"][9])


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Test accuracy of a ridge regression of the class on small pictures."""
    weights = torch.linalg.solve(
        train[0].T @ train[0] + 10 * torch.eye(train[0].shape[1], dtype=torch.float64),
        train[0].T @ F.one_hot(train[1]).double(),
    )
    return ((test[0] @ weights).argmax(1) == test[1]).double().mean().item()


def pictures(data: SyntheticParts, split, cells: int, **options) -> tuple[Tensor, Tensor]:
    specs, labels = data.specs(split, confound=options.pop("confound", None))
    images = render_figures(specs, 32, **options).images.double() / 255
    x = F.adaptive_avg_pool2d(images, cells).flatten(1)
    return torch.cat([x, x.square(), torch.ones(len(x), 1)], 1), torch.from_numpy(labels)


def test_background_and_mean_colour_are_at_chance():
    data = SyntheticParts(image_size=32, train_size=1200, test_size=800)
    options = {"cells": 4, "remove_parts": PARTS}
    free = probe(pictures(data, "train", **options), pictures(data, "test", **options))
    assert 0.18 < free < 0.32
    colour = probe(pictures(data, "train", 1), pictures(data, "test", 1))
    assert 0.18 < colour < 0.35
    # The probe itself can tell scenes apart.
    tied = {"confound": 1.0, **options}
    assert probe(pictures(data, "train", **tied), pictures(data, "test", **tied)) > 0.8


# Rendering on demand.


def test_render_gives_the_items_of_the_split():
    data = small()
    indices = [17, 3, 3, 39]
    batch = data.render("test", torch.tensor(indices))
    check_batch(batch, FIELDS)
    expected = collate([data.make_dataset("test")[index] for index in indices])
    assert all(torch.equal(batch[name], expected[name]) for name in FIELDS)


def test_render_without_parts():
    data, bare = small(), small(remove_parts=["tail", "ears"])
    batch = data.render("val", range(20), remove_parts=("tail", "ears"))
    expected = collate(list(bare.make_dataset("val")))
    assert all(torch.equal(batch[name], expected[name]) for name in FIELDS)
    whole = bare.render("val", range(20), remove_parts=())
    assert torch.equal(whole["image"], data.render("val", range(20))["image"])
    assert not torch.equal(whole["image"], batch["image"])


def test_counterfactual_factors(specs):
    changed = specs.with_factors(tail_shape=1, scene=np.arange(120) % 8)
    assert (changed.factor("tail_shape") == 1).all()
    assert (changed.factor("scene") == np.arange(120) % 8).all()
    assert np.array_equal(changed.factor("head_shape"), specs.factor("head_shape"))
    assert not np.array_equal(changed.factors, specs.factors)  # the original is left alone


# Wrong arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 31}, "image_size must be from 32 to 256, got 31"),
        ({"image_size": 257}, "image_size must be from 32 to 256, got 257"),
        ({"num_classes": 1}, "num_classes must be from 2 to 8, got 1"),
        ({"num_classes": 9}, "num_classes must be from 2 to 8, got 9"),
        ({"train_size": 0}, "train_size must be from 1 to .*, got 0"),
        ({"val_size": 0}, "val_size must be from 1 to .*, got 0"),
        ({"test_size": -5}, "test_size must be from 1 to .*, got -5"),
        ({"seed": -1}, "seed must be from 0 to .*, got -1"),
        ({"confound_splits": "test"}, "confound_splits must be train or all, got 'test'"),
        ({"confound": 1.5}, "confound must be from 0 to 1, got 1.5"),
        ({"confound": float("nan")}, "confound must be from 0 to 1, got nan"),
        ({"remove_parts": ["nose"]}, "'nose'.*choose from head, ears"),
        ({"remove_parts": "tail"}, "must be a list of names, got 'tail'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticParts(**options)


@pytest.mark.parametrize("indices", [[40], [-1], []])
def test_wrong_indices(indices):
    with pytest.raises(ValueError, match="indices must"):
        small().render("test", indices)


def test_wrong_rendering_arguments(specs):
    data = small()
    with pytest.raises(ValueError, match="confound must be from 0 to 1, got -1"):
        data.render("test", [0], confound=-1)
    with pytest.raises(ValueError, match="'nose'"):
        data.make_dataset("test", remove_parts=["nose"])
    with pytest.raises(ValueError, match="size must be from 32 to 256 pixels, got 20"):
        render_figures(specs, 20)
    with pytest.raises(ValueError, match="no factor is called 'tail'"):
        specs.with_factors(tail=1)
    with pytest.raises(ValueError, match="tail_shape must be from 0 to 2, got 3"):
        specs.with_factors(tail_shape=3)


# Speed, by processor time, so that a busy machine does not count. Bounds are generous.


def test_drawing_is_fast(specs):
    few = specs[slice(0, 90)]
    render_figures(few, 64)
    start = time.thread_time()
    render_figures(few, 64)
    assert len(few) / (time.thread_time() - start) > 500


def test_items_are_fast():
    dataset = small().make_dataset("test")
    dataset[0]
    start = time.thread_time()
    for _ in range(10):
        for index in range(40):
            dataset[index]
    assert (time.thread_time() - start) / 400 < 5e-4
