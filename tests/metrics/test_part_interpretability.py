import math
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import PartInterpretability, part_interpretability
from pellucid.metrics.mask_grid import masks_on_grid

NAMES = ("head", "tail")
QUANTILE = 0.1


def images(count: int = 13, units: int = 5, size: int = 12, seed: int = 0) -> dict[str, Any]:
    """Smooth random maps of very different scales, one of them dead, and random rectangles."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, units, 4, 4, generator=generator).relu()
    # Not powers of two: the share of positions below each candidate would be that of the first.
    maps = maps * torch.tensor([1.0, 3.1e-6, 2.7e6, 0.0, 13.0][:units]).view(-1, 1, 1)
    masks = torch.zeros(count, 2, size, size, dtype=torch.bool)
    corners = torch.randint(0, size, (count, 2, 4), generator=generator)
    for image in range(count):
        for part in range(2):
            top, bottom, left, right = corners[image, part].tolist()
            masks[image, part, min(top, bottom) : max(top, bottom)] = True
            masks[image, part, :, : min(left, right)] = False
            masks[image, part, :, max(left, right) :] = False
    visible = torch.rand(count, 2, generator=generator) < 0.8
    return {"maps": maps, "part_masks": masks, "part_visible": visible}


def rows(data: dict[str, Any], chosen: Any) -> dict[str, Any]:
    return {k: v[chosen] for k, v in data.items()}


def enlarge(grid: list[list[float]], size: int) -> list[list[float]]:
    """Bilinear, the centres of the corner cells not being those of the corner pixels."""

    def weights(pixel: int, cells: int) -> tuple[int, int, float]:
        place = min(max((pixel + 0.5) * cells / size - 0.5, 0.0), cells - 1)
        low = min(int(place), cells - 2)
        return low, low + 1, place - low

    large = []
    for i in range(size):
        top, bottom, down = weights(i, len(grid))
        line = []
        for j in range(size):
            left, right, across = weights(j, len(grid[0]))
            upper = grid[top][left] * (1 - across) + grid[top][right] * across
            lower = grid[bottom][left] * (1 - across) + grid[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        large.append(line)
    return large


def exact_threshold(values: list[float], quantile: float) -> float:
    """The least value that at most a share ``quantile`` of the values is above."""
    return min(v for v in values if sum(w > v for w in values) <= quantile * len(values) + 1e-9)


CANDIDATES = [0.0, *((1 + m / 64) * 2.0**e for e in range(-24, 24) for m in range(64))]


def enclosing(values: list[float], quantile: float) -> tuple[float, float, float]:
    """Candidates above and below the exact threshold, and the way from the first to the second."""
    exact = exact_threshold(values, quantile)
    upper = min(c for c in CANDIDATES[1:] if c >= exact)
    lower = max(c for c in CANDIDATES if c < upper)
    if not lower:
        return upper, upper, 0.0
    more, fewer = (sum(v > c for v in values) for c in (lower, upper))
    allowed = math.floor(quantile * len(values) + 1e-9)
    return upper, lower, (allowed + 1 - fewer) / (more - fewer + 1)


def between(ends: list[tuple[float, float, float]], data: dict[str, Any], iou: float) -> Tensor:
    """Hit rates on the way from the upper thresholds to the lower ones."""
    upper, lower = (
        torch.tensor(brute_force(data, [end[side] for end in ends], iou)) for side in (0, 1)
    )
    return upper + (lower - upper) * torch.tensor([end[2] for end in ends]).unsqueeze(1)


def brute_force(
    data: dict[str, Any], thresholds: list[float], iou_threshold: float = 0.2
) -> list[list[float]]:
    """The definition in loops: hit rate of each unit and part at full resolution."""
    maps, masks = data["maps"].tolist(), data["part_masks"].tolist()
    table = []
    for unit, threshold in enumerate(thresholds):
        line = []
        for part in range(len(masks[0])):
            hits = shown = 0
            for image in range(len(maps)):
                mask = masks[image][part]
                if not data["part_visible"][image, part] or not any(map(any, mask)):
                    continue
                shown += 1
                both = either = 0
                large = enlarge(maps[image][unit], len(mask))
                for values, inside in zip(large, mask, strict=True):
                    for value, is_inside in zip(values, inside, strict=True):
                        both += value > threshold and is_inside
                        either += value > threshold or is_inside
                hits += both / either > iou_threshold
            line.append(hits / shown if shown else math.nan)
        table.append(line)
    return table


def exact_thresholds(data: dict[str, Any], quantile: float = QUANTILE) -> list[float]:
    by_unit = data["maps"].transpose(0, 1).flatten(1).tolist()
    return [exact_threshold(values, quantile) for values in by_unit]


def mean_of_best(table: list[list[float]]) -> float:
    return sum(max(rate for rate in line if rate == rate) for line in table) / len(table)


def metric_of(*batches: dict[str, Any], **options: Any) -> PartInterpretability:
    options = {"quantile": QUANTILE, "resolution": None} | options
    metric = PartInterpretability(batches[0]["maps"].shape[1], NAMES, **options)
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("quantile", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("iou_threshold", [0.0, 0.2, 0.5])
def test_metric_against_loops(quantile, iou_threshold) -> None:
    data = images()
    metric = metric_of(data, quantile=quantile, iou_threshold=iou_threshold)
    ends = [enclosing(v, quantile) for v in data["maps"].transpose(0, 1).flatten(1).tolist()]
    expected = between(ends, data, iou_threshold)
    thresholds = [upper + (lower - upper) * way for upper, lower, way in ends]
    assert metric.thresholds().tolist() == pytest.approx(thresholds, rel=1e-6)
    torch.testing.assert_close(metric.per_unit(), expected)
    assert float(metric.compute()) == pytest.approx(mean_of_best(expected.tolist()))
    # A random table that is not trivial: some hits and some misses.
    if iou_threshold < 0.5 and quantile > 0.1:
        assert 0 < float(metric.compute()) < 1


@pytest.mark.parametrize("quantile", [0.02, 0.1, 0.3])
def test_function_against_loops(quantile) -> None:
    data = images()
    expected = brute_force(data, exact_thresholds(data, quantile))
    value = part_interpretability(**data, quantile=quantile, resolution=None)
    assert float(value) == pytest.approx(mean_of_best(expected))


def test_threshold_is_within_a_sixty_fourth_of_the_exact_one() -> None:
    data = images(40)
    ratio = metric_of(data).thresholds() / torch.tensor(exact_thresholds(data))
    alive = torch.tensor([0, 1, 2, 4])
    assert (ratio[alive] >= 1 - 1 / 64).all()
    assert (ratio[alive] <= 1 + 1 / 64).all()


@pytest.mark.parametrize("scale", [1.0, 1.015, 1.03, 1.045])
@pytest.mark.parametrize(("spread", "error"), [(0.1, 0.05), (0.2, 0.02), (0.5, 0.02)])
def test_the_figure_is_close_to_the_exact_one(scale, spread, error) -> None:
    """Smooth maps whose peaks are nearly equal, with parts about the peaks."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 1, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size=(14, 14), mode="bicubic")
    smooth = (smooth / smooth.amax((2, 3), keepdim=True) - 0.05).relu()
    masks = torch.zeros(300, 2, 56, 56, dtype=torch.bool)
    for image, cell in enumerate(smooth.flatten(1).argmax(1).tolist()):
        y, x = (4 * place + 2 for place in divmod(cell, 14))
        for part, radius in enumerate((2, 4)):
            rows_, columns = (slice(max(0, c - radius), c + radius + 1) for c in (y, x))
            masks[image, part, rows_, columns] = True
    peaks = 1 + spread * torch.rand(300, 8, 1, 1, generator=generator)
    maps = smooth * peaks * scale
    data = {"maps": maps, "part_masks": masks, "part_visible": torch.ones(300, 2) > 0}
    exact = float(part_interpretability(**data))
    assert exact > 0.15
    assert float(metric_of(data, quantile=0.005, resolution=56).compute()) == pytest.approx(
        exact, rel=error
    )


