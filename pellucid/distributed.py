"""What a batch that is spread over several processes needs to be treated as one."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether more than one process shares the work: a process group of at least two exists."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Join the rows of all processes, so that a loss sees the global batch, gradients included.

    Every process gets the same tensor: the rows of process 0, then those of process 1, and so on.
    Processes may have different numbers of rows, none included: for the transfer each one is
    padded with zeros to the largest number, and the padding is cut off again. The other axes must
    agree.

    The gradient is exact: what reaches this process's rows is the sum over all processes of the
    gradients that their losses send to them. So with each process computing the same loss
    ``L`` from the result, the gradient of a row is ``world_size * dL/drow``, and parameters whose
    gradients are then averaged over the processes, as ``DistributedDataParallel`` does, end with
    ``dL/dparameter``, exactly as on one process with the whole batch. (A bare ``all_gather`` cuts
    the other processes' terms off and ends with ``1 / world_size`` of it.)

    Forward and backward are collective: every process must run both.

    Args:
        tensor: (B, ...) of any type, ``B`` this process's own number of rows.

    Returns:
        (sum of all B, ...); ``tensor`` itself where there is only one process.

    Raises:
        ValueError: If the tensor has no axis of rows.
    """
    if tensor.ndim == 0:
        raise ValueError(
            "gather_with_gradient needs a tensor of at least one axis, got a scalar: "
            "give it tensor.reshape(1)"
        )
    if not is_distributed():
        return tensor
    return cast(Tensor, _Gather.apply(tensor))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        world_size, rank = dist.get_world_size(), dist.get_rank()
        own = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.empty_like(own) for _ in range(world_size)]
        dist.all_gather(counts, own)
        rows = [int(count) for count in torch.cat(counts).tolist()]
        ctx.start, ctx.rows = sum(rows[:rank]), rows[rank]

        padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # A copy: all_reduce works in place, and autograd may use the tensor elsewhere.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total[ctx.start : ctx.start + ctx.rows]
