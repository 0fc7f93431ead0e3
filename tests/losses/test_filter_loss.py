"""The filter loss against plain loops, the published gradient, and two processes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.losses.filter_loss import (
    FilterLoss,
    all_templates,
    category_loss,
    category_weights,
    mutual_information_loss,
)


def template(row: int, column: int, n: int, beta: float = 4.0) -> list[list[float]]:
    return [
        [max(1 - beta * (abs(i - row) + abs(j - column)) / n, -1) for j in range(n)]
        for i in range(n)
    ]


def brute_force_information(maps: Tensor, gain: float) -> float:
    """Mutual information of one filter's maps (B, n, n) and its templates, word for word."""
    n = maps.shape[-1]
    templates = [template(i, j, n) for i in range(n) for j in range(n)]
    templates.append([[-1.0] * n for _ in range(n)])
    alpha = n * n / (1 + n * n)
    prior = [alpha / n**2] * (n * n) + [1 - alpha]
    trace = [
        [
            gain / n**2 * sum(float(x[i, j]) * t[i][j] for i in range(n) for j in range(n))
            for t in templates
        ]
        for x in maps
    ]
    partition = [sum(math.exp(row[k]) for row in trace) for k in range(len(templates))]
    total = 0.0
    for row in trace:
        likelihood = [math.exp(row[k]) / partition[k] for k in range(len(templates))]
        evidence = sum(p * q for p, q in zip(prior, likelihood, strict=True))
        for p, q in zip(prior, likelihood, strict=True):
            total += p * q * math.log(q / evidence)
    return total


def scores_of(maps: Tensor, gain: float) -> Tensor:
    height, width = maps.shape[-2:]
    templates = all_templates(height, width).to(maps) * gain / (height * width)
    return torch.einsum("buhw,thw->but", maps, templates)


