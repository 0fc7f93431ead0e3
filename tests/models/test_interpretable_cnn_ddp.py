"""On two processes the interpretable CNN trains as on one with the whole batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pellucid.batch import Batch
from pellucid.models.interpretable_cnn import InterpretableCNN

TERMS = ("loss", "classification_loss", "filter_loss", "top_filter_loss")


class Step(nn.Module):
    """The training step as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, assignment: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = InterpretableCNN(3, "small", num_units=6, assignment=assignment)
        without_batch_statistics(self.model)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.model.step(batch, "train")
        return {name: outputs[name] for name in TERMS}


def without_batch_statistics(module: nn.Module) -> None:
    """Put normalisation that looks at the batch aside."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_statistics(child)


def train(module: nn.Module, step: Step, batches: list[Batch]) -> dict[str, Any]:
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05)
    losses, gradients = [], []
    for batch in batches:
        optimizer.zero_grad()
        outputs = module(batch)
        outputs["loss"].backward()
        gradients.append([p.grad.clone() for p in step.parameters() if p.grad is not None])
        optimizer.step()
        losses.append([outputs[name].item() for name in TERMS])
    return {"losses": losses, "gradients": gradients, "state": dict(step.state_dict())}


def make_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randn(8, 3, 24, 24, generator=generator),
            "label": torch.randint(0, 3, (8,), generator=generator),
        }
        for _ in range(3)
    ]


def on_half(assignment: Any) -> dict[str, Any]:
    rank = torch.distributed.get_rank()
    half = slice(4 * rank, 4 * rank + 4)
    batches: list[Batch] = [
        {"image": b["image"][half], "label": b["label"][half]} for b in make_batches()
    ]
    step = Step(assignment)
    return train(DistributedDataParallel(step, broadcast_buffers=False), step, batches)


@pytest.mark.ddp
@pytest.mark.parametrize("assignment", ["category", "exact"])
def test_two_processes_train_as_one(run_on_two: Any, assignment: Any) -> None:
    step = Step(assignment)
    whole = train(step, step, make_batches())
    first, second = run_on_two(on_half, assignment)
    for at, wanted in enumerate(whole["losses"]):
        # The classification loss is a mean over each half; the filter losses see both halves.
        both = torch.tensor([first["losses"][at], second["losses"][at]])
        torch.testing.assert_close(both.mean(0), torch.tensor(wanted), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[0, 2:], both[1, 2:])
        for ours, theirs in zip(first["gradients"][at], whole["gradients"][at], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for name, value in whole["state"].items():
        for half in (first, second):
            torch.testing.assert_close(half["state"][name], value, rtol=1e-3, atol=1e-5)
