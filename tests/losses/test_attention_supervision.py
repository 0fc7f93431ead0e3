"""Attention against annotation, by loops over cells."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.losses.attention_supervision import (
    AttentionSupervisionLoss,
    attention_supervision_loss,
    relevance_on_grid,
)


def examples(size: int = 4) -> tuple[Tensor, Tensor]:
    """Attention of two heads on a 3 x 4 grid, and masks of 6 x 12 pixels; the last is empty."""
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(size, 2, 12, generator=generator)
    mask = torch.rand(size, 6, 12, generator=generator) > 0.6
    mask[-1] = False
    return scores.softmax(2).reshape(size, 2, 3, 4), mask


def by_loops(attention: Tensor, relevant: Tensor, divergence: str) -> float:
    """One image."""
    heads, rows, columns = attention.shape
    down, across = relevant.shape[0] // rows, relevant.shape[1] // columns
    share, mean = [], []
    for row in range(rows):
        for column in range(columns):
            pixels = [
                float(relevant[row * down + y, column * across + x])
                for y in range(down)
                for x in range(across)
            ]
            share.append(sum(pixels) / len(pixels))
            mean.append(sum(float(attention[h, row, column]) for h in range(heads)) / heads)
    mean = [value / sum(mean) for value in mean]
    if divergence == "outside":
        largest = max(share) if relevant.is_floating_point() else 1.0
        return sum(a * (1 - r / largest) for a, r in zip(mean, share, strict=True))
    target = [value / sum(share) for value in share]
    return sum(t * math.log(t / a) for t, a in zip(target, mean, strict=True) if t > 0)


@pytest.mark.parametrize("divergence", ["kl", "outside"])
@pytest.mark.parametrize("human", [False, True])
def test_against_loops(divergence: Any, human: bool) -> None:
    attention, relevant = examples()
    if human:  # of any scale
        relevant = relevant * torch.rand(relevant.shape) * 7
    loss, annotated = attention_supervision_loss(attention, relevant, divergence)
    assert annotated.tolist() == [True, True, True, False]
    wanted = [by_loops(a, r, divergence) for a, r in zip(attention[:3], relevant[:3], strict=True)]
    torch.testing.assert_close(loss, torch.tensor([*wanted, 0.0]), rtol=1e-4, atol=1e-5)
    mean = AttentionSupervisionLoss(divergence)(attention, relevant)
    assert float(mean) == pytest.approx(sum(wanted) / 3, rel=1e-4)


@pytest.mark.parametrize("divergence", ["kl", "outside"])
def test_the_scale_of_human_attention_does_not_matter(divergence: Any) -> None:
    """Also where a map sums to one over many pixels, or is still smaller."""
    attention, mask = examples()
    relevant = mask * torch.rand(mask.shape, generator=torch.Generator().manual_seed(2))
    wanted = attention_supervision_loss(attention, relevant, divergence)
    for scale in (1e-12, 1e6):
        found = attention_supervision_loss(attention, scale * relevant, divergence)
        torch.testing.assert_close(found, wanted)


def test_where_nothing_is_left_to_learn() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2] = True
    spread = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]]]])
    on_one = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    for attention, kl, outside in ((spread, 0.0, 0.0), (on_one, None, 0.0)):
        found = attention_supervision_loss(attention, mask, "kl")[0]
        assert float(found) == pytest.approx(kl, abs=1e-5) if kl is not None else found > 1
        found = attention_supervision_loss(attention, mask, "outside")[0]
        assert float(found) == pytest.approx(outside, abs=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "outside"])
def test_extremes_are_finite_with_their_gradients(divergence: Any) -> None:
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[:2, 0, 0] = True
    attention = torch.zeros(3, 1, 4, 4)
    attention[1, 0, 3, 3] = 1.0  # all of it where it should not be; the first has none at all
    attention.requires_grad_()
    loss = AttentionSupervisionLoss(divergence)(attention, mask)
    loss.backward()
    assert loss.isfinite()
    assert attention.grad is not None
    assert attention.grad.isfinite().all()
    assert (attention.grad[2] == 0).all()


def test_a_batch_without_annotation_costs_nothing_and_can_be_differentiated() -> None:
    attention = torch.full((2, 1, 2, 2), 0.25, requires_grad=True)
    loss = AttentionSupervisionLoss()(attention, torch.zeros(2, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert attention.grad is not None
    assert (attention.grad == 0).all()


def test_wrong_input() -> None:
    attention, mask = examples()
    with pytest.raises(ValueError, match=r"3 x 4 pixels, the attention's grid, got \(4, 2, 12\)"):
        attention_supervision_loss(attention, mask[:, :2])
    with pytest.raises(ValueError, match=r"with the B of relevant \(3, 6, 12\), got \(4, 2, 3, 4"):
        attention_supervision_loss(attention, mask[:3])
    for wrong in (torch.nan, -1.0, torch.inf):
        with pytest.raises(ValueError, match="finite and at least 0"):
            relevance_on_grid(torch.full((1, 4, 4), wrong), (2, 2))
    with pytest.raises(ValueError, match="divergence must be kl or outside, got 'l2'"):
        AttentionSupervisionLoss("l2")  # type: ignore[arg-type]


def test_half_precision_attention_is_measured_in_single() -> None:
    attention, mask = examples()
    with torch.autocast("cpu", torch.bfloat16):
        loss = AttentionSupervisionLoss()(attention.bfloat16(), mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, AttentionSupervisionLoss()(attention, mask), rtol=0.02, atol=1e-3
    )


def on_part() -> tuple[float, Any]:
    """One image on the first process; three, one of them not annotated, on the second."""
    attention, mask = examples()
    rows = slice(0, 1) if dist.get_rank() == 0 else slice(1, 4)
    factor = torch.ones(3, 4, requires_grad=True)
    loss = AttentionSupervisionLoss()(attention[rows] * factor, mask[rows])
    loss.backward()
    assert factor.grad is not None
    dist.all_reduce(factor.grad)
    return float(loss.detach()), factor.grad / 2


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(run_on_two: Any) -> None:
    attention, mask = examples()
    factor = torch.ones(3, 4, requires_grad=True)
    loss = AttentionSupervisionLoss()(attention * factor, mask)
    loss.backward()
    for value, gradient in run_on_two(on_part):
        assert value == pytest.approx(float(loss.detach()), rel=1e-5)
        torch.testing.assert_close(gradient, factor.grad, rtol=1e-4, atol=1e-6)
