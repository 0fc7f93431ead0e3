import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.distributed import gather_with_gradient, is_distributed

pytestmark = pytest.mark.ddp

ROWS = torch.arange(15.0, dtype=torch.float64).reshape(5, 3).sin()


def loss_over_the_batch(rows: Tensor) -> Tensor:
    """Not a sum over rows: its gradient is wrong if a process sees only its own."""
    return ((rows @ rows.T).exp().sum(1).log() * rows.std(0).sum()).mean()


def own_rows(first: int) -> Tensor:
    return ROWS[:first] if dist.get_rank() == 0 else ROWS[first:]


def gather(first: int) -> tuple[Tensor, bool]:
    return gather_with_gradient(own_rows(first)), is_distributed()


def gradient_of_one_loss(first: int) -> Tensor:
    own = own_rows(first).clone().requires_grad_()
    loss_over_the_batch(gather_with_gradient(own)).backward()
    assert own.grad is not None
    return own.grad


def gradient_of_two_losses(first: int) -> Tensor:
    own = own_rows(first).clone().requires_grad_()
    weight = 1.0 + 2.0 * dist.get_rank()
    (weight * loss_over_the_batch(gather_with_gradient(own))).backward()
    assert own.grad is not None
    return own.grad


def gradient_of_parameters(first: int) -> Tensor:
    """As DistributedDataParallel does it: the mean over processes of each one's gradient."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).double()
    loss_over_the_batch(gather_with_gradient(layer(own_rows(first)))).backward()
    assert layer.weight.grad is not None
    dist.all_reduce(layer.weight.grad)
    return layer.weight.grad / dist.get_world_size()


def gather_of_type(dtype: torch.dtype) -> Tensor:
    return gather_with_gradient(own_rows(2).to(dtype))


def fail_on_the_second(wait_for_it: bool) -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("as it should")
    if wait_for_it:
        dist.barrier()


def gradient_on_one_process() -> Tensor:
    rows = ROWS.clone().requires_grad_()
    loss_over_the_batch(rows).backward()
    assert rows.grad is not None
    return rows.grad


def test_one_process_gets_its_own_tensor_back() -> None:
    assert gather_with_gradient(ROWS) is ROWS
    assert not is_distributed()


def test_a_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        gather_with_gradient(torch.tensor(1.0))


@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_every_process_gets_all_rows_in_order(run_on_two, first) -> None:
    for rows, distributed in run_on_two(gather, first):
        torch.testing.assert_close(rows, ROWS, rtol=0, atol=0)
        assert distributed


@pytest.mark.parametrize("first", [0, 2, 4])
def test_gradient_is_the_sum_over_the_processes(run_on_two, first) -> None:
    expected = gradient_on_one_process()
    same = torch.cat(run_on_two(gradient_of_one_loss, first))
    torch.testing.assert_close(same, 2 * expected)
    weighted = torch.cat(run_on_two(gradient_of_two_losses, first))
    torch.testing.assert_close(weighted, 4 * expected)


def test_averaged_gradients_of_parameters_are_those_of_one_process(run_on_two) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).double()
    loss_over_the_batch(layer(ROWS)).backward()
    for gradient in run_on_two(gradient_of_parameters, 2):
        torch.testing.assert_close(gradient, layer.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_types_other_than_float32(run_on_two, dtype) -> None:
    for rows in run_on_two(gather_of_type, dtype):
        torch.testing.assert_close(rows, ROWS.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wait_for_it",
    [False, pytest.param(True, marks=pytest.mark.slow, id="with a partner that is stuck")],
)
def test_a_failure_is_reported_and_the_next_call_works(run_on_two, wait_for_it) -> None:
    with pytest.raises(AssertionError, match=r"(?s)process 1.*as it should"):
        run_on_two(fail_on_the_second, wait_for_it)
    assert run_on_two(gather, 2)[0][1]
