import math
import pickle
import statistics
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import LocationInstability, location_instability, peak_positions

SIZE = (40, 60)
NAMES = ("head", "leg", "tail")


def images(count: int = 23, units: int = 4, seed: int = 0) -> dict[str, Any]:
    """Maps of few different values, so that ties abound; one unit is dead."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-2, 5, (count, units, 4, 5), generator=generator).float() * 0.3
    maps[:, 1] = 0.0
    parts = torch.rand(count, 3, 2, generator=generator) * 40
    visible = torch.rand(count, 3, generator=generator) < 0.7
    parts[~visible] = torch.nan
    return {
        "maps": maps,
        "parts": parts,
        "part_visible": visible,
        "image_size": SIZE,
        "index": torch.arange(count),
    }


def rows(data: dict[str, Any], chosen: Any) -> dict[str, Any]:
    return {k: v[chosen] if isinstance(v, Tensor) else v for k, v in data.items()}


def brute_force(data: dict[str, Any], top_k: int) -> list[list[float]]:
    """The definition in loops, for each unit and part."""
    maps, parts = data["maps"].tolist(), data["parts"].tolist()
    height, width = data["image_size"]
    table = []
    for unit in range(len(maps[0])):
        line = []
        for part in range(len(parts[0])):
            found = []
            for image in range(len(maps)):
                if not data["part_visible"][image, part]:
                    continue
                grid = maps[image][unit]
                cells = [(v, -i, -j) for i, r in enumerate(grid) for j, v in enumerate(r)]
                peak, row, column = max(cells)
                x = (-column + 0.5) * width / len(grid[0]) - 0.5
                y = (-row + 0.5) * height / len(grid) - 0.5
                distance = math.dist((x, y), parts[image][part]) / math.hypot(width, height)
                found.append((-peak, int(data["index"][image]), distance))
            distances = [d for _, _, d in sorted(found)[:top_k]]
            line.append(statistics.stdev(distances) if len(distances) > 1 else math.nan)
        table.append(line)
    return table


def mean_of_means(table: list[list[float]]) -> float:
    means = []
    for line in table:
        real = [d for d in line if d == d]
        if real:
            means.append(sum(real) / len(real))
    return sum(means) / len(means)


def metric_of(*batches: dict[str, Any], top_k: int = 100) -> LocationInstability:
    metric = LocationInstability(batches[0]["maps"].shape[1], NAMES, top_k)
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("top_k", [2, 5, 100])
def test_against_loops(top_k) -> None:
    data = images()
    expected = brute_force(data, top_k)
    metric = metric_of(data, top_k=top_k)
    torch.testing.assert_close(metric.per_unit(), torch.tensor(expected))
    assert float(metric.compute()) == pytest.approx(mean_of_means(expected), rel=1e-5)
    assert float(location_instability(**data, top_k=top_k)) == pytest.approx(
        mean_of_means(expected), rel=1e-5
    )


def test_peak_is_the_centre_of_its_cell() -> None:
    maps = torch.zeros(1, 2, 4, 6)
    maps[0, 0, 0, 0] = 1.0
    maps[0, 1, 3, 2] = 2.0
    peak, position = peak_positions(maps, (40, 60))
    assert peak.tolist() == [[1.0, 2.0]]
    # Cells of 10 x 10 pixels: the first covers pixels 0 to 9.
    assert position.tolist() == [[[4.5, 4.5], [24.5, 34.5]]]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((16, 0.0), [[0.0, 0.0], [32.0, 48.0]]),  # ResNet
        ((16.0, 15.0), [[15.0, 15.0], [47.0, 63.0]]),  # AlexNet
        ((8, 2.5), [[2.5, 2.5], [18.5, 26.5]]),
    ],
)
def test_peak_is_the_centre_of_its_receptive_field(grid, expected) -> None:
    maps = torch.zeros(1, 2, 4, 6)
    maps[0, 0, 0, 0] = 1.0
    maps[0, 1, 3, 2] = 2.0
    # Wherever the cells are, the image's size has no say.
    for size in ((40, 60), (64, 96)):
        peak, position = peak_positions(maps, size, grid)
        assert peak.tolist() == [[1.0, 2.0]]
        assert position.tolist() == [expected]
        assert position.dtype == torch.float32
    tiles = peak_positions(maps, (64, 96))[1]
    torch.testing.assert_close(peak_positions(maps, (64, 96), (16, 7.5))[1], tiles)


def one_part(maps: Tensor, places: list[list[float]], **more: Any) -> LocationInstability:
    metric = LocationInstability(maps.shape[1], ["head"])
    visible = torch.ones(len(maps), 1, dtype=torch.bool)
    metric.update(maps, torch.tensor(places).unsqueeze(1), visible, (30, 40), **more)
    return metric


def test_a_unit_that_stays_on_its_part_has_none() -> None:
    maps = torch.zeros(4, 1, 3, 4)
    places = []
    for image, (row, column) in enumerate([(0, 0), (2, 3), (1, 2), (2, 0)]):
        maps[image, 0, row, column] = 1.0 + image
        places.append([10.0 * column + 4.5, 10.0 * row + 4.5])
    assert float(one_part(maps, places).compute()) == 0.0


def test_a_unit_in_the_corner_by_hand() -> None:
    maps = torch.zeros(2, 1, 3, 4)
    maps[..., 0, 0] = 1.0
    # The peak is at (4.5, 4.5), the diagonal is 50: distances 0.1 and 0.3, whose sample standard
    # deviation is 0.2 / sqrt(2).
    metric = one_part(maps, [[4.5, 9.5], [19.5, 4.5]])
    assert float(metric.compute()) == pytest.approx(0.2 / math.sqrt(2))


def test_a_unit_in_the_corner_of_a_grid_by_hand() -> None:
    maps = torch.zeros(2, 1, 3, 4)
    maps[..., 0, 0] = 1.0
    # The peak is at (0, 0): distances 0.1 and 0.4.
    metric = one_part(maps, [[0.0, 5.0], [12.0, 16.0]], grid=(10, 0.0))
    assert float(metric.compute()) == pytest.approx(0.3 / math.sqrt(2))
    torch.testing.assert_close(metric.top_positions(0), torch.tensor([[0.5 / 40, 0.5 / 30]] * 2))
    value = location_instability(
        maps,
        torch.tensor([[[0.0, 5.0]], [[12.0, 16.0]]]),
        torch.ones(2, 1, dtype=torch.bool),
        (30, 40),
        grid=(10, 0.0),
    )
    assert torch.equal(value, metric.compute())


def test_a_grid_that_tiles_the_image_changes_nothing() -> None:
    data = images()
    data["maps"] = data["maps"][..., :4]
    data["image_size"] = (40, 40)
    for function in (location_instability, lambda **given: metric_of(given).compute()):
        torch.testing.assert_close(function(**data, grid=(10, 4.5)), function(**data))
        assert float(function(**data, grid=(10, 0.0))) != float(function(**data))


def test_dead_units_are_counted() -> None:
    data = images()
    metric = metric_of(rows(data, slice(10)))
    assert metric.dead_units() == 1
    data["maps"][:, 2] = -0.5
    data["maps"][:, 3] = -0.0
    later = metric_of(data)
    assert later.dead_units() == 3
    # One response in one image is life, and counts though the unit was silent before.
    data["maps"][22, 3, 0, 0] = 1e-6
    data["part_visible"][22] = True
    data["parts"][22] = 0.0
    assert metric_of(rows(data, slice(10)), rows(data, slice(10, None))).dead_units() == 2
    # An image without a part tells nothing.
    data["part_visible"][22] = False
    assert metric_of(data).dead_units() == 3


def test_no_unit_is_dead_before_the_first_image() -> None:
    data = images()
    assert LocationInstability(4, NAMES).dead_units() == 0
    data["part_visible"][:] = False
    assert metric_of(data).dead_units() == 0


def test_only_the_strongest_images_count() -> None:
    maps = torch.zeros(3, 1, 3, 4)
    maps[:, 0, 0, 0] = torch.tensor([2.0, 1.0, 3.0])
    metric = LocationInstability(1, ["head"], top_k=2)
    parts = torch.tensor([[[4.5, 9.5]], [[30.0, 30.0]], [[19.5, 4.5]]])
    metric.update(maps, parts, torch.ones(3, 1, dtype=torch.bool), (30, 40))
    assert float(metric.compute()) == pytest.approx(0.2 / math.sqrt(2))


def test_negative_activations_rank_as_numbers_do() -> None:
    data = images()
    data["maps"] = -data["maps"].abs() - 0.1
    torch.testing.assert_close(
        metric_of(data, top_k=4).per_unit(), torch.tensor(brute_force(data, 4))
    )


@pytest.mark.parametrize("size", [1, 4, 22])
@pytest.mark.parametrize("shuffled", [False, True])
def test_neither_batches_nor_order_matter(size, shuffled) -> None:
    data = images()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    order = order if shuffled else torch.arange(23)
    metric = metric_of(*(rows(data, part) for part in order.split(size)), top_k=5)
    expected = metric_of(data, top_k=5)
    torch.testing.assert_close(
        metric.per_unit(), expected.per_unit(), rtol=0, atol=0, equal_nan=True
    )
    assert torch.equal(metric.compute(), expected.compute())


def test_an_image_counts_once() -> None:
    data = images()
    again = rows(data, torch.tensor([3, 3, 7]))
    # The other process may have rounded differently.
    again["maps"] = again["maps"] * (1 - 1e-6)
    for batches in ((data, again), (again, data)):
        torch.testing.assert_close(
            metric_of(*batches, top_k=5).per_unit(), metric_of(data, top_k=5).per_unit()
        )


def test_images_without_an_index_are_all_different() -> None:
    data = images()
    data["index"] = None
    metric = metric_of(data, data)
    twice = {k: torch.cat((v, v)) for k, v in data.items() if isinstance(v, Tensor)}
    twice |= {"image_size": SIZE, "index": torch.arange(46)}
    torch.testing.assert_close(metric.per_unit(), torch.tensor(brute_force(twice, 100)))


def test_pairs_with_fewer_than_two_images_are_left_out() -> None:
    data = images()
    data["part_visible"][:, 0] = False
    data["part_visible"][1:, 1] = False
    data["part_visible"][0, 1] = True
    data["parts"] = data["parts"].nan_to_num(5.0)
    metric = metric_of(data)
    assert metric.per_unit().isnan().tolist() == [[True, True, False]] * 4
    assert torch.equal(metric.compute(), metric.per_unit()[:, 2].mean())


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_give_nan_without_a_warning(count) -> None:
    data = rows(images(), slice(count))
    assert LocationInstability(4, NAMES).compute().isnan()
    assert metric_of(data).compute().isnan()
    assert location_instability(**data).isnan()


def test_half_precision_maps() -> None:
    data = images()
    data["maps"] = data["maps"].bfloat16()
    widened = data | {"maps": data["maps"].float()}
    assert torch.equal(metric_of(data).compute(), metric_of(widened).compute())
    assert metric_of(data).compute().dtype == torch.float32


def test_reset_pickle_and_forward() -> None:
    data = images()
    metric = metric_of(data)
    expected = metric.compute()
    copy = pickle.loads(pickle.dumps(metric))
    assert torch.equal(copy.compute(), expected)
    metric.reset()
    assert metric.compute().isnan()
    first, second = rows(data, slice(10)), rows(data, slice(10, None))
    assert torch.equal(metric(**first), metric_of(first).compute())
    assert torch.equal(metric(**second), metric_of(second).compute())
    assert torch.equal(metric.compute(), expected)


def test_the_state_does_not_grow() -> None:
    metric = metric_of(images(), top_k=7)
    sizes = {k: v.shape for k, v in metric.metric_state.items()}
    metric.update(**images(200, seed=1))
    assert {k: v.shape for k, v in metric.metric_state.items()} == sizes
    assert sizes["scores"] == (4, 4, 7)


def test_inference_mode_leaves_a_usable_state() -> None:
    data = images()
    metric = metric_of(data)
    with torch.inference_mode():
        metric.reset()
        metric.update(**rows(data, slice(10)))
    metric.update(**rows(data, slice(10, None)))
    assert torch.equal(metric.compute(), metric_of(data).compute())


def on_one_of_two(first: list[int], second: list[int], with_index: bool) -> tuple[Tensor, ...]:
    """Batches of three on each process; no image on a process without numbers."""
    data = images()
    metric = LocationInstability(4, NAMES, top_k=5)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            batch = rows(data, part)
            metric.update(**(batch if with_index else batch | {"index": None}))
    before = metric.scores.clone()
    value = metric.compute()
    assert torch.equal(metric.scores, before)
    assert metric.dead_units() == 1
    return value, metric.per_unit(), metric.top_positions(0)


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (list(range(0, 23, 2)), list(range(1, 23, 2))),
        (list(range(4)), list(range(22, 3, -1))),
        ([], list(range(23))),
        # A distributed sampler repeats images to fill its last batch.
        ([*range(0, 23, 2), 0, 2], [*range(1, 23, 2), 0]),
    ],
    ids=["alternating", "uneven", "one is idle", "padded"],
)
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = metric_of(images(), top_k=5)
    for value, per_unit, positions in run_on_two(on_one_of_two, first, second, True):
        assert torch.equal(value, expected.compute())
        torch.testing.assert_close(per_unit, expected.per_unit(), rtol=0, atol=0)
        assert torch.equal(positions, expected.top_positions(0))


@pytest.mark.ddp
def test_two_processes_without_an_index_count_every_image(run_on_two) -> None:
    answers = run_on_two(on_one_of_two, [0, 1, 2], [3, 4], False)
    # Interleaved by rank, which decides between equal peaks.
    data = rows(images(), torch.tensor([0, 3, 1, 4, 2])) | {"index": torch.arange(5)}
    for value, per_unit, _ in answers:
        assert torch.equal(value, metric_of(data, top_k=5).compute())
        torch.testing.assert_close(per_unit, torch.tensor(brute_force(data, 5)), equal_nan=True)


def changed(**changes: Any) -> dict[str, Any]:
    return images() | changes


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (changed(maps=torch.zeros(23, 3, 4, 5)), r"maps must have shape \(any, 4, any, any\)"),
        (changed(parts=torch.zeros(23, 2, 2)), r"parts must have shape \(23, 3, 2\)"),
        (changed(part_visible=torch.ones(23, 2) > 0), r"part_visible must have shape \(23, 3\)"),
        (changed(index=torch.arange(22)), r"index must have shape \(23\)"),
        (changed(index=torch.arange(23) - 1), r"index must be from 0 to 2\*\*30 - 1, got -1 to 21"),
        (changed(maps=torch.zeros(23, 4, 4, 5).long()), "maps must be floating point"),
    ],
)
def test_wrong_batches(batch, message) -> None:
    metric = LocationInstability(4, NAMES)
    with pytest.raises(ValueError, match=message):
        metric.update(**batch)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_activation_that_is_not_finite_names_its_unit(value) -> None:
    data = images()
    data["maps"][7, 2, 1, 1] = value
    with pytest.raises(ValueError, match=f"unit 2 has the activation {value}"):
        metric_of(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, NAMES), "num_units must be at least 1, got 0"),
        ((4, ()), "leave LocationInstability out"),
        ((4, NAMES, 1), "top_k must be at least 2, got 1"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        LocationInstability(*arguments)


def test_top_positions_are_shares_of_the_image_strongest_first() -> None:
    maps = torch.zeros(3, 1, 3, 4)
    maps[0, 0, 0, 0], maps[1, 0, 2, 3], maps[2, 0, 1, 1] = 1.0, 3.0, 2.0
    metric = LocationInstability(1, ["head", "leg"])
    visible = torch.tensor([[True, False], [True, True], [False, False]])
    metric.update(maps, torch.zeros(3, 2, 2), visible, (30, 40))
    torch.testing.assert_close(
        metric.top_positions(0), torch.tensor([[3.5 / 4, 2.5 / 3], [0.5 / 4, 0.5 / 3]])
    )
    torch.testing.assert_close(metric.top_positions(0, "leg"), torch.tensor([[3.5 / 4, 2.5 / 3]]))
    with pytest.raises(ValueError, match="unit must be from 0 to 0, got 1"):
        metric.top_positions(1)
    with pytest.raises(ValueError, match="part must be one of head, leg, got 'wing'"):
        metric.top_positions(0, "wing")


def test_plot_shows_every_unit_and_the_means() -> None:
    metric = metric_of(images())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert "share of the image diagonal" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    dots = axes.collections[0].get_offsets()[:, 0]
    torch.testing.assert_close(torch.tensor(dots.data).float(), metric.per_unit()[:, 0])
    mean = float(metric.per_unit()[:, 2].mean())
    assert f"mean {mean:.3f}" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    "image", [None, torch.rand(3, 30, 40), torch.zeros(1, 60, 80, dtype=torch.uint8)]
)
def test_plot_unit_draws_mean_and_spread_to_scale(image) -> None:
    maps = torch.zeros(4, 1, 3, 4)
    for number, (row, column) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        maps[number, 0, row, column] = 1.0
    figure, axes = one_part(maps, [[1.0, 2.0]] * 4).plot_unit(0, image)
    figure.canvas.draw()
    height, width = (1, 1) if image is None else image.shape[1:]
    assert axes.get_xlim() == (0, width)
    assert axes.get_ylim() == (height, 0)
    (cross,) = axes.lines
    assert cross.get_xdata()[0] == pytest.approx(width / 2)
    assert cross.get_ydata()[0] == pytest.approx(height / 2)
    # x is 1/8 or 7/8 of the width twice each, y is 1/6 or 5/6 of the height; the sample standard
    # deviation of -a, -a, a, a is a sqrt(4/3).
    one, two = axes.patches
    sigmas = [width * 3 / 8 * math.sqrt(4 / 3), height / 3 * math.sqrt(4 / 3)]
    assert [one.width, one.height] == pytest.approx([2 * sigma for sigma in sigmas])
    assert [two.width, two.height] == pytest.approx([4 * sigma for sigma in sigmas])
    assert math.sin(math.radians(one.angle)) == pytest.approx(0, abs=1e-6)
    assert "unit 0: peaks in its 4 strongest images" in axes.get_title()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["mean", "1 sigma", "2 sigma"]


def test_plots_of_a_metric_that_has_seen_nothing() -> None:
    metric = LocationInstability(4, NAMES)
    metric.plot()[0].canvas.draw()
    metric.plot_unit(3)[0].canvas.draw()


def test_an_image_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image must have shape .* got \(4, 8, 8\)"):
        metric_of(images()).plot_unit(0, torch.zeros(4, 8, 8))
