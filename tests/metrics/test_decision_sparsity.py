import pickle
import random

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.metrics import DecisionSparsity, decision_sparsity


def contributions(count: int = 17, units: int = 6, seed: int = 0) -> Tensor:
    """Of both signs and very different sizes; one image to which no unit adds anything."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, units, generator=generator)
    values = values * torch.rand(count, units, generator=generator).pow(4)
    values[3] = 0.0
    return values


def brute_force(values: Tensor, share: float) -> list[set[int]]:
    """The smallest set of units with enough of the total, of equal sizes the first units."""
    found = []
    for line in values.abs().tolist():
        order = sorted(range(len(line)), key=lambda u: (-line[u], u))
        carriers: set[int] = set()
        while sum(line[u] for u in carriers) < share * sum(line) * (1 - 1e-6):
            carriers.add(order[len(carriers)])
        found.append(carriers)
    return found


def metric_of(*batches: Tensor, share: float = 0.9) -> DecisionSparsity:
    metric = DecisionSparsity(batches[0].shape[1], share)
    for batch in batches:
        metric.update(batch)
    return metric


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_against_loops(share) -> None:
    values = contributions()
    if share == 1.0:  # down to the smallest that tells
        values = values.sign() * values.abs().clamp(min=1e-2) * (values.abs() > 1e-3)
    carriers = brute_force(values, share)
    counts = [len(c) for c in carriers]
    assert decision_sparsity(values, share).tolist() == counts
    metric = metric_of(values, share=share)
    assert float(metric.compute()) == pytest.approx(sum(counts) / 17)
    assert metric.image_counts().tolist() == [counts.count(n) for n in range(7)]
    shares = [sum(u in c for c in carriers) / 17 for u in range(6)]
    assert metric.per_unit().tolist() == pytest.approx(shares)
    assert len(set(counts)) > 2


@pytest.mark.parametrize(
    ("line", "share", "expected"),
    [
        ([0.1] * 10, 0.9, 9),  # though rounding puts nine tenths below 0.9
        ([0.1] * 10, 0.91, 10),
        ([-3.0, 1.0, 0.0], 0.9, 2),
        ([10.0, -0.5, 0.5], 0.9, 1),
        ([5.0, -5.0], 0.9, 2),  # their sum is 0, and yet they speak
        ([0.0, 0.0], 0.9, 0),
        ([1e-30, 0.0], 0.9, 1),
        ([3e38, 3e38, 3e38], 0.5, 2),  # the sum overflows
        ([2.0, 1.0, 1.0], 0.5, 1),
        ([2.0, 1.0, 1.0], 1.0, 3),
    ],
)
def test_by_hand(line, share, expected) -> None:
    assert decision_sparsity(torch.tensor([line]), share).tolist() == [expected]


def test_sparsity_does_not_depend_on_scale_sign_or_order() -> None:
    values = contributions()
    expected = decision_sparsity(values)
    order = list(range(6))
    random.Random(0).shuffle(order)
    assert torch.equal(decision_sparsity(-1000 * values[:, order]), expected)
    assert torch.equal(decision_sparsity(values.double()), expected)
    assert decision_sparsity(values.bfloat16()).dtype == torch.int64


def test_batches_do_not_matter() -> None:
    values = contributions()
    expected = metric_of(values)
    for size in (1, 4):
        metric = metric_of(*values.split(size))
        assert torch.equal(metric.compute(), expected.compute())
        assert torch.equal(metric.per_unit(), expected.per_unit())


def test_no_image_gives_nan_without_a_warning() -> None:
    assert DecisionSparsity(6).compute().isnan()
    assert metric_of(contributions()[:0]).compute().isnan()
    assert decision_sparsity(contributions()[:0]).shape == (0,)


def test_reset_pickle_forward_and_a_state_that_does_not_grow() -> None:
    values = contributions()
    metric = metric_of(values)
    expected = metric.compute()
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    assert sum(v.numel() * v.element_size() for v in metric.metric_state.values()) == 16 * 6 + 8
    with torch.inference_mode():
        metric.reset()
        assert torch.equal(metric(values[:5]), metric_of(values[:5]).compute())
    metric.update(values[5:])
    assert torch.equal(metric.compute(), expected)


def on_one_of_two(first: int) -> tuple[Tensor, Tensor, Tensor]:
    values = contributions()
    metric = DecisionSparsity(6)
    own = values[:first] if dist.get_rank() == 0 else values[first:]
    for batch in own.split(3):
        metric.update(batch)
    return metric.compute(), metric.per_unit(), metric.image_counts()


@pytest.mark.ddp
@pytest.mark.parametrize("first", [0, 7])
def test_two_processes_give_the_figures_of_one(run_on_two, first) -> None:
    expected = metric_of(contributions())
    for value, per_unit, counts in run_on_two(on_one_of_two, first):
        assert torch.equal(value, expected.compute())
        assert torch.equal(per_unit, expected.per_unit())
        assert torch.equal(counts, expected.image_counts())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 6, 1), r"contributions must have shape \(any, 6\), got \(2, 6, 1\)"),
        (torch.zeros(2, 5), r"contributions must have shape \(any, 6\), got \(2, 5\)"),
        (torch.zeros(2, 6).long(), r"contributions must be floating point .* torch\.int64"),
        (torch.tensor([[0.0, 1.0, torch.nan, 0, 0, 0]]), "unit 2 has a contribution that is not"),
        (torch.tensor([[0.0, 1.0, 0, torch.inf, 0, 0]]), "unit 3 has a contribution that is not"),
    ],
)
def test_wrong_batches(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        DecisionSparsity(6).update(values)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="num_units must be at least 1, got 0"):
        DecisionSparsity(0)
    for share in (0.0, 1.1, 90):
        for call in (DecisionSparsity, lambda _, s: decision_sparsity(contributions(), s)):
            with pytest.raises(
                ValueError, match=f"share must be above 0 and at most 1, got {share}"
            ):
                call(6, share)
    with pytest.raises(ValueError, match=r"of shape \(B, U\), got \(3, 0\)"):
        decision_sparsity(torch.zeros(3, 0))


def test_plot() -> None:
    metric = metric_of(contributions())
    figure, axes = metric.plot()
    figure.canvas.draw()
    assert axes.get_xlabel() == "units that carry 90 % of the score"
    curve, mean = axes.lines
    counts = metric.image_counts()
    reached = (counts.cumsum(0) / 17).tolist()[: len(curve.get_ydata())]
    assert list(curve.get_ydata()) == pytest.approx(reached)
    assert curve.get_ydata()[-1] == 1.0
    assert mean.get_xdata()[0] == float(metric.compute())
    DecisionSparsity(6).plot()[0].canvas.draw()
