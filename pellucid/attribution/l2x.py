"""L2X as a post-hoc method: what a trained explainer picks, see :mod:`pellucid.models.l2x`."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.attribution.method import AttributionMethod, Finding, Sign, UnsupportedNetwork
from pellucid.models import l2x
from pellucid.models.trained import read_model

_SAME = 1e-3
"""Largest difference of probabilities of two networks that count as the same."""


class L2X(AttributionMethod):
    """How likely a trained explainer picks each cell of an image.

    The explainer has learned one classifier; any other network is refused. The heat, a
    distribution over the explainer's cells, is the same for every target.

    Args:
        explainer: The run directory or the checkpoint of a :class:`pellucid.models.l2x.L2X`.

    Raises:
        ValueError: None is given, or it is of another model or explains labels.
        pellucid.errors.UserError: It cannot be read.
    """

    name: ClassVar[str] = "l2x"
    label: ClassVar[str] = "L2X"
    sign: ClassVar[Sign] = "positive"

    def __init__(self, explainer: str = "") -> None:
        how = "train one: pellucid run --config l2x_parts --model.explained RUN"
        if not explainer:
            raise ValueError(f"explainer must be a run or a checkpoint of L2X, got none; {how}")
        model = read_model(explainer, "explainer")
        if not isinstance(model, l2x.L2X):
            raise ValueError(
                f"explainer must be of L2X, got a {type(model).__name__} ({explainer}); {how}"
            )
        if model.explained_model is None:
            raise ValueError(f"explainer {explainer} explains labels, not a classifier; {how}")
        self.explainer = model.eval().requires_grad_(False)

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :class:`~pellucid.attribution.method.AttributionMethod`."""
        explained = self.explainer.explained_model
        if image is None or explained is None:
            return
        with torch.no_grad():
            own = explained.to(image.device).class_scores(image)
            theirs = network(image)
        alike = own.shape == theirs.shape
        if not alike or float((own.softmax(1) - theirs.softmax(1)).abs().max()) > _SAME:
            raise UnsupportedNetwork(
                type(network).__name__,
                "the explainer was trained for another network, whose scores differ",
                "train one for this network (--model.explained)",
            )

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :class:`~pellucid.attribution.method.AttributionMethod`."""
        with torch.no_grad():
            heat = l2x.over_cells(self.explainer.to(image.device).cell_logits(image))
        return Finding(heat=heat)
