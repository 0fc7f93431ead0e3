import math
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import PartConsistency, part_consistency
from tests.metrics.boxes import NAMES, images, own_category, presence, rows

BOX = 0.4


def brute_force(data: dict[str, Any], box: float) -> list[list[float]]:
    """The share of images with each part in each unit's box."""
    found = presence(data, data["maps"], box)
    counted = data.get("counted")
    table = []
    for unit in range(data["maps"].shape[1]):
        line = []
        for part in range(data["parts"].shape[1]):
            seen = [
                found[image][unit][part]
                for image in range(len(found))
                if found[image][unit][part] is not None
                and (counted is None or counted[image, unit])
            ]
            line.append(sum(seen) / len(seen) if seen else math.nan)
        table.append(line)
    return table


def score(table: list[list[float]], threshold: float) -> float:
    known = [line for line in table if any(s == s for s in line)]
    return sum(any(s >= threshold for s in line) for line in known) / len(known)


def metric_of(*batches: dict[str, Any], **options: Any) -> PartConsistency:
    options = {"box": BOX, "threshold": 0.5} | options
    metric = PartConsistency(batches[0]["maps"].shape[1], NAMES, **options)
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("box", [0.2, BOX, 1.0])
@pytest.mark.parametrize("by_category", [False, True])
def test_against_loops(box, by_category) -> None:
    data = images()
    if by_category:
        data["counted"] = torch.rand(13, 4, generator=torch.Generator().manual_seed(3)) < 0.5
        data["counted"][:, 3] = False
    expected = brute_force(data, box)
    for threshold in (0.1, 0.5, 1.0):
        metric = metric_of(data, box=box, threshold=threshold)
        torch.testing.assert_close(metric.per_unit(), torch.tensor(expected), equal_nan=True)
        value = score(expected, threshold)
        assert float(metric.compute()) == pytest.approx(value)
        assert float(part_consistency(**data, threshold=threshold, box=box)) == pytest.approx(value)


def test_the_data_tell_options_apart() -> None:
    data = images()
    values = {float(part_consistency(**data, threshold=t, box=BOX)) for t in (0.1, 0.5, 1.0)}
    assert len(values) == 3


def on_its_part(hits: int, count: int) -> dict[str, Any]:
    """One unit whose peak is in the middle of the image; the head is there in some images."""
    maps = torch.zeros(count, 1, 7, 7)
    maps[:, 0, 3, 3] = 1.0
    parts = torch.full((count, 3, 2), 5.0)
    # The published box reaches 36 of 224 pixels from the peak, which is at 111.
    parts[:hits, 0] = torch.tensor([147.0, 75.0])
    parts[hits:, 0] = torch.tensor([148.0, 111.0])
    visible = torch.ones(count, 3, dtype=torch.bool)
    return {"maps": maps, "parts": parts, "part_visible": visible, "image_size": (224, 224)}


@pytest.mark.parametrize(("hits", "expected"), [(11, 0.0), (12, 1.0), (15, 1.0)])
def test_published_box_and_threshold_by_hand(hits, expected) -> None:
    # Twelve of fifteen are 80 %, which 0.8 * 15 = 12.000000000000002 must not deny.
    metric = PartConsistency(1, NAMES)
    metric.update(**on_its_part(hits, 15))
    assert float(metric.compute()) == expected
    torch.testing.assert_close(metric.per_unit(), torch.tensor([[hits / 15, 0.0, 0.0]]))


def test_hidden_parts_neither_help_nor_harm() -> None:
    data = on_its_part(3, 15)
    data["part_visible"][3:, 0] = False
    data["parts"][3:, 0] = torch.nan
    metric = PartConsistency(1, NAMES)
    metric.update(**data)
    assert metric.per_unit()[0, 0] == 1.0
    assert metric.compute() == 1.0


def labelled() -> dict[str, Any]:
    """Units of different categories; the last category shows no part, and the third is empty."""
    data = images()
    data["label"] = torch.tensor([0, 1, 1, 0, 1, 3, 0, 0, 1, 1, 0, 1, 0])
    data["maps"][5] += 5.0
    data["maps"][:, 2] += 0.5 * data["label"].view(-1, 1, 1)
    return data


@pytest.mark.parametrize("size", [1, 4, 13])
def test_units_are_judged_on_their_own_category(size) -> None:
    data = labelled()
    metric = PartConsistency(4, NAMES, 0.5, BOX, num_classes=4)
    for part in torch.arange(13).split(size):
        metric.update(**rows(data, part))
    value = part_consistency(**data, threshold=0.5, box=BOX)
    data["counted"] = torch.tensor(own_category(data, data.pop("label").tolist()))
    # Else nothing would be tested.
    assert len(data["counted"].int().unique(dim=1)[0]) == 2
    torch.testing.assert_close(
        metric.per_unit(), torch.tensor(brute_force(data, BOX)), equal_nan=True
    )
    assert float(metric.compute()) == pytest.approx(score(brute_force(data, BOX), 0.5))
    assert float(value) == pytest.approx(score(brute_force(data, BOX), 0.5))


