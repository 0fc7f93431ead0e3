"""Soft attention by loops over positions; hard attention against sums over all draws."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.batch import BatchError
from pellucid.models.layers.hard_attention import (
    HardAttention,
    log_probability_of,
    relaxed_subset,
    score_function_loss,
)
from pellucid.models.layers.soft_attention import SoftAttention, attend, attention_entropy


def grid(batch: int = 2, channels: int = 3, rows: int = 2, columns: int = 4) -> Tensor:
    return torch.randn(batch, channels, rows, columns, generator=torch.Generator().manual_seed(0))


def score_by_hand(layer: SoftAttention, features: Tensor, head: int, at: Tensor) -> float:
    """The score of one position of one image (C, h, w), before the temperature."""
    mean = features.mean((1, 2))
    if layer.score == "dot":
        return float(layer.queries[head] @ at) / math.sqrt(len(at))
    if layer.score == "multiplicative":
        return float(mean @ layer.form[head] @ at)
    total, hidden = 0.0, layer.direction.shape[1]
    for unit in range(hidden):
        row = head * hidden + unit
        key = float(layer.keys.weight[row, :, 0, 0] @ at)
        query = float(layer.query.weight[row] @ mean + layer.query.bias[row])
        total += float(layer.direction[head, unit]) * math.tanh(key + query)
    return total


@pytest.mark.parametrize("score", ["additive", "multiplicative", "dot"])
@torch.no_grad()
def test_soft_attention_by_loops(score: Any) -> None:
    torch.manual_seed(0)
    layer, features = SoftAttention(3, score, heads=2, hidden=5, temperature=0.5), grid()
    found = layer(features)
    for image in range(2):
        for head in range(2):
            weights = torch.tensor(
                [
                    [
                        math.exp(
                            score_by_hand(layer, features[image], head, features[image, :, r, c])
                            / 0.5
                        )
                        for c in range(4)
                    ]
                    for r in range(2)
                ]
            )
            torch.testing.assert_close(found[image, head], weights / weights.sum())
    pooled = attend(features, found)
    wanted = (features[1] * found[1, 0]).sum((1, 2))
    torch.testing.assert_close(pooled[1, 0], wanted)


def test_entropy_of_known_distributions_and_its_gradient() -> None:
    attention = torch.zeros(1, 3, 2, 4)
    attention[0, 0] = 1 / 8
    attention[0, 1, 0, 0] = 1
    attention[0, 2, 0, :2] = 0.5
    attention.requires_grad_()
    found = attention_entropy(attention)
    torch.testing.assert_close(found[0], torch.tensor([math.log(8), 0.0, math.log(2)]))
    found.sum().backward()
    assert attention.grad is not None
    assert attention.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"score": "cosine"}, "score must be one of additive, multiplicative, dot, got 'cosine'"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0 and finite, got 0.0"),
    ],
)
def test_wrong_arguments_of_soft_attention(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SoftAttention(3, **options)


def test_wrong_arguments_of_hard_attention() -> None:
    with pytest.raises(ValueError, match="estimator must be reinforce or gumbel, got 'best'"):
        HardAttention(3, estimator="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="glimpses must be at least 1, got 0"):
        HardAttention(3, 0)
    # The command line ends with one line then, in tests of a checkpoint too.
    with pytest.raises(BatchError, match=r"glimpses must be at most 8, .* 2 x 4 grid, got 9"):
        HardAttention(3, 9)(grid())
    with pytest.raises(ValueError, match="'gumbel' has no baseline"):
        HardAttention(3, estimator="gumbel").expected_cost(grid())


def chance(logits: list[float], order: tuple[int, ...]) -> float:
    """Of drawing positions in this order without putting them back, one factor after the other."""
    left, product = list(range(len(logits))), 1.0
    for cell in order:
        product *= math.exp(logits[cell]) / sum(math.exp(logits[i]) for i in left)
        left.remove(cell)
    return product


def test_log_probability_of_every_order() -> None:
    logits = [0.3, -1.2, 2.0, 0.0]
    orders = list(permutations(range(4), 3))
    rows = torch.tensor([logits]).expand(len(orders), -1)
    found = log_probability_of(rows, torch.tensor(orders))
    wanted = torch.tensor([math.log(chance(logits, order)) for order in orders])
    torch.testing.assert_close(found, wanted)
    assert float(found.exp().sum()) == pytest.approx(1.0)


LOGITS = torch.tensor([0.8, -0.5, 0.2, -1.0, 0.0])
COSTS = torch.tensor([2.0, 0.5, 1.0, 3.0, 1.5])


def cost_of(cells: Tensor) -> Tensor:
    """A cost that is no sum over glimpses, (B,) of cells (B, 2)."""
    return COSTS[cells].prod(1)


def exact_gradient() -> Tensor:
    """Of the expected cost with respect to the scores, by a sum over all orders."""
    logits = LOGITS.clone().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for first, second in permutations(range(5), 2):
        others = torch.stack([logits[i] for i in range(5) if i != first])
        likely = logits.softmax(0)[first] * (logits[second] - others.logsumexp(0)).exp()
        total = total + likely * float(COSTS[first] * COSTS[second])
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient.float()


def drawn(glimpses: int, estimator: Any, count: int) -> tuple[HardAttention, Tensor]:
    """A layer whose scores are those above, and many copies of one image."""
    layer = HardAttention(5, glimpses, estimator, "dot").train()
    with torch.no_grad():
        layer.scorer.queries.copy_(LOGITS * math.sqrt(5))
    features = torch.eye(5).reshape(1, 5, 1, 5).expand(count, 5, 1, 5)
    return layer, features


def test_the_score_function_estimates_the_exact_gradient() -> None:
    torch.manual_seed(0)
    count = 60_000
    layer, features = drawn(2, "reinforce", count)
    with torch.no_grad():
        cells = layer(features).cells
    rows = LOGITS.expand(count, 5).clone().requires_grad_()
    exact, spread = exact_gradient(), {}
    for baseline in (0.0, float(cost_of(cells).mean())):
        loss = score_function_loss(
            log_probability_of(rows, cells), cost_of(cells), torch.full((count,), baseline)
        )
        (each,) = torch.autograd.grad(loss * count, rows)
        error = each.std(0) / math.sqrt(count)
        assert ((each.mean(0) - exact).abs() < 4 * error).all()
        assert (error < 0.05 * exact.abs().max()).all()
        spread[baseline] = float(each.var(0).sum())
    assert list(spread.values())[1] < 0.7 * spread[0.0]  # What the baseline is for.


def test_the_loss_of_a_step_reaches_the_scorer() -> None:
    """The same estimate through the layer itself, to its parameters."""
    torch.manual_seed(1)
    layer, features = drawn(2, "reinforce", 60_000)
    found = layer(features)
    costs = cost_of(found.cells)
    score_function_loss(found.log_probability, costs, costs.mean().expand_as(costs)).backward()
    gradient = layer.scorer.queries.grad[0] * math.sqrt(5)
    torch.testing.assert_close(gradient, exact_gradient(), rtol=0.1, atol=0.03)


def test_draws_have_their_chances() -> None:
    torch.manual_seed(2)
    layer, features = drawn(2, "gumbel", 40_000)
    cells = layer(features).cells
    for order in permutations(range(5), 2):
        share = float((cells == torch.tensor(order)).all(1).float().mean())
        wanted = chance(LOGITS.tolist(), order)
        assert abs(share - wanted) < 5 * math.sqrt(wanted / 40_000)


def test_straight_through_is_hard_forward_and_points_down_the_exact_gradient() -> None:
    torch.manual_seed(3)
    layer, features = drawn(1, "gumbel", 20_000)
    found = layer(features)
    attention = found.attention.flatten(1)
    assert found.log_probability is None
    torch.testing.assert_close(attention.sort(1).values[:, -1], torch.ones(20_000))
    torch.testing.assert_close(attention.sum(1), torch.ones(20_000))
    (attention * COSTS).sum(1).mean().backward()
    logits = LOGITS.clone().requires_grad_()
    (exact,) = torch.autograd.grad((logits.softmax(0) * COSTS).sum(), logits)
    gradient = layer.scorer.queries.grad[0]
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.95


def test_the_relaxed_draw_is_as_sharp_as_its_temperature() -> None:
    """Jang, Gu and Poole 2017, Eq. 2: ``softmax((log pi + g) / tau)``, by the same noise ``g``."""
    temperature = 0.25
    layer = HardAttention(5, 1, "gumbel", "dot", temperature=temperature).train()
    with torch.no_grad():
        layer.scorer.queries.copy_(LOGITS * math.sqrt(5))
    features = torch.eye(5).reshape(1, 5, 1, 5).expand(3, 5, 1, 5)
    torch.manual_seed(4)
    (layer(features).attention.flatten(1) * COSTS).sum().backward()
    torch.manual_seed(4)
    noise = -torch.empty(3, 5).exponential_().log()
    logits = LOGITS.clone().requires_grad_()
    # The scores divided by the temperature are log pi, but for a constant.
    relaxed = ((logits / temperature + noise) / temperature).softmax(1)
    (wanted,) = torch.autograd.grad((relaxed * COSTS).sum(), logits)
    torch.testing.assert_close(layer.scorer.queries.grad[0] * math.sqrt(5), wanted)


def test_a_relaxed_subset_by_hand() -> None:
    scores, temperature = [0.3, -1.0, 2.0], 0.5
    first = [math.exp(each / temperature) for each in scores]
    first = [each / sum(first) for each in first]
    second = [
        math.exp((each + math.log(1 - taken)) / temperature)
        for each, taken in zip(scores, first, strict=True)
    ]
    wanted = [a + b / sum(second) for a, b in zip(first, second, strict=True)]
    found = relaxed_subset(torch.tensor([scores]), 2, temperature)
    torch.testing.assert_close(found, torch.tensor([wanted]))


def test_a_sharp_relaxed_subset_is_the_largest_ones() -> None:
    order = torch.rand(8, 20, generator=torch.Generator().manual_seed(6)).argsort(1)
    scores = order.float().requires_grad_()
    found = relaxed_subset(scores, 5, 0.01)
    hard = torch.zeros(8, 20).scatter(1, scores.topk(5).indices, 1.0)
    torch.testing.assert_close(found, hard, atol=1e-3, rtol=0)
    (slope,) = torch.autograd.grad(found.square().sum(), scores)
    assert slope.isfinite().all()


@pytest.mark.parametrize("estimator", ["reinforce", "gumbel"])
def test_tests_are_deterministic_and_see_the_best_positions(estimator: Any) -> None:
    layer = HardAttention(3, 3, estimator).eval()
    features = grid()
    first, second = layer(features), layer(features)
    torch.testing.assert_close(first.attention, second.attention, rtol=0, atol=0)
    assert first.log_probability is None
    policy = first.policy.flatten(1)
    torch.testing.assert_close(policy.topk(3).indices, first.cells)
    assert ((first.attention > 0).flatten(1).sum(1) == 3).all()
    torch.testing.assert_close(first.attention.sum((1, 2, 3)), torch.ones(2))
    layer.train()
    assert not torch.equal(layer(features).attention, layer(features).attention) or not torch.equal(
        layer(features).attention, layer(features).attention
    )


def test_the_baseline_does_not_bend_the_features() -> None:
    features = grid().requires_grad_()
    layer = HardAttention(3)
    layer.expected_cost(features).sum().backward()
    assert features.grad is None
    assert layer.baseline is not None
    assert layer.baseline.weight.grad is not None
