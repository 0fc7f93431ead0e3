import math

import pytest
import torch

from pellucid.losses.adversarial import (
    DiscriminatorLoss,
    GeneratorLoss,
    discriminator_loss,
    generator_loss,
)


def test_against_the_printed_formulas():
    real, generated = torch.randn(5).double(), torch.randn(7).double()
    game = 0.0
    for logit in real.tolist():
        game -= math.log(1 / (1 + math.exp(-logit))) / 5
    for logit in generated.tolist():
        game -= math.log(1 - 1 / (1 + math.exp(-logit))) / 7
    assert float(discriminator_loss(real, generated)) == pytest.approx(game, rel=1e-5)
    fooled = -sum(math.log(1 / (1 + math.exp(-v))) for v in generated.tolist()) / 7
    assert float(generator_loss(generated)) == pytest.approx(fooled, rel=1e-5)
    assert DiscriminatorLoss()(real, generated) == discriminator_loss(real, generated)
    assert GeneratorLoss()(generated) == generator_loss(generated)


def test_a_discriminator_that_cannot_tell_loses_log_four():
    nothing = torch.zeros(3)
    assert float(discriminator_loss(nothing, nothing)) == pytest.approx(math.log(4))


def test_the_generator_has_a_gradient_where_the_discriminator_is_sure():
    logit = torch.full((2,), -200.0, requires_grad=True)
    generator_loss(logit).backward()
    torch.testing.assert_close(logit.grad, torch.full((2,), -0.5))
    assert discriminator_loss(torch.full((2,), 300.0), logit.detach()) == 0


def test_half_precision_is_computed_in_full():
    assert discriminator_loss(torch.ones(2).half(), torch.ones(2).half()).dtype == torch.float32