def test_templates_are_those_of_the_paper() -> None:
    templates = all_templates(5, 5)
    assert templates.shape == (26, 5, 5)
    for mu in range(25):
        torch.testing.assert_close(templates[mu], torch.tensor(template(mu // 5, mu % 5, 5)))
    assert (templates[-1] == -1).all()


def test_exact_form_is_minus_the_mutual_information() -> None:
    maps = torch.rand(5, 3, 4, 4, dtype=torch.float64) ** 3 * 4
    loss = mutual_information_loss(scores_of(maps, 20.0))
    for unit in range(3):
        assert loss[unit].item() == pytest.approx(-brute_force_information(maps[:, unit], 20.0))
    assert (loss < 0).all()


def test_exact_form_is_zero_where_images_are_alike() -> None:
    maps = torch.rand(1, 2, 4, 4).expand(6, 2, 4, 4)
    loss = mutual_information_loss(scores_of(maps, 20.0))
    torch.testing.assert_close(loss, torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("hold_partition", [False, True])
def test_gradient_of_the_exact_form(hold_partition: bool) -> None:
    scores = (torch.randn(4, 2, 10, dtype=torch.float64) * 2).requires_grad_()
    loss = mutual_information_loss(scores, hold_partition=hold_partition).sum()
    (gradient,) = torch.autograd.grad(loss, scores)
    if not hold_partition:
        assert torch.autograd.gradcheck(
            lambda s: mutual_information_loss(s, hold_partition=False), scores
        )
        return
    # Eq. 4 with its minus sign, of which d tr(xT) / dx = T is left out on both sides.
    positives = 9
    prior = torch.full((10,), 1 / (1 + positives), dtype=torch.float64)
    partition = scores.exp().sum(0, keepdim=True)
    likelihood = scores.exp() / partition
    evidence = (prior * likelihood).sum(-1, keepdim=True)
    published = -prior * likelihood * (scores - (partition * evidence).log())
    torch.testing.assert_close(gradient, published)
    assert not torch.allclose(gradient, -published)


def test_exact_form_survives_large_activations() -> None:
    maps = (torch.rand(4, 2, 4, 4) * 1e4).requires_grad_()
    loss = mutual_information_loss(scores_of(maps, 40.0)).sum()
    loss.backward()
    assert loss.isfinite()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("hold_partition", [False, True])
def test_an_image_that_no_template_fits_counts_for_nothing(hold_partition: bool) -> None:
    scores = torch.randn(4, 2, 10)
    with_it = torch.cat((scores, torch.full((1, 2, 10), -1e4))).requires_grad_()
    loss = mutual_information_loss(with_it, hold_partition=hold_partition)
    torch.testing.assert_close(loss, mutual_information_loss(scores))
    loss.sum().backward()
    assert with_it.grad is not None
    assert (with_it.grad[-1] == 0).all()
    assert with_it.grad.isfinite().all()


def brute_force_category(
    maps: Tensor, labels: list[int], category: int, gain: float, a: float, share: float
) -> tuple[float, Tensor]:
    """Loss and gradient of one filter's maps (B, n, n), image by image."""
    n = maps.shape[-1]
    loss, gradient = 0.0, torch.zeros_like(maps)
    for positive in (True, False):
        group = [b for b, label in enumerate(labels) if (label == category) == positive]
        rows = []
        for b in group:
            peak = int(maps[b].argmax())
            t = template(peak // n, peak % n, n) if positive else [[-1.0] * n] * n
            rows.append(torch.tensor(t, dtype=maps.dtype) * gain / n**2)
        score = [float((maps[b] * t).sum()) for b, t in zip(group, rows, strict=True)]
        if not group:
            continue
        log_z = math.log(sum(math.exp(s / a) for s in score) / len(group))
        raw = [max(math.exp(s / a) * (s - a * log_z + a), 0) for s in score]
        mean = sum(raw) / len(raw)
        part = 0.5 if positive else 0.5 * share
        for b, t, s, u in zip(group, rows, score, raw, strict=True):
            weight = part * u / mean / len(group)
            loss -= weight * s
            gradient[b] -= weight * t
    return loss, gradient


@pytest.mark.parametrize("labels", [[0, 1, 1, 2, 0, 1], [0] * 6, [2] * 6])
def test_category_form(labels: list[int]) -> None:
    maps = (torch.rand(6, 3, 4, 4, dtype=torch.float64) ** 2 * 3).requires_grad_()
    categories = torch.tensor([1, 0, 2])
    loss = category_loss(
        maps, torch.tensor(labels), categories, gain=2.0, temperature=0.5, negative_weight=0.7
    )
    loss.sum().backward()
    assert maps.grad is not None
    for unit in range(3):
        wanted, gradient = brute_force_category(
            maps[:, unit].detach(), labels, int(categories[unit]), 2.0, 0.5, 0.7
        )
        assert loss[unit].item() == pytest.approx(wanted)
        torch.testing.assert_close(maps.grad[:, unit], gradient)


def test_negatives_are_the_images_that_are_not_of_the_filters_own_category() -> None:
    maps = torch.rand(3, 2, 4, 4).requires_grad_()
    category_loss(maps, torch.tensor([0, 1, 1]), torch.tensor([0, 1])).sum().backward()
    assert maps.grad is not None
    pushed_down = (maps.grad > 0).flatten(2).all(-1)
    assert pushed_down.tolist() == [[False, True], [True, False], [True, False]]


def test_weights_of_a_group_have_mean_one_whatever_the_scores() -> None:
    scores = torch.randn(50, 4) * torch.tensor([0.01, 1.0, 30.0, 1000.0])
    members = torch.rand(50, 4) > 0.4
    weights = category_weights(scores, members)
    assert (weights[~members] == 0).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(0) / members.sum(0), torch.ones(4))
    assert (category_weights(scores, torch.zeros_like(members)) == 0).all()


@pytest.mark.parametrize("assignment", ["exact", "category"])
def test_layer_does_not_see_the_scale_of_its_maps(assignment: Any) -> None:
    maps, labels = torch.rand(8, 3, 5, 5), torch.tensor([0, 1] * 4)
    values = []
    for scale in (1.0, 1e-3, 1e4):
        layer = FilterLoss(3, 2, assignment)
        values.append(layer(maps * scale, labels))
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-3, atol=1e-5)


def test_state_moves_in_training_only_and_is_in_the_checkpoint() -> None:
    layer = FilterLoss(3, 2)
    layer(torch.rand(4, 3, 5, 5), torch.tensor([0, 1, 1, 0]))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert set(before) == {"scale", "strength", "seen"}
    layer.eval()
    layer(torch.rand(4, 3, 5, 5) * 9, torch.tensor([0, 1, 1, 0]))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    other = FilterLoss(3, 2)
    other.load_state_dict(before)
    assert torch.equal(other.categories, layer.categories)


def test_a_filter_that_its_category_leaves_silent_does_not_drown_the_others() -> None:
    labels = torch.tensor([0, 0, 1, 1] * 2)
    maps = torch.rand(8, 4, 14, 14)
    maps[labels == 1, 2] = 0  # fires on the negatives only
    maps[:, 3] = 0  # dead
    for first in (maps, maps[labels == 0]):
        layer = FilterLoss(4, 2, single_category=True)
        here = first.clone().requires_grad_()
        loss = layer(here, labels[: len(first)] if first is maps else torch.zeros(4).long())
        (gradient,) = torch.autograd.grad(loss, here)
        assert loss.abs() < 20
        largest = gradient.abs().amax((0, 2, 3))
        assert (largest <= 20 * largest[0]).all()


def test_filter_belongs_to_the_category_that_activates_it_most() -> None:
    layer = FilterLoss(2, 3)
    maps = torch.zeros(6, 2, 4, 4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    maps[labels == 2, 0] = 1.0
    maps[labels == 0, 1] = 0.5
    layer(maps, labels)
    assert layer.categories.tolist() == [2, 0]
    layer(torch.zeros(2, 2, 4, 4), torch.tensor([1, 1]))  # a batch without the others
    assert layer.categories.tolist() == [2, 0]
    assert FilterLoss(2, 2, single_category=True).categories.tolist() == [1, 1]


@pytest.mark.parametrize("assignment", ["exact", "category"])
def test_mixed_precision_keeps_the_loss_in_single(assignment: Any) -> None:
    maps, labels = torch.rand(8, 3, 5, 5).bfloat16(), torch.tensor([0, 1] * 4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = FilterLoss(3, 2, assignment)(maps, labels)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, FilterLoss(3, 2, assignment)(maps.float(), labels))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("assignment", "nearest"),
        ("beta", 0.0),
        ("gain", -1.0),
        ("temperature", 0.0),
        ("momentum", 1.0),
        ("negative_weight", -0.1),
    ],
)
def test_wrong_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as raised:
        FilterLoss(3, 2, **{name: value})
    assert str(value) in str(raised.value)


def _one_step(
    maps: Tensor, labels: Tensor, assignment: Any, steps: int = 2
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    layer = FilterLoss(maps.shape[1], 3, assignment)
    maps = maps.clone().requires_grad_()
    for _ in range(steps):
        loss = layer(maps, labels)
    (gradient,) = torch.autograd.grad(loss, maps)
    return loss.detach(), gradient, layer.state_dict()


def _on_a_share(
    maps: Tensor, labels: Tensor, assignment: Any, cut: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    share = slice(0, cut) if torch.distributed.get_rank() == 0 else slice(cut, None)
    return _one_step(maps[share], labels[share], assignment)


@pytest.mark.ddp
@pytest.mark.parametrize("assignment", ["exact", "category"])
@pytest.mark.parametrize("cut", [4, 3])
def test_two_processes_are_one(run_on_two: Any, assignment: Any, cut: int) -> None:
    maps, labels = torch.rand(8, 5, 4, 4, dtype=torch.float64) * 2, torch.arange(8) % 3
    loss, gradient, state = _one_step(maps, labels, assignment)
    first, second = run_on_two(_on_a_share, maps, labels, assignment, cut)
    for other_loss, _, other_state in (first, second):
        torch.testing.assert_close(other_loss, loss)
        for name, value in state.items():
            torch.testing.assert_close(other_state[name], value)
    # Both processes send the same gradient back, which DistributedDataParallel then averages.
    torch.testing.assert_close(torch.cat((first[1], second[1])) / 2, gradient)
