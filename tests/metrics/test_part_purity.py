import math
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import PartPurity, part_purity
from pellucid.part_names import merge_sides
from tests.metrics.boxes import rows

SIZE = (40, 50)
NAMES = ("left eye", "beak", "right eye", "tail")
MERGED = ("left eye / right eye", "beak", "tail")
GROUPS = [0, 1, 0, 2]
PATCH = 0.3


def images(count: int = 23, units: int = 4, seed: int = 0) -> dict[str, Any]:
    """Maps of few different values, so that ties abound; one unit is dead; some show nothing."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-2, 5, (count, units, 4, 5), generator=generator).float() * 0.3
    maps[:, 1] = 0.0
    parts = torch.rand(count, 4, 2, generator=generator) * torch.tensor([50.0, 40.0])
    # The beak is where the first unit responds most.
    cell = maps[:, 0].flatten(1).argmax(1)
    shake = 4 * torch.randn(count, 2, generator=generator)
    parts[:, 1] = torch.stack((cell % 5, cell // 5), 1) * 10 + 4.5 + shake
    visible = torch.rand(count, 4, generator=generator) < 0.6
    visible[5::6] = False
    parts[~visible] = torch.nan
    return {
        "maps": maps,
        "parts": parts,
        "part_visible": visible,
        "image_size": SIZE,
        "index": torch.arange(count),
    }


def brute_force(
    data: dict[str, Any], top_k: int, patch: float, groups: list[int], count_hidden: bool = False
) -> list[list[float]]:
    """The definition in loops, for each unit and group of parts."""
    height, width = data["image_size"]
    half = patch * width / 2, patch * height / 2
    maps, parts = data["maps"].tolist(), data["parts"].tolist()
    table = []
    for unit in range(len(maps[0])):
        strongest = []
        for image in range(len(maps)):
            grid = maps[image][unit]
            cells = [(v, -i, -j) for i, r in enumerate(grid) for j, v in enumerate(r)]
            peak, row, column = max(cells)
            stride_x, stride_y = width / len(grid[0]), height / len(grid)
            x, y = (-column + 0.5) * stride_x - 0.5, (-row + 0.5) * stride_y - 0.5
            # A patch is all inside the image, whose pixels cover -0.5 to width - 0.5.
            x = min(max(x, half[0] - 0.5), width - 0.5 - half[0])
            y = min(max(y, half[1] - 0.5), height - 0.5 - half[1])
            strongest.append((-peak, int(data["index"][image]), image, x, y))
        line = []
        for group in range(max(groups) + 1):
            hits, shown = 0, 0
            for _, _, image, x, y in sorted(strongest)[:top_k]:
                seen = [
                    abs(parts[image][p][0] - x) <= half[0]
                    and abs(parts[image][p][1] - y) <= half[1]
                    for p in range(len(groups))
                    if groups[p] == group and data["part_visible"][image, p]
                ]
                hits += any(seen)
                shown += bool(seen) or count_hidden
            line.append(hits / shown if shown else math.nan)
        table.append(line)
    return table


def mean_of_best(table: list[list[float]]) -> float:
    return sum(max([s for s in line if s == s], default=0.0) for line in table) / len(table)


def metric_of(*batches: dict[str, Any], **options: Any) -> PartPurity:
    metric = PartPurity(batches[0]["maps"].shape[1], NAMES, **({"patch": PATCH} | options))
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("top_k", [1, 5, 10, 100])
@pytest.mark.parametrize("count_hidden", [False, True])
def test_against_loops(top_k, count_hidden) -> None:
    data = images()
    expected = brute_force(data, top_k, PATCH, GROUPS, count_hidden)
    metric = metric_of(data, top_k=top_k, count_hidden=count_hidden)
    table = torch.tensor(expected)[:, GROUPS]
    torch.testing.assert_close(metric.per_unit(), table, equal_nan=True)
    assert float(metric.compute()) == pytest.approx(mean_of_best(expected))
    value = part_purity(**data, top_k=top_k, patch=PATCH, groups=GROUPS, count_hidden=count_hidden)
    assert torch.equal(value, metric.compute())
    # Else nothing would be tested.
    assert 0 < float(value) < 1


def test_every_landmark_can_be_a_part_of_its_own() -> None:
    data = images()
    expected = torch.tensor(brute_force(data, 5, PATCH, [0, 1, 2, 3]))
    metric = metric_of(data, top_k=5, merge={})
    assert metric.merged_names == NAMES
    torch.testing.assert_close(metric.per_unit(), expected, equal_nan=True)
    assert torch.equal(part_purity(**data, top_k=5, patch=PATCH), metric.compute())


def test_landmarks_can_be_merged_by_name() -> None:
    data = images()
    metric = metric_of(data, merge={"beak": "head", "left eye": "head", "right eye": "head"})
    assert metric.merged_names == ("head", "tail")
    expected = torch.tensor(brute_force(data, 10, PATCH, [0, 0, 0, 1]))[:, [0, 0, 0, 1]]
    torch.testing.assert_close(metric.per_unit(), expected, equal_nan=True)


def test_sides_are_merged_where_both_are_parts() -> None:
    assert metric_of(images()).merged_names == MERGED
    names = ["Left_Eye", "bright spot", "right_eye", "left wing", "crown"]
    pair = "Left_Eye / right_eye"
    assert merge_sides(names) == {"Left_Eye": pair, "right_eye": pair}
    assert merge_sides([]) == {}


def one_unit(maps: Tensor, parts: list[list[float]], **options: Any) -> float:
    visible = torch.ones(len(maps), 1, dtype=torch.bool)
    return float(
        part_purity(maps, torch.tensor(parts).unsqueeze(1), visible, (224, 224), **options)
    )


def test_published_patch_by_hand() -> None:
    maps = torch.zeros(4, 1, 7, 7)
    maps[:, 0, 3, 3] = 1.0
    # The patch reaches 16 pixels from (111.5, 111.5), the centre of the middle cell.
    parts = [[127.5, 95.5], [127.6, 111.5], [111.5, 111.5], [111.5, 95.4]]
    assert one_unit(maps, parts) == 0.5
    # Twice as large, it has all.
    assert one_unit(maps, parts, patch=64 / 224) == 1.0


def test_a_patch_at_the_edge_is_moved_inwards() -> None:
    maps = torch.zeros(1, 1, 28, 28)
    maps[0, 0, 0, 27] = 1.0
    # The cell's centre is at (219.5, 3.5); the patch covers x 191.5 to 223.5 and y -0.5 to 31.5.
    assert one_unit(maps, [[191.5, 31.5]]) == 1.0
    assert one_unit(maps, [[191.4, 31.5]]) == 0.0
    assert one_unit(maps, [[191.5, 31.6]]) == 0.0


def test_a_part_seen_once_can_make_a_unit_pure_unless_hidden_ones_count() -> None:
    maps = torch.zeros(4, 1, 7, 7)
    maps[:, 0, 3, 3] = 1.0
    parts = torch.full((4, 1, 2), 111.5)
    visible = torch.tensor([[True], [False], [False], [False]])
    assert float(part_purity(maps, parts, visible, (224, 224))) == 1.0
    assert float(part_purity(maps, parts, visible, (224, 224), count_hidden=True)) == 0.25


def test_a_unit_whose_images_show_no_part_is_not_pure() -> None:
    maps = torch.zeros(4, 2, 7, 7)
    maps[:, :, 3, 3] = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]])
    parts = torch.full((4, 1, 2), 111.5)
    visible = torch.tensor([[True], [True], [False], [False]])
    metric = PartPurity(2, ["head"], top_k=2)
    metric.update(maps, parts, visible, (224, 224))
    assert metric.per_unit()[0].isnan()
    assert metric.per_unit()[1] == 1.0
    assert float(metric.compute()) == 0.5


def test_grid() -> None:
    data = images()
    torch.testing.assert_close(
        metric_of(data | {"grid": (10, 4.5)}).per_unit(), metric_of(data).per_unit(), equal_nan=True
    )
    moved = metric_of(data | {"grid": (10, 0.0)})
    assert float(moved.compute()) != float(metric_of(data).compute())
    value = part_purity(**data, patch=PATCH, groups=GROUPS, grid=(10, 0.0))
    assert torch.equal(value, moved.compute())


@pytest.mark.parametrize("size", [1, 4, 22])
def test_neither_batches_nor_order_matter(size) -> None:
    data = images()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    metric = metric_of(*(rows(data, part) for part in order.split(size)))
    expected = metric_of(data)
    torch.testing.assert_close(
        metric.per_unit(), expected.per_unit(), rtol=0, atol=0, equal_nan=True
    )
    assert torch.equal(metric.compute(), expected.compute())


def test_an_image_counts_once_if_it_has_an_index() -> None:
    data = images()
    again = rows(data, torch.tensor([3, 3, 7]))
    expected = metric_of(data).per_unit()
    torch.testing.assert_close(metric_of(data, again).per_unit(), expected, equal_nan=True)
    data["index"] = again["index"] = None
    twice = {k: torch.cat((data[k], again[k])) for k in ("maps", "parts", "part_visible")}
    twice |= {"image_size": SIZE, "index": torch.arange(26)}
    table = torch.tensor(brute_force(twice, 10, PATCH, GROUPS))[:, GROUPS]
    torch.testing.assert_close(metric_of(data, again).per_unit(), table, equal_nan=True)


def test_no_image_and_no_part_give_nan_without_a_warning() -> None:
    data = images()
    assert PartPurity(4, NAMES).compute().isnan()
    for chosen in (slice(0), slice(5, 6)):
        assert metric_of(rows(data, chosen)).compute().isnan()
        assert part_purity(**rows(data, chosen)).isnan()


def test_reset_pickle_forward_and_a_state_that_does_not_grow() -> None:
    data = images()
    metric = metric_of(data)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    metric.update(**images(100, seed=1))
    held = sum(v.numel() * v.element_size() for k, v in metric.metric_state.items() if k != "count")
    assert held == (12 + 4 * 3) * 4 * 10
    with torch.inference_mode():
        metric.reset()
        assert torch.equal(
            metric(**rows(data, slice(5))), metric_of(rows(data, slice(5))).compute()
        )
    metric.update(**rows(data, slice(5, None)))
    assert torch.equal(metric.compute(), expected)


def on_one_of_two(first: list[int], second: list[int]) -> tuple[Tensor, Tensor]:
    data = images()
    metric = PartPurity(4, NAMES, patch=PATCH)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    return metric.compute(), metric.per_unit()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (list(range(0, 23, 2)), list(range(1, 23, 2))),
        ([], list(range(23))),
        # A distributed sampler repeats images to fill its last batch.
        ([*range(0, 23, 2), 0, 2], [*range(1, 23, 2), 0]),
    ],
    ids=["alternating", "one is idle", "padded"],
)
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = metric_of(images())
    for value, per_unit in run_on_two(on_one_of_two, first, second):
        assert torch.equal(value, expected.compute())
        torch.testing.assert_close(per_unit, expected.per_unit(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(23, 3, 4, 5)}, r"maps must have shape \(any, 4, any, any\)"),
        ({"parts": torch.zeros(23, 2, 2)}, r"parts must have shape \(23, 4, 2\)"),
        ({"part_visible": torch.ones(23, 2) > 0}, r"part_visible must have shape \(23, 4\)"),
        ({"index": torch.arange(22)}, r"index must have shape \(23\)"),
        ({"index": torch.arange(23) - 1}, r"index must be from 0 to 2\*\*30 - 1, got -1"),
        ({"maps": torch.full((23, 4, 4, 5), torch.nan)}, "unit 0 has the activation nan"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(images(), images() | changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"part_names": ()}, "leave PartPurity out"),
        ({"top_k": 0}, "top_k must be at least 1, got 0; usual is 10"),
        ({"patch": 32}, "patch must be above 0 and at most 1, got 32: it is a share"),
        ({"merge": {"wing": "body"}}, "merge must map names of left eye, .*, tail, got 'wing'"),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PartPurity(**({"num_units": 4, "part_names": NAMES} | options))
    if {"top_k", "patch"} & options.keys():
        with pytest.raises(ValueError, match=message):
            part_purity(**images(), **options)


def test_wrong_groups() -> None:
    with pytest.raises(ValueError, match=r"groups must hold a number for each of the 4 parts"):
        part_purity(**images(), groups=[0, 1])
    with pytest.raises(ValueError, match=r"parts must have shape \(23, any, 2\), got \(23,\)"):
        part_purity(**(images() | {"parts": torch.zeros(23)}))


def test_plot_has_a_row_for_each_merged_part() -> None:
    metric = metric_of(images())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MERGED)
    assert "10 strongest patches" in axes.get_xlabel()
    mean = float(metric.per_unit()[:, 1].nanmean())
    assert f"mean {mean:.3f}" in [text.get_text() for text in axes.texts]
    PartPurity(4, NAMES).plot()[0].canvas.draw()