def test_metric_and_function_agree_on_many_images() -> None:
    data = images(300, size=40)
    for resolution in (None, 16):
        options: dict[str, Any] = {"quantile": 0.3, "resolution": resolution}
        once, twice = metric_of(data, **options).compute(), part_interpretability(**data, **options)
        assert float(once) == pytest.approx(float(twice), abs=0.03)
        assert 0.1 < float(once) < 0.9


def test_a_unit_on_its_part_by_hand() -> None:
    """Unit 0 lights the head's quarter in three of four images, unit 1 the tail's in one."""
    maps = torch.zeros(4, 2, 4, 4)
    maps[:3, 0, :2, :2] = 3.3
    maps[3, 0, 2:, 2:] = 3.3
    maps[0, 1, 2:, 2:] = 7.7
    maps[1:, 1, :2, 2:] = 7.7
    masks = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
    masks[:, 0, :4, :4] = True
    masks[:, 1, 4:, 4:] = True
    data = {"maps": maps, "part_masks": masks, "part_visible": torch.ones(4, 2) > 0}
    # A quarter of positions is lit: 0.3 leaves every lit one above the threshold.
    metric = metric_of(data, quantile=0.3)
    assert metric.thresholds().tolist() == [2.0**-24] * 2
    # Above zero after upsampling is more than the quarter: 36 of 64 pixels hold the mask's 16 in
    # images that light it, IoU 16/36; an opposite quarter is still met in 4 pixels, IoU 4/48.
    assert metric.per_unit().tolist() == [[0.75, 0.25], [0.0, 0.25]]
    assert float(metric.compute()) == pytest.approx(0.5)
    assert float(part_interpretability(**data, quantile=0.3, resolution=None)) == 0.5


