"""A model's own explanation, as one method among the others."""

import torch
from torch import Tensor, nn

from pellucid.attribution.method import AttributionMethod, ClassScores, Finding, UnsupportedNetwork
from pellucid.metrics.maps.completeness import completeness_error
from pellucid.models.base import InterpretableModel


class OwnExplanation(AttributionMethod):
    """What a model's :meth:`~pellucid.models.base.InterpretableModel.explain` says.

    The map is :meth:`Explanation.heat_map`. Where units' contributions and a bias promise to add up
    to the score, the completeness error is that of their sum.
    """

    name = "own"
    label = "Own explanation"
    sign = "signed"

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`."""
        if not isinstance(network, ClassScores) or not isinstance(
            network.model, InterpretableModel
        ):
            raise UnsupportedNetwork(
                type(network).__name__,
                "it is no model of the house, and has no explanation of its own",
                "give ClassScores(model), or leave 'own' out",
            )

    @torch.no_grad()
    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        model = network.model
        assert isinstance(model, InterpretableModel)
        found = model.explain({"image": image}, target)
        heat = found.heat_map()
        if heat is None:
            raise UnsupportedNetwork(
                type(model).__name__,
                "its explain() gives no map to be judged",
                "leave 'own' out",
            )
        error = None
        if found.contributions is not None and found.bias is not None:
            score = found.scores
            # One logit stands for one category against its negatives.
            column = found.target if score.shape[1] > 1 else torch.zeros_like(found.target)
            explained = score.gather(1, column.unsqueeze(1)).squeeze(1) - found.bias
            error = completeness_error(found.contributions, explained)
        return Finding(heat=heat, error=error)
