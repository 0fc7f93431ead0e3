"""The filter loss of the interpretable CNN: mutual information of feature maps and templates."""

import math
from typing import Any, Literal, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.distributed import gather_with_gradient
from pellucid.losses.balanced_assignment import balanced_assignment
from pellucid.models.layers.part_template import peak_cells, positive_templates

Assignment = Literal["exact", "category"]


def all_templates(height: int, width: int, beta: float = 4.0) -> Tensor:
    """Every positive template and the negative one, without their tau.

    Returns:
        (height * width + 1, height, width) in [-1, 1]; the last is the negative template, -1.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    peaks = rearrange([rows, columns], "dim h w -> (h w) dim")
    positive = positive_templates(peaks, height, width, beta)
    return torch.cat((positive, -torch.ones(1, height, width)))


def mutual_information_loss(
    scores: Tensor, *, hold_partition: bool = True, alpha: float | None = None
) -> Tensor:
    """Minus the mutual information of one filter's feature maps and its templates.

    ``-sum_T p(T) sum_x p(x|T) log(p(x|T) / p(x))`` with ``p(x|T) = exp(tr(x T)) / Z_T``, ``Z_T``
    summed over the feature maps that are given, ``p(T_mu) = alpha / n^2``, ``p(T-) = 1 - alpha``.

    Args:
        scores: (B, U, T) ``tr(x T)`` of each image, filter and template, the negative template
            last.
        hold_partition: Whether ``Z_T`` is a constant in the gradient, as in the paper's Eq. 4.
        alpha: Share of the positive templates; None: the paper's ``n^2 / (1 + n^2)``.

    Returns:
        (U,) nats. Source: Zhang et al. 2018, Eqs. 1-4; the gradient has the minus sign that the
        printed Eq. 4 lacks.
    """
    positives = scores.shape[-1] - 1
    alpha = positives / (1 + positives) if alpha is None else alpha
    prior = scores.new_full((positives + 1,), alpha / positives)
    prior[-1] = 1 - alpha
    if hold_partition:
        return cast(Tensor, _HeldPartition.apply(scores, prior))
    return -reduce(_information(scores, prior), "b u t -> u", "sum")


def _information(scores: Tensor, prior: Tensor) -> Tensor:
    """Each term of the mutual information, (B, U, T) nats, with one exponential for all of them."""
    shifted = scores - scores.detach().amax(0, keepdim=True)
    likelihood = shifted.exp()
    partition = likelihood.sum(0, keepdim=True)
    joint = likelihood * (prior / partition)
    # An image that is nothing next to the others under every template has neither: 0 log(0 / 0).
    evidence = joint.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return joint * (shifted - partition.log() - evidence.log())


class _HeldPartition(torch.autograd.Function):
    """Minus the mutual information, whose gradient with ``Z_T`` held is each term with a minus.

    The terms that come from ``p(x)`` add up to one for each image and cancel the one that comes
    from ``p(x|T)`` outside of the logarithm, which leaves Eq. 4; so nothing but the terms, which
    the value needs anyway, is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, prior: Tensor) -> Tensor:
        information = _information(scores, prior)
        ctx.save_for_backward(information)
        return -reduce(information, "b u t -> u", "sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (information,) = ctx.saved_tensors
        return -information * rearrange(gradients[0], "u -> u 1"), None


def category_weights(scores: Tensor, members: Tensor, temperature: float = 0.5) -> Tensor:
    """How strongly each image pulls a filter towards its assigned template.

    ``u = exp(s/a) (s - a log Z + a)`` with ``Z`` the mean of ``exp(s/a)`` over the images of the
    group, divided by its mean over them, as in the released code; in log space throughout.

    Args:
        scores: (B, U) score of each image under its template.
        members: (B, U) bool, the images of the group.
        temperature: ``a``, in units of the score.

    Returns:
        (B, U) with mean one over the members of each filter and zero elsewhere. Negative weights,
        which images far below the mean would get, are cut off at zero.
    """
    scaled = (scores / temperature).masked_fill(~members, -math.inf)
    count = members.sum(0, keepdim=True).clamp(min=1)
    # Filters without a member have only -inf; their weights are zero whatever is subtracted.
    top = scaled.amax(0, keepdim=True).nan_to_num(neginf=0.0)
    log_mean = ((scaled - top).exp().sum(0, keepdim=True) / count).clamp(min=1e-30).log() + top
    relative = (scaled - log_mean).masked_fill(~members, -math.inf)
    weights = relative.exp() * (relative.masked_fill(~members, 0.0) + 1).clamp(min=0)
    return weights / (weights.sum(0, keepdim=True) / count).clamp(min=1e-12)


def category_loss(
    maps: Tensor,
    labels: Tensor,
    categories: Tensor,
    *,
    beta: float = 4.0,
    gain: float = 1.0,
    temperature: float = 0.5,
    negative_weight: float = 1.0,
    gather: bool = False,
) -> Tensor:
    """The filter loss with one template per image, as the paper's and the released code's training.

    An image of the filter's category has the template at the map's peak, every other image the
    negative one: ``-1/2 mean_c[w s+] - 1/2 mean_not_c[w s-]`` with ``s+ = gain mean_ij(x T_mu)``,
    ``s- = -gain mean_ij(x)`` and the weights of :func:`category_weights` held constant. The two
    halves are the released code's ``0.5 / density`` and ``0.5 / (1 - density)``.

    Args:
        maps: (B, U, H, W) activations >= 0, scaled to a mean of about one.
        labels: (B,) int64.
        categories: (U,) int64, the category of each filter.
        beta: Fall-off of the templates.
        gain: Sharpness of the scores.
        temperature: ``a`` of the weights.
        negative_weight: Weight of the images of other categories against those of the filter's.
        gather: Whether means and weights are over the images of all devices, with exact gradients.

    Returns:
        (U,) the loss of each filter, in units of the score.
    """
    height, width = maps.shape[-2:]
    templates = positive_templates(peak_cells(maps.detach()), height, width, beta)
    on = gain * reduce(maps * templates.to(maps.dtype), "b u h w -> b u", "mean")
    off = -gain * reduce(maps, "b u h w -> b u", "mean")
    if gather:
        on, off = gather_with_gradient(torch.stack((on, off), dim=1)).unbind(1)
        labels = gather_with_gradient(labels)
    members = rearrange(labels, "b -> b 1") == categories
    loss = maps.new_zeros(categories.shape)
    for score, group, share in ((on, members, 0.5), (off, ~members, 0.5 * negative_weight)):
        weights = category_weights(score.detach(), group, temperature)
        loss = loss - share * (weights * score).sum(0) / group.sum(0).clamp(min=1)
    return loss


class FilterLoss(nn.Module):
    """The filter loss of one interpretable layer, with its running state.

    Two things move with training and stand in buffers: the scale of each filter (the running mean
    of its activation over the images of its category), by which maps are divided so that scores
    span several nats whatever the layer's normalisation; and the strength with which each filter
    answers each category, by which it is assigned to one. Neither moves in evaluation.

    Args:
        num_units: Filters of the layer.
        num_categories: Categories that filters can belong to.
        assignment: ``exact``: the label-free mutual information over all templates; ``category``:
            one template per image, the negative one off the filter's category.
        beta: Fall-off of the templates.
        gain: Template gain on maps of mean one; nats between a template that fits and one that
            does not are of this order.
        temperature: ``a`` of the category form's weights.
        negative_weight: Weight of the negative template in the category form.
        momentum: Share that a running figure keeps at each step.
        single_category: Whether every filter belongs to category 1 (one category against the
            rest).
        balance: Whether each category has as many filters, see
            :func:`~pellucid.losses.balanced_assignment.balanced_assignment`, by
            running strengths at each step; else a filter belongs to the category that it answers
            most, which can leave categories without any.
        gather: Whether statistics are over the images of all devices.

    Raises:
        ValueError: An argument is outside its range.
    """

    scale: Tensor
    strength: Tensor
    seen: Tensor
    assigned: Tensor

    def __init__(
        self,
        num_units: int,
        num_categories: int,
        assignment: Assignment = "category",
        *,
        beta: float = 4.0,
        gain: float | None = None,
        temperature: float = 0.5,
        negative_weight: float = 1.0,
        momentum: float = 0.9,
        single_category: bool = False,
        balance: bool = False,
        gather: bool = True,
    ) -> None:
        super().__init__()
        if assignment not in ("exact", "category"):
            raise ValueError(f"assignment must be 'exact' or 'category', got {assignment!r}")
        gain = (20.0 if assignment == "exact" else 1.0) if gain is None else gain
        for name, value in (("beta", beta), ("gain", gain), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if negative_weight < 0:
            raise ValueError(f"negative_weight must be at least 0, got {negative_weight}")
        if balance and single_category:
            raise ValueError(
                "balance must be false where single_category is true: it is the only one"
            )
        self.assignment, self.beta, self.gain = assignment, beta, gain
        self.temperature, self.negative_weight = temperature, negative_weight
        self.momentum, self.single_category, self.gather = momentum, single_category, gather
        self.register_buffer("scale", torch.zeros(num_units))
        self.register_buffer("strength", torch.zeros(num_categories, num_units))
        self.register_buffer("seen", torch.zeros(num_categories))
        self.balance = balance
        if balance:  # Others would not find it in checkpoints of before.
            start = torch.arange(num_units) % num_categories
            self.register_buffer("assigned", start)
        self._templates: dict[tuple[int, int], Tensor] = {}

    @property
    def categories(self) -> Tensor:
        """(U,) int64, ``argmax_c`` of the running mean over images of c of ``sum_ij x_ij``.

        With ``balance``, what ``balanced_assignment`` makes of these means.
        """
        if self.single_category:
            return torch.ones_like(self.scale, dtype=torch.int64)
        if self.balance:
            return self.assigned
        return self.strength.argmax(0)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the filters.

        Args:
            maps: (B, U, H, W) activations >= 0, of any scale.
            labels: (B,) int64 categories.

        Returns:
            Scalar; nats for ``exact``.
        """
        # exp and log over hundreds of templates are not for half precision.
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            if self.training:
                self._update(maps.detach(), labels)
            scaled = maps / rearrange(self._safe_scale(), "u -> u 1 1")
            if self.assignment == "category":
                return category_loss(
                    scaled,
                    labels,
                    self.categories,
                    beta=self.beta,
                    gain=self.gain,
                    temperature=self.temperature,
                    negative_weight=self.negative_weight,
                    gather=self.gather,
                ).mean()
            templates = self._all_templates(*maps.shape[-2:]).to(maps) * self.gain
            pixels = templates.shape[-2] * templates.shape[-1]
            scores = torch.einsum("buhw,thw->but", scaled, templates / pixels)
            return mutual_information_loss(
                gather_with_gradient(scores) if self.gather else scores
            ).mean()

    def _safe_scale(self) -> Tensor:
        """The scale by which maps are divided, also of filters that their category leaves silent.

        A filter that hardly fires on its own category would else be divided by next to nothing,
        and its loss and gradient drown all others: it counts with its mean over all images, and
        one that is silent everywhere with a tenth of the layer's.
        """
        if not bool((self.seen > 0).any()):
            return torch.ones_like(self.scale)
        everywhere = (self.seen @ self.strength) / self.seen.sum()
        floor = torch.maximum(everywhere, everywhere.mean() / 10)
        return torch.maximum(self.scale, floor).clamp(min=1e-12)

    def _all_templates(self, height: int, width: int) -> Tensor:
        if (height, width) not in self._templates:
            self._templates[height, width] = all_templates(height, width, self.beta)
        return self._templates[height, width]

    @torch.no_grad()
    def _update(self, maps: Tensor, labels: Tensor) -> None:
        """Move the running strength of each filter on each category, and its scale."""
        mass = reduce(maps, "b u h w -> b u", "mean")
        if self.gather:
            mass, labels = gather_with_gradient(mass), gather_with_gradient(labels)
        member = nn.functional.one_hot(labels, len(self.seen)).to(mass)
        count = member.sum(0)
        mean = member.T @ mass / rearrange(count.clamp(min=1), "c -> c 1")
        # A category's first batch sets its mean, later ones move it.
        keep = torch.where(self.seen > 0, self.momentum, 0.0).masked_fill(count == 0, 1.0)
        keep = rearrange(keep, "c -> c 1")
        self.strength.mul_(keep).add_((1 - keep) * mean)
        self.seen.add_(count)
        if self.balance:
            # A function of what all processes have in common: each finds the same.
            self.assigned.copy_(balanced_assignment(self.strength))
        own = self.strength.gather(0, rearrange(self.categories, "u -> 1 u")).squeeze(0)
        if self.assignment == "exact":
            own = (self.seen @ self.strength) / self.seen.sum()
        self.scale.copy_(own)