def test_an_iou_equal_to_the_threshold_is_no_hit() -> None:
    maps = torch.zeros(1, 1, 2, 2)
    maps[0, 0, 0, 0] = 1.5
    masks = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    masks[0, 0] = True
    masks[0, 1, 0] = True
    data = {"maps": maps, "part_masks": masks, "part_visible": torch.ones(1, 2) > 0}
    for threshold, expected in ((0.25, [[0.0, 1.0]]), (0.24, [[1.0, 1.0]])):
        metric = metric_of(data, quantile=0.5, iou_threshold=threshold)
        assert metric.per_unit().tolist() == expected


def test_dead_units_never_hit() -> None:
    data = images()
    data["maps"] = -data["maps"] * 0  # minus zero, whose bits are not those of zero
    metric = metric_of(data)
    assert metric.per_unit().abs().max() == 0
    assert float(metric.compute()) == 0.0
    assert float(part_interpretability(**data)) == 0.0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scales_of_activations(scale) -> None:
    data = images(units=1)
    expected = metric_of(data)
    # A power of two moves values and candidates alike.
    scaled = metric_of(data | {"maps": data["maps"] * 2.0 ** round(math.log2(scale))})
    torch.testing.assert_close(scaled.per_unit(), expected.per_unit(), rtol=0, atol=0)


def test_parts_that_no_image_shows_are_left_out() -> None:
    data = images()
    data["part_visible"][:, 0] = False
    metric = metric_of(data)
    assert metric.per_unit()[:, 0].isnan().all()
    assert torch.equal(metric.compute(), metric.per_unit()[:, 1].mean())
    data["part_masks"][:] = False
    assert metric_of(data).compute().isnan()
    assert part_interpretability(**data).isnan()


def test_no_image_gives_nan_without_a_warning() -> None:
    metric = PartInterpretability(5, NAMES)
    assert metric.compute().isnan()
    assert metric.thresholds().isnan().all()
    assert metric_of(rows(images(), slice(0))).compute().isnan()
    assert part_interpretability(**rows(images(), slice(0))).isnan()


@pytest.mark.parametrize("size", [1, 4, 12])
@pytest.mark.parametrize("resolution", [None, 7])
def test_neither_batches_nor_order_matter(size, resolution) -> None:
    data = images()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    expected = metric_of(data, resolution=resolution)
    metric = metric_of(*(rows(data, part) for part in order.split(size)), resolution=resolution)
    assert torch.equal(metric.per_unit(), expected.per_unit())
    assert torch.equal(metric.thresholds(), expected.thresholds())
    assert torch.equal(metric.compute(), expected.compute())


def test_large_batches_are_counted_in_chunks() -> None:
    data = images(11, size=128)
    data["maps"] = data["maps"].repeat(1, 4, 1, 1)
    once = metric_of(data)
    assert torch.equal(once.per_unit(), metric_of(*(rows(data, [i]) for i in range(11))).per_unit())
    small = rows(data, slice(3)) | {"maps": data["maps"][:3, :5]}
    ends = [enclosing(v, QUANTILE) for v in small["maps"].transpose(0, 1).flatten(1).tolist()]
    torch.testing.assert_close(metric_of(small).per_unit(), between(ends, small, 0.2))


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (7, 5)])
@pytest.mark.parametrize("resolution", [None, 5, 6, 13])
def test_masks_on_a_grid_against_loops(shape, resolution) -> None:
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(2, 3, *shape, generator=generator) < 0.5
    masks[0, 0] = False
    masks[0, 1] = False
    masks[0, 1, 3, 2] = True
    visible = torch.tensor([[True, True, True], [True, False, True]])
    small, shown = masks_on_grid(masks, visible, resolution)
    assert shown.tolist() == [[False, True, True], [True, False, True]]
    scale = min(1, (resolution or 99) / max(shape))
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    assert small.shape == (2, 3, height, width)
    assert not small[~shown].any()
    for image, part in shown.nonzero().tolist():
        cover = [[0.0] * width for _ in range(height)]
        # Each pixel in 84 x 84 tiny squares, whose cells are known by their centres.
        fine = 84
        ys = [int((i + 0.5) / fine * height / shape[0]) for i in range(shape[0] * fine)]
        xs = [int((j + 0.5) / fine * width / shape[1]) for j in range(shape[1] * fine)]
        tall = [
            [ys[y * fine : y * fine + fine].count(i) for i in range(height)]
            for y in range(shape[0])
        ]
        wide = [
            [xs[x * fine : x * fine + fine].count(j) for j in range(width)] for x in range(shape[1])
        ]
        cell = (shape[0] * fine / height) * (shape[1] * fine / width)
        for y, x in masks[image, part].nonzero().tolist():
            for i in range(height):
                for j in range(width):
                    cover[i][j] += tall[y][i] * wide[x][j] / cell
        most = max(max(line) for line in cover)
        for i in range(height):
            for j in range(width):
                if abs(cover[i][j] - min(0.5, most)) > 0.02 or cover[i][j] == most:
                    expected = cover[i][j] >= min(0.5, most) - 1e-6
                    assert bool(small[image, part, i, j]) == expected
        assert small[image, part].any()


