import pickle
import statistics
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import PartStability, part_stability, perturb
from tests.metrics.boxes import images, own_category, presence, rows

BOX = 0.4


def noisy(count: int = 13) -> dict[str, Any]:
    data = images(count)
    shake = torch.randn(data["maps"].shape, generator=torch.Generator().manual_seed(7))
    data["noisy_maps"] = data["maps"] + 0.1 * shake
    data["noisy_maps"][:, 1] = 0.0
    return data


def brute_force(data: dict[str, Any], box: float) -> list[float]:
    """The share of images with the same parts in each unit's boxes; all units have some."""
    clean, moved = (presence(data, data[name], box) for name in ("maps", "noisy_maps"))
    counted = data.get("counted")
    shares = []
    for unit in range(data["maps"].shape[1]):
        same = [
            clean[image][unit] == moved[image][unit]
            for image in range(len(clean))
            if any(seen is not None for seen in clean[image][unit])
            and (counted is None or counted[image, unit])
        ]
        shares.append(sum(same) / len(same) if same else float("nan"))
    return shares


def metric_of(*batches: dict[str, Any], box: float = BOX) -> PartStability:
    metric = PartStability(batches[0]["maps"].shape[1], box)
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("box", [0.2, BOX])
@pytest.mark.parametrize("by_category", [False, True])
def test_against_loops(box, by_category) -> None:
    data = noisy()
    if by_category:
        data["counted"] = torch.rand(13, 4, generator=torch.Generator().manual_seed(3)) < 0.5
        data["counted"][:, 3] = False
    expected = torch.tensor(brute_force(data, box))
    metric = metric_of(data, box=box)
    torch.testing.assert_close(metric.per_unit(), expected, equal_nan=True)
    assert float(metric.compute()) == pytest.approx(float(expected.nanmean()))
    torch.testing.assert_close(part_stability(**data, box=box), metric.compute())
    # Else nothing would be tested.
    assert 0 < float(metric.compute()) < 1


def test_by_hand_with_the_published_box() -> None:
    maps = torch.zeros(4, 1, 7, 7)
    maps[:, 0, 3, 3] = 1.0
    moved = torch.zeros(4, 1, 7, 7)
    # Cells of 32 pixels: the peak at 111 stays, or goes to 143 or 175.
    for image, column in enumerate((3, 4, 5, 5)):
        moved[image, 0, 3, column] = 1.0
    parts = torch.tensor([[[111.0, 111.0], [5.0, 5.0]]] * 4)
    visible = torch.tensor([[True, True]] * 3 + [[False, True]])
    # Within 36 pixels in the first two images; in the last one only the other part can be seen.
    assert float(part_stability(maps, moved, parts, visible, (224, 224))) == 0.75


def test_the_same_parts_but_others_are_not_the_same() -> None:
    maps, moved = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
    maps[0, 0, 3, 3] = moved[0, 0, 0, 0] = 1.0
    parts = torch.tensor([[[111.0, 111.0], [5.0, 5.0]]])
    visible = torch.ones(1, 2, dtype=torch.bool)
    assert float(part_stability(maps, moved, parts, visible, (224, 224))) == 0.0


def labelled() -> dict[str, Any]:
    """Units of different categories; the last category shows no part, and the third is empty."""
    data = noisy()
    data["label"] = torch.tensor([0, 1, 1, 0, 1, 3, 0, 0, 1, 1, 0, 1, 0])
    data["maps"][5] += 5.0
    data["maps"][:, 2] += 0.5 * data["label"].view(-1, 1, 1)
    return data


@pytest.mark.parametrize("size", [1, 4, 13])
def test_units_are_judged_on_their_own_category(size) -> None:
    data = labelled()
    metric = PartStability(4, BOX, num_classes=4)
    for part in torch.arange(13).split(size):
        metric.update(**rows(data, part))
    value = part_stability(**data, box=BOX)
    data["counted"] = torch.tensor(own_category(data, data.pop("label").tolist()))
    # Else nothing would be tested.
    assert len(data["counted"].int().unique(dim=1)[0]) == 2
    torch.testing.assert_close(
        metric.per_unit(), torch.tensor(brute_force(data, BOX)), equal_nan=True
    )
    assert float(metric.compute()) == pytest.approx(statistics.fmean(brute_force(data, BOX)))
    assert float(value) == pytest.approx(statistics.fmean(brute_force(data, BOX)))


