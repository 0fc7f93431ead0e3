"""collect_units against loops over everything."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pellucid.analysis.representatives import unit_representatives
from pellucid.analysis.units import UnitSummary, collect_units, denormalise
from pellucid.batch import Batch
from pellucid.datamodules.base import collate
from pellucid.models.base import InterpretableModel
from pellucid.models.explanation import Explanation

COUNT, SIZE, GRID, CLASSES = 23, 24, 6, 3
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.5)


class Images(Dataset[Batch]):
    """Random pixels; image 7 is image 3 again, so that there are ties."""

    def __init__(self, labels: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), generator=generator)
        self.pixels[7] = self.pixels[3]
        self.labels = labels
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Batch:
        self.fetched.append(index)
        scale = torch.tensor(STD)[:, None, None]
        image = (self.pixels[index] / 255 - torch.tensor(MEAN)[:, None, None]) / scale
        item: Batch = {"image": image}
        if self.labels:
            # Class 1 has no image.
            item["label"] = torch.tensor(0 if index % 3 else 2)
        return item


class Pooled(InterpretableModel):
    """Units are pooled channels at several thresholds; the last one is silent."""

    def __init__(self, positions: bool = False) -> None:
        super().__init__()
        self.thresholds = torch.nn.Parameter(torch.tensor([0.0, 0.1, 1.05, 1e6]))
        self.positions = positions

    def step(self, batch: Batch, stage: str) -> dict[str, Tensor]:
        raise NotImplementedError

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        assert not self.training
        assert not torch.is_grad_enabled()
        channel = torch.nn.functional.avg_pool2d(batch["image"], SIZE // GRID)
        maps = (channel[:, [0, 1, 2, 0]] - self.thresholds[:, None, None]).relu()
        return Explanation(
            scores=maps.mean((2, 3)),
            target=torch.zeros(len(maps), dtype=torch.int64),
            maps=maps,
            positions=maps[..., :2, 0] if self.positions else None,
            unit_names=("a", "b", "c", "silent"),
        )


def collect(batch_size: int = 5, **changes: object) -> UnitSummary:
    model = changes.pop("model", None) or Pooled()
    loader = DataLoader(changes.pop("dataset", None) or Images(), batch_size, collate_fn=collate)
    options = {"mean": MEAN, "std": STD, "num_images": 4, "num_positions": 9, "progress": False}
    return collect_units(model, loader, **(options | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """(N, U, h, w), each image by itself."""
    model, data = Pooled().eval(), Images()
    with torch.no_grad():
        found = [model.explain({"image": data[i]["image"][None]}).maps for i in range(COUNT)]
    return torch.cat(found).numpy()  # type: ignore[arg-type]


def test_agrees_with_loops_over_units_and_images(maps: np.ndarray) -> None:
    summary = collect(class_names=("a", "b", "c"))
    labels = [0 if i % 3 else 2 for i in range(COUNT)]
    assert summary.num_seen == COUNT
    assert summary.class_names == ("a", "b", "c")
    assert summary.unit_names == ("a", "b", "c", "silent")
    for unit in range(4):
        peaks = [maps[i, unit].max() for i in range(COUNT)]
        order = sorted(range(COUNT), key=lambda i: (-peaks[i], i))
        assert summary.indices[unit].tolist() == order[:4]
        assert summary.labels[unit].tolist() == [labels[i] for i in order[:4]]
        np.testing.assert_allclose(summary.peaks[unit], [peaks[i] for i in order[:4]])
        np.testing.assert_allclose(summary.maps[unit], maps[order[:4], unit])
        for c in range(CLASSES):
            own = [maps[i, unit].mean() for i in range(COUNT) if labels[i] == c]
            expected = np.mean(own) if own else np.nan
            np.testing.assert_allclose(summary.class_activation[unit, c], expected, rtol=1e-5)
        if unit == 3:
            continue
        places = []
        fires = [i for i in order[:9] if peaks[i] > 0]
        for i in fires:
            row, column = np.unravel_index(maps[i, unit].argmax(), (GRID, GRID))
            places.append([column * 4 + 1.5, row * 4 + 1.5])  # cells of 4 x 4 pixels
        np.testing.assert_allclose(summary.positions[unit, : len(fires)], places)
        assert summary.positions[unit, len(fires) :].isnan().all()
        np.testing.assert_allclose(summary.position_mean[unit], np.mean(places, 0), rtol=1e-6)
        covariance = np.cov(np.array(places).T)
        np.testing.assert_allclose(summary.position_covariance[unit], covariance, rtol=1e-5)


def test_share_fired_counts_peaks_above_half_of_the_mean_shown(maps: np.ndarray) -> None:
    summary = collect(num_images=4)
    for unit in range(3):
        peaks = maps[:, unit].max((1, 2))
        limit = np.sort(peaks)[-4:].mean() / 2
        least, most = (peaks > limit * 1.023).mean(), (peaks > limit / 1.023).mean()
        assert least - 1e-6 <= summary.share_fired[unit] <= most + 1e-6
    # Unit 2 has a threshold that some images stay far below, so the bounds say something.
    assert 0.0 < summary.share_fired[2] < 1.0


@pytest.mark.parametrize("scale", [2.0**-24, 2.0**10])
def test_share_fired_does_not_depend_on_the_scale_of_the_maps(scale: float) -> None:
    class Scaled(Pooled):
        def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
            full = super().explain(batch, target)
            assert full.maps is not None
            return Explanation(scores=full.scores, target=full.target, maps=full.maps * scale)

    assert collect(model=Scaled()).share_fired.equal(collect().share_fired)


def test_a_silent_unit_has_no_position() -> None:
    summary = collect()
    assert summary.share_fired[3] == 0
    assert summary.peaks[3].tolist() == [0, 0, 0, 0]
    assert summary.indices[3].tolist() == [0, 1, 2, 3]
    assert summary.position_mean[3].isnan().all()
    assert summary.position_covariance[3].isnan().all()
    assert summary.positions[3].isnan().all()


@pytest.mark.parametrize("batch_size", [1, 2, 22, 23, 100])
def test_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    one, other = collect(batch_size=5), collect(batch_size=batch_size)
    for name in ("indices", "labels", "peaks", "positions", "maps", "share_fired"):
        assert getattr(one, name).nan_to_num(-1).equal(getattr(other, name).nan_to_num(-1)), name
    for name in ("class_activation", "position_mean", "position_covariance"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), equal_nan=True)


def test_of_equal_images_the_earlier_one_comes_first() -> None:
    summary = collect(num_images=COUNT)
    for unit in range(4):
        order = summary.indices[unit].tolist()
        assert order.index(3) < order.index(7)


def test_pixels_are_those_of_the_images_that_are_needed_and_no_others() -> None:
    data = Images()
    summary = collect(dataset=data)
    odd = sorted(
        {
            index
            for kind in (summary.representative, summary.surprising)
            for found in kind
            for index in found.indices
        }
    )
    needed = sorted({*summary.indices.flatten().tolist(), *odd})
    assert sorted(summary.images) == needed
    assert odd
    assert len(needed) < COUNT
    assert data.fetched == list(range(COUNT)) + odd + needed
    for index, image in summary.images.items():
        assert image.dtype == torch.uint8
        assert image.equal(data.pixels[index].permute(1, 2, 0).byte())


@pytest.mark.parametrize(("batch_size", "limit"), [(5, 2000), (23, 2000), (5, 17), (4, 23)])
def test_examples_are_those_of_all_peaks(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch, batch_size: int, limit: int
) -> None:
    monkeypatch.setattr("pellucid.analysis.unit_examples.LIMIT", limit)
    labels = torch.tensor([0 if i % 3 else 2 for i in range(COUNT)])
    places = [number * COUNT // min(limit, COUNT) for number in range(min(limit, COUNT))]
    peaks = torch.from_numpy(maps).amax((2, 3))
    summary = collect(batch_size)
    kinds = unit_representatives(peaks[places], labels[places], 3)
    for rows, found in zip(kinds, (summary.representative, summary.surprising), strict=True):
        expected = [[places[row] for row in chosen] for chosen in rows]
        assert any(expected)
        assert [list(each.indices) for each in found] == expected
        for unit, each in enumerate(found):
            assert list(each.labels) == labels[list(each.indices)].tolist()
            np.testing.assert_allclose(each.peaks, peaks[list(each.indices), unit])
            for index, heat in zip(each.indices, each.maps, strict=True):
                np.testing.assert_allclose(heat, maps[index, unit], rtol=1e-5)


def test_without_labels_nothing_surprises() -> None:
    summary = collect(dataset=Images(labels=False))
    assert summary.surprising == ()
    known = collect().representative
    assert [each.indices for each in summary.representative] == [each.indices for each in known]
    assert {label for each in summary.representative for label in each.labels} == {-1}


def test_memory_is_that_of_the_kept_images_only() -> None:
    summary = collect(num_images=2, num_positions=3)
    shapes = {k: tuple(v.shape) for k, v in vars(summary).items() if isinstance(v, Tensor)}
    assert shapes == {
        "indices": (4, 2),
        "labels": (4, 2),
        "peaks": (4, 2),
        "positions": (4, 3, 2),
        "maps": (4, 2, GRID, GRID),
        "class_activation": (4, 3),
        "share_fired": (4,),
        "position_mean": (4, 2),
        "position_covariance": (4, 2, 2),
    }


def test_uses_the_positions_that_the_model_gives(maps: np.ndarray) -> None:
    summary = collect(model=Pooled(positions=True))
    first = int(summary.indices[0, 0])
    np.testing.assert_allclose(summary.positions[0, 0], maps[first, 0, :2, 0])


def test_without_labels() -> None:
    summary = collect(dataset=Images(labels=False))
    assert summary.class_activation.shape == (4, 0)
    assert (summary.labels == -1).all()


def test_more_images_wanted_than_there_are() -> None:
    summary = collect(num_images=40)
    assert summary.indices.shape == (4, COUNT)
    assert sorted(summary.indices[0].tolist()) == list(range(COUNT))
    assert summary.positions.shape == (4, COUNT, 2)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_in_its_mode(training: bool) -> None:
    model = Pooled().train(training)
    collect(model=model)
    assert model.training is training


def test_half_precision_maps_are_summed_in_full_precision() -> None:
    class Half(Pooled):
        def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
            full = super().explain(batch, target)
            assert full.maps is not None
            return Explanation(scores=full.scores, target=full.target, maps=full.maps.bfloat16())

    summary = collect(model=Half())
    assert summary.peaks.dtype == torch.float32
    assert not summary.class_activation[0].isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_agrees_on_cuda() -> None:
    cpu, cuda = collect(), collect(device="cuda")
    assert cuda.indices.equal(cpu.indices)
    torch.testing.assert_close(cuda.maps, cpu.maps)
    torch.testing.assert_close(cuda.position_mean, cpu.position_mean, equal_nan=True)


def test_refuses_a_shuffled_loader() -> None:
    loader = DataLoader(Images(), 4, shuffle=True, collate_fn=collate)
    with pytest.raises(ValueError, match=r"in the order of the data set.*shuffle=False"):
        collect_units(Pooled(), loader, mean=MEAN, std=STD)


def test_refuses_an_empty_loader() -> None:
    empty = torch.utils.data.Subset(Images(), [])
    with pytest.raises(ValueError, match="no images"):
        collect_units(Pooled(), DataLoader(empty, 4), mean=MEAN, std=STD)


@pytest.mark.parametrize("name", ["num_images", "num_positions"])
def test_refuses_numbers_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        collect(**{name: 0})


def test_names_the_unit_and_image_that_are_not_finite() -> None:
    class Diverged(Pooled):
        def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
            explanation = super().explain(batch, target)
            assert explanation.maps is not None
            if len(batch["image"]) == 3:  # the last batch: images 20 to 22
                explanation.maps[1, 2, 0, 0] = math.nan
            return explanation

    with pytest.raises(ValueError, match="unit 2 is not finite on image 21"):
        collect(model=Diverged())


def test_refuses_a_model_without_maps() -> None:
    class Mute(Pooled):
        def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
            zero = torch.zeros(len(batch["image"]), 1)
            return Explanation(scores=zero, target=zero[:, 0].long())

    with pytest.raises(ValueError, match="no maps"):
        collect(model=Mute())


def test_denormalise_clamps_and_repeats_a_grey_channel() -> None:
    image = torch.tensor([[[-9.0, 0.0], [0.5, 9.0]]])
    pixels = denormalise(image, [0.5], [0.5])
    assert pixels.shape == (2, 2, 3)
    assert pixels[..., 0].tolist() == [[0, 128], [191, 255]]
    assert pixels[..., 2].equal(pixels[..., 0])


@pytest.mark.parametrize("channels", [2, 4])
def test_denormalise_refuses_other_channels(channels: int) -> None:
    with pytest.raises(ValueError, match=f"got {channels} channels"):
        denormalise(torch.zeros(channels, 4, 4), [0.0] * channels, [1.0] * channels)