def test_resolution_changes_little_and_none_of_a_small_image() -> None:
    data = images(200, size=48)
    full = metric_of(data)
    assert torch.equal(metric_of(data, resolution=48).per_unit(), full.per_unit())
    assert torch.equal(metric_of(data, resolution=100).per_unit(), full.per_unit())
    coarse = metric_of(data, resolution=16)
    assert (coarse.per_unit() - full.per_unit()).abs().max() < 0.05


def test_mixed_precision_does_not_count_worse() -> None:
    data = images(40, size=50)
    expected = metric_of(data, resolution=17), part_interpretability(**data, resolution=None)
    with torch.autocast("cpu", torch.bfloat16):
        metric = metric_of(data, resolution=17)
        assert torch.equal(metric.per_unit(), expected[0].per_unit())
        assert torch.equal(part_interpretability(**data, resolution=None), expected[1])
    half = data | {"maps": data["maps"].bfloat16()}
    assert torch.equal(
        metric_of(half).compute(), metric_of(data | {"maps": half["maps"].float()}).compute()
    )


def test_reset_pickle_and_forward() -> None:
    data = images()
    metric = metric_of(data)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    metric.reset()
    assert metric.compute().isnan()
    first, second = rows(data, slice(5)), rows(data, slice(5, None))
    assert torch.equal(metric(**first), metric_of(first).compute())
    assert torch.equal(metric(**second), metric_of(second).compute())
    assert torch.equal(metric.compute(), expected)


def test_the_state_does_not_grow() -> None:
    metric = metric_of(images())
    sizes = {k: v.shape for k, v in metric.metric_state.items()}
    metric.update(**images(50, seed=1))
    assert {k: v.shape for k, v in metric.metric_state.items()} == sizes
    stated = 24584 * 5 + 12288 * 5 * 2
    held = sum(v.numel() * v.element_size() for v in metric.metric_state.values())
    assert held == pytest.approx(stated, rel=0.01)


def test_inference_mode_leaves_a_usable_state() -> None:
    data = images()
    metric = metric_of(data)
    with torch.inference_mode():
        metric.reset()
        metric.update(**rows(data, slice(5)))
    metric.update(**rows(data, slice(5, None)))
    assert torch.equal(metric.compute(), metric_of(data).compute())