def test_wrong_labels() -> None:
    data = labelled()
    metric = PartConsistency(4, NAMES, 0.5, BOX, num_classes=4)
    for label, message in (
        (torch.arange(13), "label must be from 0 to 3, got 0 to 12"),
        (torch.zeros(12).long(), r"label must have shape \(13\), got \(12,\)"),
        (None, "label must be given because num_classes is"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(**(data | {"label": label}))
    with pytest.raises(ValueError, match="label needs num_classes: give it to PartConsistency"):
        metric_of(data)
    with pytest.raises(ValueError, match="label must be from 0"):
        part_consistency(**(data | {"label": data["label"] - 1}))
    with pytest.raises(ValueError, match="num_classes must be at least 1 or null, got 0"):
        PartConsistency(4, NAMES, 0.5, BOX, num_classes=0)


def test_grid() -> None:
    data = images() | {"image_size": (40, 50)}
    same = metric_of(data | {"grid": (10, 4.5)}).per_unit()
    assert torch.equal(same, metric_of(data).per_unit())
    assert not torch.equal(metric_of(data | {"grid": (10, 0.0)}).per_unit(), same)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_neither_batches_nor_order_matter(size) -> None:
    data = images()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    metric = metric_of(*(rows(data, part) for part in order.split(size)))
    assert torch.equal(metric.per_unit(), metric_of(data).per_unit())
    assert torch.equal(metric.compute(), metric_of(data).compute())


def test_no_image_and_no_part_give_nan_without_a_warning() -> None:
    data = images()
    assert PartConsistency(4, NAMES).compute().isnan()
    assert metric_of(rows(data, slice(0))).compute().isnan()
    assert metric_of(rows(data, slice(5, 6))).compute().isnan()
    assert part_consistency(**rows(data, slice(5, 6))).isnan()


def test_reset_pickle_forward_and_a_state_that_does_not_grow() -> None:
    data = images()
    metric = metric_of(data)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    assert (
        sum(v.numel() * v.element_size() for v in metric.metric_state.values())
        == 8 * 4 * 3 + 4 * 4 + 8
    )
    with torch.inference_mode():
        metric.reset()
        assert torch.equal(
            metric(**rows(data, slice(5))), metric_of(rows(data, slice(5))).compute()
        )
    metric.update(**rows(data, slice(5, None)))
    assert torch.equal(metric.compute(), expected)


def on_one_of_two(first: list[int], second: list[int]) -> tuple[Tensor, Tensor]:
    data = labelled()
    metric = PartConsistency(4, NAMES, 0.5, BOX, num_classes=4)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    return metric.compute(), metric.per_unit()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"), [([0, 2, 4, 6, 8], [1, 3, 5, 7, 9, 10, 11, 12]), ([], list(range(13)))]
)
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = metric_of(labelled(), num_classes=4)
    for value, per_unit in run_on_two(on_one_of_two, first, second):
        assert torch.equal(value, expected.compute())
        torch.testing.assert_close(per_unit, expected.per_unit(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(13, 3, 4, 5)}, r"maps must have shape \(any, 4, any, any\)"),
        ({"parts": torch.zeros(13, 2, 2)}, r"parts must have shape \(13, 3, 2\)"),
        ({"part_visible": torch.ones(13, 2) > 0}, r"part_visible must have shape \(13, 3\)"),
        ({"counted": torch.ones(13, 3) > 0}, r"counted must have shape \(13, 4\)"),
        ({"maps": torch.full((13, 4, 4, 5), torch.nan)}, "unit 0 has the activation nan"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(images(), images() | changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"part_names": ()}, "leave PartConsistency out"),
        ({"threshold": 0.0}, "threshold must be above 0 and at most 1, got 0.0; usual is 0.8"),
        ({"threshold": 1.1}, "threshold must be above 0 and at most 1, got 1.1"),
        ({"box": 72}, "box must be above 0 and at most 1, got 72: it is a share"),
        ({"box": 0.0}, "box must be above 0 and at most 1, got 0.0"),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        PartConsistency(**({"num_units": 4, "part_names": NAMES} | options))
    if {"threshold", "box"} & options.keys():
        with pytest.raises(ValueError, match=message):
            part_consistency(**images(), **options)


def test_plot() -> None:
    metric = metric_of(images())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert "consistent from 0.5 on" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert axes.lines[-1].get_xdata()[0] == 0.5
    PartConsistency(4, NAMES).plot()[0].canvas.draw()
