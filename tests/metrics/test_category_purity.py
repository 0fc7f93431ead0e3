import collections
import math
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import CategoryPurity, category_purity
from tests.metrics.boxes import rows


def images(count: int = 30, units: int = 5, seed: int = 0) -> dict[str, Any]:
    """Maps of few different values, so that ties abound.

    The second unit is dead, the third responds to three images only, the fourth to category 2.
    """
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-2, 5, (count, units, 3, 2), generator=generator).float() * 0.3
    label = torch.arange(count) * 3 // count
    maps[:, 1] = -0.7
    maps[:, 2] = 0.0
    maps[[4, 14, 25], 2, 1, 1] = 1.0
    maps[:, 3] += 2.0 * (label == 2)[:, None, None]
    return {"maps": maps, "label": label, "index": torch.arange(count)}


def brute_force(data: dict[str, Any], top_k: int) -> list[collections.Counter[int]]:
    """Categories of the strongest images of each unit."""
    found = []
    for unit in range(data["maps"].shape[1]):
        peaks = [float(m[unit].max()) for m in data["maps"]]
        ranked = sorted(zip([-p for p in peaks], data["index"].tolist(), strict=True))
        label = dict(zip(data["index"].tolist(), data["label"].tolist(), strict=True))
        strongest = [i for peak, i in ranked if -peak > min(peaks)][:top_k]
        found.append(collections.Counter(label[i] for i in strongest))
    return found


def purities(counters: list[collections.Counter[int]]) -> list[float]:
    return [max(c.values()) / sum(c.values()) if c else math.nan for c in counters]


def metric_of(*batches: dict[str, Any], top_k: int = 10) -> CategoryPurity:
    metric = CategoryPurity(batches[0]["maps"].shape[1], 3, top_k)
    for batch in batches:
        metric.update(**batch)
    return metric


@pytest.mark.parametrize("top_k", [1, 4, 10, 100])
def test_against_loops(top_k) -> None:
    data = images()
    counters = brute_force(data, top_k)
    expected = torch.tensor(purities(counters))
    metric = metric_of(data, top_k=top_k)
    torch.testing.assert_close(metric.per_unit(), expected, equal_nan=True)
    assert float(metric.compute()) == pytest.approx(float(expected.nanmean()))
    assert torch.equal(category_purity(**data, num_classes=3, top_k=top_k), metric.compute())
    assert metric.category_counts().tolist() == [[c[k] for k in range(3)] for c in counters]
    for unit, counter in enumerate(counters):
        shares = [n / counter.total() for n in counter.values()]
        bits = -sum(p * math.log2(p) for p in shares) if counter else math.nan
        assert float(metric.entropy()[unit]) == pytest.approx(bits, abs=1e-6, nan_ok=True)


def test_by_hand() -> None:
    metric = metric_of(images())
    purity = metric.per_unit()
    # Ten images of category 2 respond most to the fourth unit; dead is not pure, though the first
    # ten images, which it may be said to prefer, are of one category.
    assert purity[1].isnan()
    assert purity[2] == pytest.approx(1 / 3)
    assert purity[3] == 1.0
    assert metric.entropy()[3] == 0.0
    assert metric.entropy()[2] == pytest.approx(math.log2(3))


def test_units_that_are_always_negative_rank_as_numbers_do() -> None:
    data = images()
    data["maps"] = -data["maps"].abs() - 0.1
    expected = torch.tensor(purities(brute_force(data, 4)))
    torch.testing.assert_close(metric_of(data, top_k=4).per_unit(), expected, equal_nan=True)


def test_chance_is_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(400, 500, 1, 1, generator=generator)
    value = float(category_purity(maps, torch.arange(400) % 4, 4))
    assert value == pytest.approx(0.42, abs=0.01)


@pytest.mark.parametrize("size", [1, 4, 29])
def test_neither_batches_nor_order_matter(size) -> None:
    data = images()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    metric = metric_of(*(rows(data, part) for part in order.split(size)))
    assert torch.equal(metric.category_counts(), metric_of(data).category_counts())


def test_an_image_counts_once_if_it_has_an_index() -> None:
    data = images()
    again = rows(data, torch.tensor([25, 25, 29]))
    expected = metric_of(data).category_counts()
    assert torch.equal(metric_of(data, again).category_counts(), expected)
    data["index"] = again["index"] = None
    # Two more of the third unit's images.
    assert metric_of(data, again).category_counts()[2].tolist() == [1, 1, 3]


def test_no_image_gives_nan_without_a_warning() -> None:
    data = rows(images(), slice(0))
    assert CategoryPurity(5, 3).compute().isnan()
    assert metric_of(data).compute().isnan()
    assert category_purity(**data, num_classes=3).isnan()
    assert metric_of(rows(images(), slice(1))).compute().isnan()


def test_reset_pickle_forward_and_a_state_that_does_not_grow() -> None:
    data = images()
    metric = metric_of(data)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    metric.update(**images(100, seed=1))
    held = sum(v.numel() * v.element_size() for k, v in metric.metric_state.items() if k != "count")
    assert held == 16 * 5 * 10 + 4 * 5
    with torch.inference_mode():
        metric.reset()
        first = metric(**rows(data, slice(15)))
        assert torch.equal(first, metric_of(rows(data, slice(15))).compute())
    metric.update(**rows(data, slice(15, None)))
    assert torch.equal(metric.compute(), expected)


def on_one_of_two(first: list[int], second: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    data = images()
    metric = CategoryPurity(5, 3)
    for part in torch.tensor(first if dist.get_rank() == 0 else second).split(3):
        if len(part):
            metric.update(**rows(data, part))
    return metric.compute(), metric.per_unit(), metric.category_counts()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (list(range(0, 30, 2)), list(range(1, 30, 2))),
        ([], list(range(30))),
        # A distributed sampler repeats images to fill its last batch.
        ([*range(0, 30, 2), 0, 4], [*range(1, 30, 2), 25]),
    ],
    ids=["alternating", "one is idle", "padded"],
)
def test_two_processes_give_the_figures_of_one(run_on_two, first, second) -> None:
    expected = metric_of(images())
    for value, per_unit, counts in run_on_two(on_one_of_two, first, second):
        assert torch.equal(value, expected.compute())
        torch.testing.assert_close(per_unit, expected.per_unit(), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(counts, expected.category_counts())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(30, 3, 4, 5)}, r"maps must have shape \(any, 5, any, any\)"),
        ({"label": torch.zeros(29).long()}, r"label must have shape \(30\)"),
        ({"label": torch.arange(30) % 4}, "label must be from 0 to 2, got 0 to 3"),
        ({"label": torch.zeros(30).long() - 1}, "label must be from 0 to 2, got -1 to -1"),
        ({"index": torch.arange(29)}, r"index must have shape \(30\)"),
        ({"maps": torch.full((30, 5, 4, 5), torch.nan)}, "unit 0 has the activation nan"),
    ],
)
def test_wrong_batches(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(images(), images() | changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1: of one category all is pure"),
        ({"top_k": 0}, "top_k must be at least 1, got 0; usual is 10"),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CategoryPurity(**({"num_units": 5, "num_classes": 3} | options))
    if "num_units" not in options:
        with pytest.raises(ValueError, match=message):
            category_purity(**images(), **({"num_classes": 3} | options))


def test_plot() -> None:
    metric = metric_of(images())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert "one category among the unit's 10 strongest images" in axes.get_xlabel()
    assert f"mean {float(metric.compute()):.3f}" in [text.get_text() for text in axes.texts]
    CategoryPurity(5, 3).plot()[0].canvas.draw()
