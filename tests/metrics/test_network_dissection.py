import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics import (
    NetworkDissection,
    bright_values,
    concept_pixels,
    network_dissection,
)
from pellucid.metrics.bright_values import tiles_of, values_above
from pellucid.metrics.concept_pixels import concepts_by_pixel, regions_of
from pellucid.metrics.streaming_quantile import LevelGrid

CONCEPTS = ("head", "tail", "fur", "red", "blue")
CATEGORIES = ("part", "part", "material", "colour", "colour")
ORDER = ("part", "material", "colour")
QUANTILE = 0.1


def images(count: int = 13, units: int = 5, size: int = 12, cells: int = 4) -> dict[str, Any]:
    """Maps of very different scales, one dead, one of both signs and one negative; rectangles."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, units, cells, cells, generator=generator)
    maps[:, :3].relu_()
    # Not powers of two: the share of positions below each candidate would be that of the first.
    maps = maps * torch.tensor([1.0, 6.1e3, 0.0, 3.3e-3, 13.0, 2.0][:units]).view(-1, 1, 1)
    maps[:, 4:5] = -maps[:, 4:5].abs() - 0.4
    masks = torch.zeros(count, len(CONCEPTS), size, size, dtype=torch.bool)
    corners = torch.randint(0, size, (count, len(CONCEPTS), 4), generator=generator)
    for image in range(count):
        for concept in range(len(CONCEPTS)):
            top, bottom, left, right = corners[image, concept].tolist()
            masks[image, concept, min(top, bottom) : max(top, bottom)] = True
            masks[image, concept, :, : min(left, right)] = False
            masks[image, concept, :, max(left, right) :] = False
    return {
        "maps": maps,
        "masks": masks,
        "visible": torch.rand(count, len(CONCEPTS), generator=generator) < 0.8,
        "annotated": torch.rand(count, len(ORDER), generator=generator) < 0.7,
    }


def smooth(count: int, units: int = 8, size: int = 24) -> dict[str, Any]:
    """Positive maps on a blob each, whose strength differs from image to image, and its discs."""
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(count, units, 2, 1, 1, generator=generator)
    strength = 1 + 0.3 * torch.randn(count, units, 1, 1, generator=generator)
    axis = (torch.arange(size) + 0.5) / size
    square = (axis - places[:, :, 0]) ** 2 + (axis.view(-1, 1) - places[:, :, 1]) ** 2
    maps = strength.clamp(min=0.1) * torch.exp(-square / 0.02)
    return {"maps": maps[..., 1::3, 1::3].clone(), "masks": square[:, :5] < 0.005}


def rows(data: dict[str, Any], chosen: Any) -> dict[str, Any]:
    return {k: v[chosen] for k, v in data.items()}


def enlarge(grid: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, the centres of the corner cells not being those of the corner pixels."""

    def weights(pixel: int, pixels: int, cells: int) -> tuple[int, int, float]:
        place = min(max((pixel + 0.5) * cells / pixels - 0.5, 0.0), cells - 1)
        low = min(int(place), max(cells - 2, 0))
        return low, min(low + 1, cells - 1), place - low

    large = []
    for i in range(height):
        top, bottom, down = weights(i, height, len(grid))
        line = []
        for j in range(width):
            left, right, across = weights(j, width, len(grid[0]))
            upper = grid[top][left] * (1 - across) + grid[top][right] * across
            lower = grid[bottom][left] * (1 - across) + grid[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        large.append(line)
    return large


def exact_threshold(values: list[float], quantile: float) -> float:
    """The least value that at most a share ``quantile`` of the values is above."""
    return min(v for v in values if sum(w > v for w in values) <= quantile * len(values) + 1e-9)


def areas(data: dict[str, Any], thresholds: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in loops.

    Pixels in both, pixels on which a unit fires in annotated images, pixels of concepts.
    """
    masks = data["masks"].tolist()
    height, width = data["masks"].shape[-2:]
    both = [[0] * len(CONCEPTS) for _ in thresholds]
    fired, area = [[0] * len(CONCEPTS) for _ in thresholds], [0] * len(CONCEPTS)
    for image, maps in enumerate(data["maps"].tolist()):
        lit = [
            [value > threshold for line in enlarge(grid, height, width) for value in line]
            for grid, threshold in zip(maps, thresholds, strict=True)
        ]
        for concept, category in enumerate(CATEGORIES):
            if "annotated" in data and not data["annotated"][image, ORDER.index(category)]:
                continue
            seen = "visible" not in data or bool(data["visible"][image, concept])
            mask = [seen and pixel for line in masks[image][concept] for pixel in line]
            area[concept] += sum(mask)
            for unit, pixels in enumerate(lit):
                fired[unit][concept] += sum(pixels)
                both[unit][concept] += sum(a and b for a, b in zip(pixels, mask, strict=True))
    counts = [torch.tensor(x, dtype=torch.float64) for x in (both, fired, area)]
    return counts[0], counts[1], counts[2]


def ious(data: dict[str, Any], thresholds: list[float]) -> Tensor:
    both, fired, area = areas(data, thresholds)
    return (both / (fired + area - both)).float()


def by_unit(data: dict[str, Any]) -> list[list[float]]:
    return data["maps"].transpose(0, 1).flatten(1).tolist()


def metric_of(*batches: dict[str, Any], **options: Any) -> NetworkDissection:
    options = {"quantile": QUANTILE, "resolution": None, "categories": CATEGORIES} | options
    metric = NetworkDissection(batches[0]["maps"].shape[1], CONCEPTS, **options)
    for batch in batches:
        metric.update(**batch)
    return metric


def figures(metric: NetworkDissection) -> list[Tensor]:
    return [
        metric.compute(),
        metric.iou(),
        *metric.bounds(),
        metric.thresholds(),
        metric.detectors(),
    ]


def assert_same(metric: NetworkDissection, expected: NetworkDissection) -> None:
    for got, wanted in zip(figures(metric), figures(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


POSITIVE = [(1 + m / 16) * 2.0**e for e in range(-16, 16) for m in range(16)] + [2.0**16]
# Negative ones are one float nearer to zero.
NEGATIVE = [float(torch.nextafter(torch.tensor(-c), torch.tensor(0.0))) for c in POSITIVE]
GRID = sorted([*POSITIVE, 0.0, *NEGATIVE], reverse=True)


def enclosing(values: list[float], quantile: float) -> tuple[float, float, float]:
    """Candidates above and below the exact threshold, and the way from the first to the second."""
    exact = exact_threshold(values, quantile)
    upper = min(c for c in GRID if c >= exact)
    if not upper:
        return 0.0, 0.0, 0.0
    lower = max(c for c in GRID if c < exact)
    more, fewer = (sum(v > c for v in values) for c in (lower, upper))
    allowed = math.floor(quantile * len(values) + 1e-9)
    return upper, lower, (allowed + 1 - fewer) / (more - fewer + 1)


@pytest.mark.parametrize("left_out", [(), ("visible",), ("annotated",), ("visible", "annotated")])
def test_the_function_against_loops(left_out) -> None:
    data = {k: v for k, v in images().items() if k not in left_out}
    got = network_dissection(**data, categories=CATEGORIES, quantile=QUANTILE, resolution=None)
    expected = ious(data, [exact_threshold(values, QUANTILE) for values in by_unit(data)])
    assert (expected > 0.04).any()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("quantile", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("num_images", [None, 13, 60])
def test_the_metric_against_loops(quantile, num_images) -> None:
    data = images()
    batches = [rows(data, slice(start, start + 3)) for start in range(0, 13, 3)]
    metric = metric_of(*batches, quantile=quantile, num_images=num_images)
    ends = [enclosing(values, quantile) for values in by_unit(data)]
    way = torch.tensor([end[2] for end in ends], dtype=torch.float64).unsqueeze(1)
    high, low = (areas(data, [end[side] for end in ends]) for side in (0, 1))
    both, fired, area = (torch.lerp(a, b, way) for a, b in zip(high, low, strict=True))
    expected = (both / (fired + area - both)).float()
    torch.testing.assert_close(metric.iou(), expected, rtol=1e-6, atol=0)
    thresholds = [upper + (lower - upper) * part for upper, lower, part in ends]
    assert metric.thresholds().tolist() == pytest.approx(thresholds, rel=1e-6)
    # Whatever the threshold between the two is, as the exact one.
    exact = [exact_threshold(values, quantile) for values in by_unit(data)]
    least, greatest = metric.bounds()
    assert (least <= ious(data, exact) + 1e-7).all()
    assert (ious(data, exact) <= greatest + 1e-7).all()
    for part in (0.0, 0.3, 0.7, 1.0):
        between = ious(data, [upper + (lower - upper) * part for upper, lower, _ in ends])
        assert (least <= between + 1e-7).all()
        assert (between <= greatest + 1e-7).all()


@pytest.mark.parametrize("cells", [(12, 12), (9, 17), (1, 3), (24, 24)])
def test_maps_of_any_size(cells) -> None:
    data = images(4)
    generator = torch.Generator().manual_seed(3)
    data["maps"] = torch.randn(4, 2, *cells, generator=generator)
    exact = [exact_threshold(values, QUANTILE) for values in by_unit(data)]
    function = network_dissection(**data, categories=CATEGORIES, quantile=QUANTILE, resolution=None)
    torch.testing.assert_close(function, ious(data, exact), rtol=1e-6, atol=0)
    least, greatest = metric_of(data).bounds()
    assert (least <= function + 1e-7).all()
    assert (function <= greatest + 1e-7).all()
    assert (greatest - least).max() < 0.2


def test_the_stated_error_on_smooth_maps() -> None:
    data = smooth(1500)
    options = {"quantile": 0.02, "resolution": None}
    exact = network_dissection(**data, **options)
    metric = metric_of(data, categories=None, num_images=1500, **options)
    own = torch.arange(5), torch.arange(5)  # the others meet by chance
    assert (exact[own] > 0.1).all()
    assert (metric.iou()[own] / exact[own] - 1).abs().max() < 0.01
    assert (metric.iou() - exact).abs().max() < 0.003
    least, greatest = metric.bounds()
    assert ((greatest - least) / exact)[own].max() < 0.2
    coarse = metric_of(data, categories=None, steps=1, **options)
    assert (coarse.bounds()[0] <= exact).all()
    assert (exact <= coarse.bounds()[1]).all()
    assert ((coarse.bounds()[1] - coarse.bounds()[0])[own] > (greatest - least)[own]).all()


def test_detectors_by_hand() -> None:
    """Two units on the head, one on red, one on nothing: two unique detectors."""
    masks = torch.zeros(4, 5, 8, 8, dtype=torch.bool)
    masks[:, 0, :2, :2] = True
    masks[:, 1, :2] = True
    masks[:3, 3, 4:6, 4:] = True
    maps = torch.zeros(4, 4, 8, 8)
    maps[:, 0] = masks[:, 0] * 1.3
    maps[:3, 1] = masks[:3, 0] * 2.6
    maps[:, 2, 4:6, 4:] = 7.7
    maps[0, 3, 0, 7] = 1.0
    annotated = torch.tensor([[True, True, True]] * 3 + [[True, True, False]])
    data = {"maps": maps, "masks": masks, "annotated": annotated}
    # A quarter of positions is above no unit's zero, so that all units fire where they are lit.
    metric = metric_of(data, quantile=0.25)
    assert metric.thresholds().tolist() == [0.0] * 4
    nan = math.nan
    expected = [
        [1.0, 0.25, nan, 0.0, nan],
        [0.75, 0.1875, nan, 0.0, nan],
        # Red is not annotated in the last image, so what fires there is not held against it.
        [0.0, 0.0, nan, 1.0, nan],
        [0.0, 1 / 64, nan, 0.0, nan],
    ]
    torch.testing.assert_close(metric.iou(), torch.tensor(expected), equal_nan=True)
    for bound in metric.bounds():
        torch.testing.assert_close(bound, metric.iou(), equal_nan=True, rtol=0, atol=0)
    function = network_dissection(**data, categories=CATEGORIES, quantile=0.25, resolution=None)
    torch.testing.assert_close(function, metric.iou(), equal_nan=True)
    assert metric.detectors().tolist() == [0, 0, 3, -1]
    assert metric.unique_detectors() == {"part": 1, "material": 0, "colour": 1}
    assert float(metric.compute()) == 2.0
    # An IoU that equals the limit is none.
    assert metric_of(data, quantile=0.25, iou_threshold=0.75).detectors().tolist() == [0, -1, 3, -1]
    assert metric_of(data, quantile=0.25, iou_threshold=0.01).detectors().tolist() == [0, 0, 3, 1]
    data["annotated"] = torch.ones(4, 3) > 0
    assert float(metric_of(data, quantile=0.25).iou()[2, 3]) == 0.75


def test_a_unit_of_one_value_never_fires_and_a_plateau_is_within_the_bounds() -> None:
    data = images(units=3)
    # Interpolation in single precision gives some of these a last bit more.
    data["maps"][:, 0] = 5.9
    data["maps"][:, 1] = -0.1
    data["maps"][:, 2] = torch.randn(13, 4, 4, generator=torch.Generator().manual_seed(2)).clamp(
        max=0.7
    )
    exact = network_dissection(**data, categories=CATEGORIES, quantile=QUANTILE, resolution=None)
    assert exact.tolist() == [[0.0] * 5] * 3
    metric = metric_of(data)
    assert (metric.bounds()[0] == 0).all()
    # A value between two candidates leaves open whether the unit fires; a candidate does not.
    assert (metric.bounds()[1][:2] > 0).all()
    data["maps"][:, 0] = 6.0
    data["maps"][:, 1] = 0.0
    data["maps"][:, 2].clamp_(max=0.5)
    for bound in metric_of(data).bounds()[:1]:
        assert (bound == 0).all()
    assert (metric_of(data).iou()[1] == 0).all()


def test_dead_units_detect_nothing() -> None:
    data = images()
    data["maps"] = -data["maps"] * 0  # minus zero, whose bits are not those of zero
    metric = metric_of(data)
    assert metric.iou().abs().max() == 0
    assert metric.detectors().tolist() == [-1] * 5
    assert float(metric.compute()) == 0.0


def test_concepts_that_no_image_shows_have_no_detector() -> None:
    data = images()
    data["visible"][:, 0] = False
    data["masks"][:, 1] = False
    data["annotated"][:, 2] = False
    metric = metric_of(data)
    assert metric.iou()[:, [0, 1, 3, 4]].isnan().all()
    assert metric.iou()[:, 2].isfinite().all()
    assert set(metric.detectors().tolist()) <= {-1, 2}
    function = network_dissection(**data, categories=CATEGORIES, quantile=QUANTILE, resolution=None)
    assert torch.equal(function.isnan(), metric.iou().isnan())
    data["masks"][:] = False
    assert metric_of(data).compute().isnan()


def test_no_image_gives_nan_without_a_warning() -> None:
    metric = NetworkDissection(5, CONCEPTS, CATEGORIES)
    assert metric.compute().isnan()
    assert metric.iou().isnan().all()
    assert metric.thresholds().isnan().all()
    assert metric.detectors().tolist() == [-1] * 5
    nothing = rows(images(), slice(0))
    assert metric_of(nothing).compute().isnan()
    assert network_dissection(**nothing, categories=CATEGORIES).isnan().all()


@pytest.mark.parametrize("size", [1, 4, 12])
@pytest.mark.parametrize("options", [{}, {"num_images": 13}, {"num_images": 400, "resolution": 7}])
def test_neither_batches_nor_order_matter(size, options) -> None:
    data = images()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    expected = metric_of(data, **options | {"num_images": None})
    batches = [rows(data, part) for part in order.split(size)]
    assert_same(metric_of(*batches, **options), expected)


@pytest.mark.parametrize("native", [True, False])
def test_what_is_passed_over_changes_nothing(native) -> None:
    data = smooth(120)
    if native:
        data["maps"] = F.interpolate(data["maps"], size=24, mode="bilinear")
    data["maps"][:, 1] -= 0.5
    data["maps"][:, 2] *= -1
    # Sorted, so that what comes first says least about what comes last.
    for order in (torch.arange(120), data["maps"].amax((1, 2, 3)).argsort(descending=True)):
        batches = [rows(data, part) for part in order.split(10)]
        options = {"categories": None, "quantile": 0.01}
        known = metric_of(*batches, **options, num_images=120)
        unknown = metric_of(*batches, **options)
        assert_same(known, unknown)
        # The negative unit is counted in full.
        few, many = (int(m.inside[:, [0, 3, 4]].sum()) for m in (known, unknown))
        assert few < 0.3 * many


def test_large_batches_are_counted_in_blocks(monkeypatch) -> None:
    data = images(9) | {"maps": images(9, cells=12)["maps"]}
    expected = [metric_of(data), metric_of(images(9))]
    monkeypatch.setattr(bright_values, "_BLOCK", 100)
    assert_same(metric_of(data, num_images=9), expected[0])
    assert_same(metric_of(images(9), num_images=9), expected[1])


def test_more_images_than_announced() -> None:
    data = images()
    metric = metric_of(rows(data, slice(8)), num_images=12)
    with pytest.raises(ValueError, match="num_images is 12, but more were seen"):
        metric.update(**rows(data, slice(8, None)))
    # A batch that was refused leaves no trace.
    assert_same(metric, metric_of(rows(data, slice(8))))
    metric.reset()
    metric.update(**rows(data, slice(12)))
    assert_same(metric, metric_of(rows(data, slice(12))))


def test_resolution_changes_little_and_none_of_a_small_image() -> None:
    data = smooth(300, size=48)
    options = {"categories": None, "quantile": 0.02}
    full = metric_of(data, **options)
    assert_same(metric_of(data, **options, resolution=48), full)
    assert_same(metric_of(data, **options, resolution=100), full)
    assert (metric_of(data, **options, resolution=16).iou() - full.iou()).abs().max() < 0.05


def test_mixed_precision_does_not_count_worse() -> None:
    data = images(40, size=50)
    options = {"categories": CATEGORIES, "quantile": QUANTILE, "resolution": 17}
    expected = metric_of(data, **options), network_dissection(**data, **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(metric_of(data, **options), expected[0])
        assert torch.equal(network_dissection(**data, **options), expected[1])
    half = data | {"maps": data["maps"].bfloat16()}
    assert_same(metric_of(half), metric_of(data | {"maps": half["maps"].float()}))


@pytest.mark.parametrize("overlap", [False, True])
def test_many_concepts_in_mixed_precision(overlap) -> None:
    # Numbers above 256 are not in half precision.
    names = [f"concept {number}" for number in range(700)]
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randint(700, (4, 1, 6, 6), generator=generator)
    masks = torch.zeros(4, 700, 6, 6, dtype=torch.bool).scatter_(1, chosen, True)
    if overlap:
        masks[1, 600:] = True
    maps = torch.rand(4, 2, 6, 6, generator=generator)
    metric = NetworkDissection(2, names, quantile=0.1, steps=64)
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(maps, masks)
    least, greatest = metric.bounds()
    exact = network_dissection(maps, masks, quantile=0.1)
    shown = masks.any((0, 2, 3))
    assert exact[:, shown].isfinite().all()
    assert (least[:, shown] <= exact[:, shown] + 1e-6).all()
    assert (exact[:, shown] <= greatest[:, shown] + 1e-6).all()
    assert metric.area.tolist() == masks.sum((0, 2, 3)).tolist()


def test_reset_pickle_and_forward() -> None:
    data = images()
    metric = metric_of(data)
    assert_same(pickle.loads(pickle.dumps(metric)), metric)
    assert_same(pickle.loads(pickle.dumps(NetworkDissection(5, CONCEPTS))), metric_of(images(0)))
    metric.reset()
    assert metric.compute().isnan()
    first, second = rows(data, slice(5)), rows(data, slice(5, None))
    assert torch.equal(metric(**first), metric_of(first).compute())
    assert torch.equal(metric(**second), metric_of(second).compute())
    assert_same(metric, metric_of(data))


def test_instances_do_not_share_their_counts() -> None:
    first, second = NetworkDissection(5, CONCEPTS, CATEGORIES), NetworkDissection(5, CONCEPTS)
    first.update(**images())
    assert second.compute().isnan()
    assert int(second.inside.sum()) == 0
    first.reset()
    assert int(first.inside.sum()) == 0


def test_the_state_does_not_grow() -> None:
    metric = metric_of(images())
    sizes = {k: v.shape for k, v in metric.metric_state.items()}
    metric.update(**images(50))
    assert {k: v.shape for k, v in metric.metric_state.items()} == sizes
    held = sum(v.numel() * v.element_size() for v in metric.metric_state.values())
    assert held == pytest.approx(8224 * 5 * (5 + 3 + 2), rel=0.01)


def test_inference_mode_leaves_a_usable_state() -> None:
    data = images()
    metric = metric_of(data)
    with torch.inference_mode():
        metric.reset()
        metric.update(**rows(data, slice(5)))
    metric.update(**rows(data, slice(5, None)))
    assert_same(metric, metric_of(data))


def on_one_of_two(first: list[int], second: list[int], num_images: int | None) -> list[Any]:
    data = images()
    metric = metric_of(rows(data, slice(0)), num_images=num_images)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    before = metric.inside.clone()
    found = figures(metric)
    assert torch.equal(metric.inside, before)
    return [*found, metric.unique_detectors()]


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (list(range(0, 13, 2)), list(range(1, 13, 2))),
        (list(range(4)), list(range(12, 3, -1))),
        ([], list(range(13))),
    ],
    ids=["alternating", "uneven", "one is idle"],
)
@pytest.mark.parametrize("num_images", [None, 13])
def test_two_processes_give_the_figures_of_one(run_on_two, first, second, num_images) -> None:
    expected = metric_of(images())
    for *found, by_category in run_on_two(on_one_of_two, first, second, num_images):
        for got, wanted in zip(found, figures(expected), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
        assert by_category == expected.unique_detectors()


def refused_on_two() -> str:
    # Each process keeps to the number, both together do not.
    metric = metric_of(rows(images(), slice(7)), num_images=10)
    with pytest.raises(ValueError, match="num_images is 10") as error:
        metric.compute()
    return str(error.value)


@pytest.mark.ddp
def test_more_images_than_announced_on_two_processes(run_on_two) -> None:
    assert all("give a greater one" in text for text in run_on_two(refused_on_two))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(13, 3, 4, 4)}, r"maps must have shape \(any, 5, any, any\)"),
        ({"masks": torch.ones(13, 3, 12, 12) > 0}, r"masks must have shape \(13, 5,"),
        ({"masks": torch.ones(13, 5, 12, 12)}, r"masks must be bool, got torch.float32"),
        ({"visible": torch.ones(13, 3) > 0}, r"visible must have shape \(13, 5\)"),
        ({"annotated": torch.ones(13, 5) > 0}, r"annotated must have shape \(13, 3\)"),
        ({"annotated": torch.ones(13, 3).long()}, r"annotated must be bool, got torch.int64"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    metric = NetworkDissection(5, CONCEPTS, CATEGORIES)
    with pytest.raises(ValueError, match=message):
        metric.update(**(images() | changes))
    # A batch that was refused leaves no trace.
    assert metric.iou().isnan().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 7e4, -7e4])
def test_an_activation_out_of_range_names_its_unit(value) -> None:
    data = images()
    data["maps"][7, 2, 1, 1] = value
    with pytest.raises(ValueError, match=f"unit 2 has the activation {value:g}"):
        metric_of(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"concepts": ()}, "leave NetworkDissection out"),
        ({"categories": ("part",)}, "one for each of 5 concepts, got 1"),
        ({"quantile": 0.0}, "quantile must be between 0 and 1, got 0.0"),
        ({"quantile": 1.0}, "quantile must be between 0 and 1, got 1.0"),
        ({"iou_threshold": 1.0}, "iou_threshold must be from 0 to below 1, got 1.0"),
        ({"iou_threshold": -0.1}, "iou_threshold must be from 0 to below 1, got -0.1"),
        ({"resolution": 0}, "resolution must be at least 1 or null, got 0"),
        ({"num_images": 0}, "num_images must be at least 1 or null, got 0"),
        ({"steps": 3}, "steps must be a power of two from 1 to 64, got 3"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkDissection(**({"num_units": 4, "concepts": CONCEPTS} | arguments))


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_levels_against_a_loop(steps) -> None:
    grid = LevelGrid(steps)
    candidates = grid.candidate(torch.arange(grid.size - 1)).tolist()
    positive = [(1 + m / steps) * 2.0**e for e in range(-16, 16) for m in range(steps)] + [2.0**16]
    assert candidates[: grid.zero + 1] == [*reversed(positive), 0.0]
    assert candidates[grid.zero + 1 :] == pytest.approx([-c for c in positive], rel=1e-6)
    assert all(high > low for high, low in pairwise(candidates))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, generator=generator) * 2.0 ** torch.randint(
        -20, 13, (200,), generator=generator
    )
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0**16, -(2.0**16), 1e-40, -1e-40, *candidates])
    values = torch.cat([values, edges[torch.randperm(len(edges), generator=generator)[:100]]])
    values = torch.cat([values, torch.tensor([0.0, -0.0, 2.0**16, -(2.0**16), 1e-40, -1e-40])])
    expected = [sum(c >= v for c in candidates) for v in values.tolist()]
    assert grid.levels(values).tolist() == expected


def test_concepts_by_pixel_against_a_loop() -> None:
    masks = torch.rand(3, 7, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    table, area = concepts_by_pixel(masks)
    assert area.tolist() == [int(masks[:, c].sum()) for c in range(7)]
    assert len(table) == int(masks.sum(1).max())
    for place in range(3 * 4 * 5):
        image, pixel = divmod(place, 20)
        found = [c for c in range(7) if masks[image, c, pixel // 5, pixel % 5]]
        assert table[:, place].tolist() == found + [7] * (len(table) - len(found))
    assert concepts_by_pixel(masks & False)[0].shape == (0, 60)


@pytest.mark.parametrize("codes", [4, 2**18])
def test_regions_against_a_loop(monkeypatch, codes) -> None:
    monkeypatch.setattr(concept_pixels, "_CODES", codes)
    masks = torch.rand(7, 60, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[2] = False
    region, member = regions_of(masks)
    columns = [tuple(column) for column in masks.T.tolist()]
    assert sorted(tuple(column) for column in member.T.tolist()) == sorted(set(columns))
    assert [tuple(member[:, number].tolist()) for number in region] == columns


@pytest.mark.parametrize(
    ("cells", "size"), [((5, 7), (12, 9)), ((4, 4), (32, 32)), ((9, 6), (5, 13)), ((1, 1), (3, 4))]
)
@pytest.mark.parametrize("block", [60, 2**19])
def test_high_values_between_cells_against_an_interpolated_map(
    monkeypatch, cells, size, block
) -> None:
    monkeypatch.setattr(bright_values, "_BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 4, *cells, generator=generator)
    floor = torch.tensor([0.5, -torch.inf, 9.0, 0.0])
    large = F.interpolate(maps, size=size, mode="bilinear").movedim(0, 1).flatten(1)
    found = torch.full_like(large, torch.nan)
    order = []
    for unit, pixel, value in values_above(maps, tiles_of(maps), floor, size):
        assert found[unit, pixel].isnan().all()
        found[unit, pixel] = value
        order += unit.tolist()
    assert order == sorted(order)
    wanted = large.where(large > floor.unsqueeze(1), torch.nan)
    torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("height", [3, 8, 19])
def test_high_values_of_maps_as_they_are(monkeypatch, height) -> None:
    monkeypatch.setattr(bright_values, "_BLOCK", 50)
    maps = torch.randn(3, 4, height, 5, generator=torch.Generator().manual_seed(2))
    floor = torch.tensor([0.5, -torch.inf, 9.0, 0.0])
    flat = maps.movedim(0, 1).flatten(1)
    found = list(values_above(maps, tiles_of(maps), floor, (height, 5)))
    unit, pixel, value = (torch.cat(some) for some in zip(*found, strict=True))
    assert torch.equal(flat[unit, pixel], value)
    keys = sorted(zip(unit.tolist(), pixel.tolist(), strict=True))
    assert keys == [tuple(place) for place in (flat > floor.unsqueeze(1)).nonzero().tolist()]
    # Cut from larger maps, they are not next to each other in memory.
    wide = torch.cat((maps, maps), 3)[..., :5]
    again = list(values_above(wide, tiles_of(wide), floor, (height, 5)))
    assert torch.equal(torch.cat([some[2] for some in again]), value)


def test_plot_shows_the_detected_concepts() -> None:
    metric = metric_of(images(), quantile=0.3)
    detectors = metric.detectors()
    found = sorted(set(detectors.tolist()) - {-1})
    assert found
    figure, axes = metric.plot()
    figure.canvas.draw()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(CONCEPTS[concept] for concept in found)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [int((detectors == CONCEPTS.index(name)).sum()) for name in names]
    assert widths == sorted(widths, reverse=True)
    assert "IoU above 0.04" in axes.get_xlabel()
    assert f"detect {len(found)} of 5 concepts" in axes.get_title()


def test_plot_of_a_metric_that_has_seen_nothing() -> None:
    figure, axes = NetworkDissection(4, CONCEPTS).plot()
    figure.canvas.draw()
    assert "no unit detects a concept" in [text.get_text() for text in axes.texts]