def on_one_of_two(first: list[int], second: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    data = images()
    metric = PartInterpretability(5, NAMES, quantile=QUANTILE)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    before = metric.changes.clone()
    value = metric.compute()
    assert torch.equal(metric.changes, before)
    return value, metric.per_unit(), metric.thresholds()


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
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = metric_of(images())
    for value, per_unit, thresholds in run_on_two(on_one_of_two, first, second):
        assert torch.equal(value, expected.compute())
        assert torch.equal(per_unit, expected.per_unit())
        assert torch.equal(thresholds, expected.thresholds())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(13, 3, 4, 4)}, r"maps must have shape \(any, 5, any, any\)"),
        ({"part_masks": torch.ones(13, 3, 12, 12) > 0}, r"part_masks must have shape \(13, 2,"),
        ({"part_visible": torch.ones(13, 3) > 0}, r"part_visible must have shape \(13, 2\)"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    metric = PartInterpretability(5, NAMES)
    with pytest.raises(ValueError, match=message):
        metric.update(**(images() | changes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.25, 3e7])
def test_an_activation_out_of_range_names_its_unit(value) -> None:
    data = images()
    data["maps"][7, 2, 1, 1] = value
    message = f"unit 2 has the activation {value:g}".replace("+", r"\+")
    with pytest.raises(ValueError, match=message):
        metric_of(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"part_names": ()}, "leave PartInterpretability out"),
        ({"quantile": 0.0}, "quantile must be between 0 and 1, got 0.0"),
        ({"quantile": 1.0}, "quantile must be between 0 and 1, got 1.0"),
        ({"iou_threshold": 1.0}, "iou_threshold must be from 0 to below 1, got 1.0"),
        ({"resolution": 0}, "resolution must be at least 1 or null, got 0"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        PartInterpretability(**({"num_units": 4, "part_names": NAMES} | arguments))


def test_plot_shows_every_unit_and_the_means() -> None:
    metric = metric_of(images(), quantile=0.3)
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert "share of images" in axes.get_xlabel()
    assert "IoU > 0.2" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    mean = float(metric.per_unit()[:, 1].mean())
    assert f"mean {mean:.3f}" in [text.get_text() for text in axes.texts]


def test_plot_unit_shows_rates_and_where_the_unit_fires() -> None:
    data = images(size=24)
    metric = metric_of(data, quantile=0.3)
    figure, axes = metric.plot_unit(4)
    figure.canvas.draw()
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(metric.per_unit()[4].tolist())
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert "share of images" in axes.get_xlabel()

    unit_map, image = data["maps"][0, 4], torch.rand(3, 24, 24)
    figure, axes = metric.plot_unit(4, image, unit_map, data["part_masks"][0])
    figure.canvas.draw()
    picture, shade = figure.axes[0].images
    assert picture.get_array().shape == (24, 24, 3)
    fires = torch.tensor(enlarge(unit_map.tolist(), 24)) > metric.thresholds()[4]
    assert torch.equal(torch.tensor(shade.get_array()[..., 3]) == 0, fires)
    assert "unit 4 fires above" in figure.get_suptitle()


def test_plots_of_a_metric_that_has_seen_nothing() -> None:
    metric = PartInterpretability(4, NAMES)
    metric.plot()[0].canvas.draw()
    figure, axes = metric.plot_unit(3, torch.zeros(3, 8, 8))
    figure.canvas.draw()
    assert [text.get_text() for text in axes.texts] == ["never shown"] * 2


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("quantile", [0.02, 0.1])
def test_passing_over_what_cannot_matter_changes_no_figure(scale, quantile) -> None:
    generator = torch.Generator().manual_seed(7)
    maps = torch.rand(60, 6, 8, 8, generator=generator).pow(3) * scale
    maps[:, 1] *= torch.tensor([1000.0, 1.0]).repeat(30).view(-1, 1, 1)
    maps[:, 2] = (maps[:, 2] - 0.9 * scale).relu()
    maps[:, 3] = 0.0
    maps[:, 4] = (maps[:, 4] * 8 / scale).round() * scale  # Many equal values.
    masks = torch.zeros(60, 2, 32, 32, dtype=torch.bool)
    masks[:, 0, 4:14, 6:20], masks[:, 1, 20:, 20:] = True, True
    visible = torch.rand(60, 2, generator=generator) > 0.2
    known, unknown = (
        PartInterpretability(6, ("head", "tail"), quantile, 0.02, num_images=number)
        for number in (60, None)
    )
    sparse = 0
    for part in torch.arange(60).split(11):
        for metric in (known, unknown):
            metric.update(maps[part], masks[part], visible[part])
        sparse += known._lowest(64) is not None
    assert sparse
    assert torch.equal(known.compute(), unknown.compute())
    assert torch.equal(known.per_unit(), unknown.per_unit())
    assert 0 < float(known.compute()) < 1


def test_more_images_than_said_are_refused() -> None:
    metric = PartInterpretability(1, ("head",), num_images=3)
    batch = torch.rand(2, 1, 4, 4), torch.ones(2, 1, 4, 4).bool(), torch.ones(2, 1).bool()
    metric.update(*batch)
    with pytest.raises(ValueError, match="num_images is 3, but more were seen"):
        metric.update(*batch)
    with pytest.raises(ValueError, match="num_images must be at least 1 or null, got 0"):
        PartInterpretability(1, ("head",), num_images=0)


def test_a_peak_between_the_pixels_of_the_masks_is_no_hit() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[:, :, 4, 4] = 1.0
    masks = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    metric = PartInterpretability(2, ["head"], resolution=2, num_images=1)
    metric.update(maps, masks, torch.ones(1, 1, dtype=torch.bool))
    assert metric.compute() == 0
