import math

import pytest
import torch

from pellucid.metrics import CategoryBalance, category_balance
from pellucid.metrics.category_balance import evenness


def example(
    images: int = 40, units: int = 12, classes: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (images,), generator=generator)
    return torch.rand(images, units, 3, 3, generator=generator), label


def by_loops(maps: torch.Tensor, label: torch.Tensor, classes: int) -> float:
    counts = [0] * classes
    for unit in range(maps.shape[1]):
        means = []
        for c in range(classes):
            own = [
                float(m[unit].mean()) for m, k in zip(maps, label.tolist(), strict=True) if k == c
            ]
            means.append(sum(own) / len(own) if own else None)
        known = [mean for mean in means if mean is not None]
        if max(known) > min(known):
            counts[means.index(max(known))] += 1
    shares = [count / sum(counts) for count in counts]
    return -sum(p * math.log(p) for p in shares if p) / math.log(classes)


def test_against_loops() -> None:
    maps, label = example()
    maps[:, 3] = 0.0
    expected = by_loops(maps, label, 4)
    assert 0.3 < expected < 1
    assert float(category_balance(maps, label, 4)) == pytest.approx(expected, rel=1e-5)
    # A category without any image has no units.
    assert float(category_balance(maps, label, 6)) == pytest.approx(
        expected * math.log(4) / math.log(6), rel=1e-5
    )


def test_the_class_is_the_function_whatever_the_batches() -> None:
    maps, label = example()
    maps[:, 0] = 0.0
    metric = CategoryBalance(12, 4)
    for part in torch.arange(40).split(7):
        metric.update(maps[part], label[part])
    assert float(metric.compute()) == pytest.approx(float(category_balance(maps, label, 4)))
    assert metric.categories()[0] == -1
    assert metric.counts().sum() == 11
    assert (metric.categories()[1:] >= 0).all()


def test_evenness_of_known_counts() -> None:
    assert float(evenness(torch.tensor([3, 3, 3]))) == pytest.approx(1.0)
    assert float(evenness(torch.tensor([5, 0, 0]))) == 0.0
    assert float(evenness(torch.tensor([2, 2, 0, 0]))) == pytest.approx(0.5)
    assert math.isnan(float(evenness(torch.zeros(3))))


def test_dead_units_have_no_category() -> None:
    metric = CategoryBalance(2, 3)
    metric.update(torch.zeros(6, 2, 2, 2), torch.arange(6) % 3)
    assert metric.categories().tolist() == [-1, -1]
    assert metric.compute().isnan()


def test_plot_has_a_bar_for_each_category() -> None:
    maps, label = example()
    metric = CategoryBalance(12, 4)
    metric.update(maps, label)
    _, axes = metric.plot()
    assert [bar.get_width() for bar in axes.patches] == metric.counts().tolist()


def halves(rank: int) -> float:
    maps, label = example()
    metric = CategoryBalance(12, 4)
    metric.update(maps[rank::2], label[rank::2])
    return float(metric.compute())


def test_two_processes_give_the_figure_of_one(two_processes) -> None:
    maps, label = example()
    expected = float(category_balance(maps, label, 4))
    assert two_processes.run(_on_rank) == pytest.approx([expected, expected])


def _on_rank() -> float:
    return halves(torch.distributed.get_rank())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: CategoryBalance(4, 1), "num_classes must be at least 2, got 1"),
        (lambda: CategoryBalance(0, 2), "num_units must be at least 1, got 0"),
        (lambda: category_balance(torch.ones(2, 1, 1, 1), torch.tensor([0, 7]), 3), "got 0 to 7"),
        (lambda: category_balance(torch.ones(2, 1, 1, 1), torch.zeros(3).long(), 3), "label must"),
        (
            lambda: category_balance(torch.full((2, 1, 1, 1), torch.nan), torch.zeros(2).long(), 3),
            "unit 0 has the activation nan",
        ),
        (
            lambda: CategoryBalance(4, 2).update(torch.ones(2, 3, 1, 1), torch.zeros(2).long()),
            r"maps must have shape \(any, 4, any, any\)",
        ),
    ],
)
def test_wrong_input_is_named(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
