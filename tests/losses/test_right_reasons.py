"""Right for the right reasons, against finite differences."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pellucid.losses.right_reasons import RightReasonsLoss, right_reasons_loss


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 5 * 4, 3)
    return nn.Sequential(*layers).double()


def examples(size: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(size, 2, 5, 4, generator=generator, dtype=torch.float64)
    return image, torch.rand(size, 5, 4, generator=generator) > 0.5


def loss_of(net: nn.Module, image: Tensor, irrelevant: Tensor) -> Tensor:
    image = image.detach().requires_grad_()
    return right_reasons_loss(net(image).log_softmax(1), image, irrelevant)


def test_against_finite_differences_of_each_pixel() -> None:
    net, (image, irrelevant) = network(), examples()

    def summed(one: Tensor) -> float:
        return float(net(one[None]).log_softmax(1).sum().detach())

    wanted, step = [], 1e-5
    for one, mask in zip(image, irrelevant, strict=True):
        total = 0.0
        for channel in range(2):
            for row in range(5):
                for column in range(4):
                    if mask[row, column]:
                        ahead, behind = one.clone(), one.clone()
                        ahead[channel, row, column] += step
                        behind[channel, row, column] -= step
                        total += ((summed(ahead) - summed(behind)) / (2 * step)) ** 2
        wanted.append(total)
    # In single precision, as the loss is summed.
    torch.testing.assert_close(
        loss_of(net, image, irrelevant), torch.tensor(wanted), rtol=1e-4, atol=1e-7
    )


def test_its_gradient_against_finite_differences_of_a_weight() -> None:
    net, (image, irrelevant) = network(), examples()
    weight = net[0].weight  # type: ignore[index]
    loss_of(net, image, irrelevant).sum().backward()
    found, step = float(weight.grad[1, 0, 1, 1]), 1e-3
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 0, 1, 1] += sign * step
        values.append(float(loss_of(net, image, irrelevant).sum().detach()))
        with torch.no_grad():
            weight[1, 0, 1, 1] -= sign * step
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


def test_a_linear_softmax_by_hand() -> None:
    """For two classes, d/dx (log p + log (1 - p)) = (1 - 2 p) w, with w the logit's weight."""
    image = torch.tensor([[[[0.3, -0.2]]]], requires_grad=True)
    logit = 2.0 * image[:, 0, 0, 0] - 3.0 * image[:, 0, 0, 1]
    scores = torch.stack((torch.zeros_like(logit), logit), 1)
    p = float(torch.sigmoid(torch.tensor(2 * 0.3 + 3 * 0.2)))
    loss = right_reasons_loss(scores.log_softmax(1), image, torch.tensor([[[False, True]]]))
    assert float(loss.detach()) == pytest.approx(((1 - 2 * p) * 3) ** 2)
    half = right_reasons_loss(scores.log_softmax(1), image, torch.tensor([[[0.0, 0.5]]]))
    assert float(half.detach()) == pytest.approx(float(loss.detach()) / 4)


def test_images_without_annotation_count_with_zero() -> None:
    net, (image, irrelevant) = network(), examples(4)
    irrelevant[2:] = False
    each = loss_of(net, image, irrelevant)
    assert (each[:2] > 0).all()
    assert (each[2:] == 0).all()
    image = image.requires_grad_()
    mean = RightReasonsLoss()(net(image).log_softmax(1), image, irrelevant)
    torch.testing.assert_close(mean, each.sum() / 4)


def test_wrong_input() -> None:
    net, (image, irrelevant) = network(), examples()
    with pytest.raises(ValueError, match=r"\(3, 5, 4\), got \(3, 4, 5\)"):
        loss_of(net, image, irrelevant.mT)
    with pytest.raises(ValueError, match=r"image\.requires_grad False.*requires_grad_\(\)"):
        right_reasons_loss(net(image), image, irrelevant)
    watched = image.requires_grad_()
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"log_probabilities\.requires_grad False"),
    ):
        right_reasons_loss(net(watched), watched, irrelevant)


def test_half_precision_gives_the_same_to_its_digits() -> None:
    net, (image, irrelevant) = network().float(), examples()
    whole = loss_of(net, image.float(), irrelevant).mean()
    image = image.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = RightReasonsLoss()(net(image).float().log_softmax(1), image, irrelevant)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whole, rtol=0.05, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net[0].parameters())  # type: ignore[index]


@pytest.mark.parametrize("sure", [0.0, 30.0])
def test_many_classes_do_not_overflow_half_precision(sure: float) -> None:
    """The gradient at a score is up to the number of classes: here 1000, enlarged on the way."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 1000).half()
    with torch.no_grad():
        layer.bias[0] += sure
    image = torch.ones(1, 3, 2, 2).requires_grad_()
    scores = layer(image.half().flatten(1)).float()
    loss = RightReasonsLoss()(scores.log_softmax(1), image, torch.ones(1, 2, 2))
    whole = nn.Linear(12, 1000)
    whole.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    wanted = loss_of(nn.Sequential(nn.Flatten(), whole), image, torch.ones(1, 2, 2))
    torch.testing.assert_close(loss.detach(), wanted.detach()[0], rtol=0.05, atol=1e-3)
    (1e-4 * loss).backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def on_part() -> tuple[float, Any]:
    """The loss and gradient of one process: one image on the first, two on the second."""
    net, (image, irrelevant) = network(), examples()
    rows = slice(0, 1) if dist.get_rank() == 0 else slice(1, 3)
    image = image[rows].requires_grad_()
    loss = RightReasonsLoss()(net(image).log_softmax(1), image, irrelevant[rows])
    loss.backward()
    gradient = net[0].weight.grad.clone()  # type: ignore[index]
    dist.all_reduce(gradient)
    return float(loss.detach()), gradient / 2


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(run_on_two: Any) -> None:
    net, (image, irrelevant) = network(), examples()
    loss = loss_of(net, image, irrelevant).mean()
    loss.backward()
    for value, gradient in run_on_two(on_part):
        assert value == pytest.approx(float(loss.detach()), rel=1e-5)
        torch.testing.assert_close(gradient, net[0].weight.grad, rtol=1e-4, atol=1e-7)  # type: ignore[index]