def test_wrong_labels() -> None:
    data = labelled()
    metric = PartStability(4, BOX, num_classes=4)
    for label, message in (
        (torch.arange(13), "label must be from 0 to 3, got 0 to 12"),
        (torch.zeros(12).long(), r"label must have shape \(13\), got \(12,\)"),
        (None, "label must be given because num_classes is"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(**(data | {"label": label}))
    with pytest.raises(ValueError, match="label needs num_classes: give it to PartStability"):
        metric_of(data)
    with pytest.raises(ValueError, match="label must be from 0"):
        part_stability(**(data | {"label": data["label"] - 1}))
    with pytest.raises(ValueError, match="num_classes must be at least 1 or null, got 0"):
        PartStability(4, BOX, num_classes=0)


def test_grid() -> None:
    data = noisy() | {"image_size": (40, 50)}
    same = metric_of(data | {"grid": (10, 4.5)}).per_unit()
    assert torch.equal(same, metric_of(data).per_unit())
    assert not torch.equal(metric_of(data | {"grid": (14, -3.0)}).per_unit(), same)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_neither_batches_nor_order_matter(size) -> None:
    data = noisy()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    metric = metric_of(*(rows(data, part) for part in order.split(size)))
    assert torch.equal(metric.per_unit(), metric_of(data).per_unit())


def test_images_without_parts_tell_nothing() -> None:
    data = noisy()
    assert PartStability(4).compute().isnan()
    assert metric_of(rows(data, slice(0))).compute().isnan()
    assert metric_of(rows(data, slice(5, 6))).compute().isnan()
    others = torch.arange(13) != 5
    assert torch.equal(metric_of(rows(data, others)).per_unit(), metric_of(data).per_unit())


def test_reset_pickle_forward_and_a_state_that_does_not_grow() -> None:
    data = noisy()
    metric = metric_of(data)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    assert sum(v.numel() * v.element_size() for v in metric.metric_state.values()) == 12 * 4 + 8
    with torch.inference_mode():
        metric.reset()
        assert torch.equal(
            metric(**rows(data, slice(5))), metric_of(rows(data, slice(5))).compute()
        )
    metric.update(**rows(data, slice(5, None)))
    assert torch.equal(metric.compute(), expected)


def on_one_of_two(first: list[int], second: list[int]) -> tuple[Tensor, Tensor]:
    data = labelled()
    metric = PartStability(4, BOX, num_classes=4)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    return metric.compute(), metric.per_unit()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"), [([0, 2, 4, 6, 8], [1, 3, 5, 7, 9, 10, 11, 12]), ([], list(range(13)))]
)
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = PartStability(4, BOX, num_classes=4)
    expected.update(**labelled())
    for value, per_unit in run_on_two(on_one_of_two, first, second):
        assert torch.equal(value, expected.compute())
        assert torch.equal(per_unit, expected.per_unit())


def test_noise_is_gaussian_and_cut_off() -> None:
    image = torch.full((2, 3, 200, 200), 0.5)
    generator = torch.Generator().manual_seed(0)
    noise = perturb(image, generator=generator) - image
    inside = noise[noise.abs() < 0.249]
    assert float(noise.abs().max()) == pytest.approx(0.25, abs=1e-6)
    # P(|z| < 1.25) = 0.7887; up to there, the standard deviation of z is 0.6510 (numerically).
    assert len(inside) / noise.numel() == pytest.approx(0.787, abs=0.005)
    assert float(inside.std()) == pytest.approx(0.2 * 0.651, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=2e-3)
    again = perturb(image, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, image + noise) or torch.allclose(again, image + noise, atol=1e-6)
    assert not torch.equal(perturb(image, generator=generator), again)


def test_noise_of_other_strength_and_type() -> None:
    image = torch.zeros(3, 50, 50, dtype=torch.bfloat16)
    assert torch.equal(perturb(image, sigma=0.0), image)
    strong = perturb(image, sigma=2.0, limit=1.0)
    assert strong.dtype == torch.bfloat16
    assert float(strong.abs().max()) == 1.0
    with pytest.raises(ValueError, match=r"sigma and limit must be .* got -1 and 0\.25"):
        perturb(image, sigma=-1)
    with pytest.raises(ValueError, match=r"image must be floating point, got torch\.uint8"):
        perturb(image.byte())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(13, 3, 4, 5)}, r"maps must have shape \(any, 4, any, any\)"),
        ({"noisy_maps": torch.zeros(13, 4, 4, 4)}, r"noisy_maps must have shape \(13, 4, 4, 5\)"),
        ({"parts": torch.zeros(12, 3, 2)}, r"parts must have shape \(13, any, 2\)"),
        ({"part_visible": torch.ones(13, 2) > 0}, r"part_visible must have shape \(13, 3\)"),
        ({"counted": torch.ones(13, 3) > 0}, r"counted must have shape \(13, 4\)"),
        ({"noisy_maps": torch.full((13, 4, 4, 5), torch.inf)}, "unit 0 has the activation inf"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(noisy(), noisy() | changes)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="num_units must be at least 1, got 0"):
        PartStability(0)
    for call in (lambda: PartStability(4, box=72), lambda: part_stability(**noisy(), box=72)):
        with pytest.raises(ValueError, match="box must be above 0 and at most 1, got 72"):
            call()


def test_plot() -> None:
    metric = metric_of(noisy())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert "noise leaves the unit on the same parts" in axes.get_xlabel()
    assert f"mean {float(metric.compute()):.3f}" in [text.get_text() for text in axes.texts]
    PartStability(4).plot()[0].canvas.draw()
