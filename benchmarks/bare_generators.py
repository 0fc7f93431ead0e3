"""Training loops of the generators in bare PyTorch, for ``generator_step.py`` to compare with.

Each takes the networks of one of our models, in PyTorch's default layout, writes the objective out
and has Adam as it comes. Gradients that nobody uses are not computed, as ours are not.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Step = Callable[[Tensor, Tensor], None]
"""Trains on one batch of images (B, 1, H, W) in [0, 1] and labels (B,)."""
TRAINING_SET = 737_280


def vae_terms(model: Any, image: Tensor) -> tuple[Tensor, ...]:
    """Reconstruction and KL divergence, codes, and the two halves of the posterior."""
    mean, log_variance = model.encoder(image).chunk(2, 1)
    codes = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    drawn = model.decoder(codes)
    reconstruction = F.binary_cross_entropy_with_logits(drawn, image, reduction="sum") / len(image)
    kl = (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
    return reconstruction, kl, codes, mean, log_variance


def vae(objective: Callable[..., Tensor]) -> Callable[[Any], Step]:
    """A loop that minimises a function of :func:`vae_terms`."""

    def prepare(model: Any) -> Step:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def step(image: Tensor, label: Tensor) -> None:
            loss = objective(*vae_terms(model, image))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    return prepare


def weighted_correlation(codes: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Total correlation by the minibatch-weighted estimator."""
    away = (codes[:, None] - mean[None]) ** 2
    log_density = -0.5 * (away / log_variance.exp() + log_variance + math.log(2 * math.pi))
    normaliser = math.log(TRAINING_SET * len(codes))
    joint = log_density.sum(2).logsumexp(1) - normaliser
    return (joint - (log_density.logsumexp(1) - normaliser).sum(1)).mean()


def factor_vae(model: Any) -> Step:
    """FactorVAE on the two halves of a batch."""
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    first = torch.optim.Adam(networks, 1e-4)
    second = torch.optim.Adam(model.discriminator.parameters(), 1e-4, (0.5, 0.9))

    def step(image: Tensor, label: Tensor) -> None:
        own, other = image.chunk(2)
        reconstruction, kl, codes, *_ = vae_terms(model, own)
        logits = model.discriminator(codes)
        loss = reconstruction + kl + 40 * (logits[:, 0] - logits[:, 1]).mean()
        first.zero_grad()
        loss.backward(inputs=networks)
        first.step()
        with torch.no_grad():
            mean, log_variance = model.encoder(other).chunk(2, 1)
            drawn = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
            permuted = drawn.gather(0, torch.rand_like(drawn).argsort(0))
        zeros = torch.zeros(len(codes), dtype=torch.int64, device=image.device)
        loss = F.cross_entropy(model.discriminator(codes.detach()), zeros)
        loss = (loss + F.cross_entropy(model.discriminator(permuted), zeros + 1)) / 2
        second.zero_grad()
        loss.backward()
        second.step()

    return step


Latents = Callable[[Tensor], tuple[Tensor, Any]]
"""What the generator draws from for a batch of images, and the codes in it."""


def gan(
    latents: Latents,
    heads: Callable[[Any], list[Any]] = lambda model: [],
    of_generated: Callable[[Any, Tensor, Any], Tensor | float] = lambda *_: 0.0,
    of_real: Callable[[Any, Tensor, Tensor], Tensor | float] = lambda *_: 0.0,
) -> Callable[[Any], Step]:
    """A loop of discriminator and generator.

    Args:
        latents: Draws them.
        heads: What of the model is trained with the discriminator beside its own head.
        of_generated: A further loss of both players, of model, features and codes.
        of_real: One of the discriminator, of model, features and labels.
    """

    def prepare(model: Any) -> Step:
        trunk, judge, draw = model.trunk, model.real_or_generated, model.generator
        players = [trunk, judge, *heads(model)]
        own = [parameter for module in players for parameter in module.parameters()]
        first = torch.optim.Adam(own, 2e-4, (0.5, 0.999))
        second = torch.optim.Adam(draw.parameters(), 1e-3, (0.5, 0.999))

        def step(image: Tensor, label: Tensor) -> None:
            inputs, codes = latents(image)
            with torch.no_grad():
                drawn = draw(inputs)
            real, generated = trunk(image), trunk(drawn)
            loss = F.softplus(-judge(real)).mean() + F.softplus(judge(generated)).mean()
            loss = loss + of_generated(model, generated, codes) + of_real(model, real, label)
            first.zero_grad()
            loss.backward()
            first.step()
            inputs, codes = latents(image)
            features = trunk(draw(inputs))
            loss = F.softplus(-judge(features)).mean() + of_generated(model, features, codes)
            second.zero_grad()
            loss.backward(inputs=list(draw.parameters()))
            second.step()

        return step

    return prepare


def latents_of(noise: int, continuous: int, categories: int) -> Latents:
    """Uniform noise and continuous codes, and one categorical code."""

    def sample(image: Tensor) -> tuple[Tensor, Any]:
        values = 2 * torch.rand(len(image), noise + continuous, device=image.device) - 1
        if not categories:
            return values, None
        category = torch.randint(categories, (len(image),), device=image.device)
        one_hot = F.one_hot(category, categories).to(values.dtype)
        return torch.cat([values, one_hot], 1), (values[:, noise:], category)

    return sample


def code_loss(model: Any, features: Tensor, codes: Any) -> Tensor:
    """What InfoGAN's Q misses of two continuous codes and a categorical one."""
    read = model.q(features)
    missed = ((read[:, :2] - codes[0]) ** 2).sum(1).mean() / 2
    return missed + F.cross_entropy(read[:, 2:], codes[1])
