import math
from typing import Any

import pytest
import torch

from pellucid.analysis.categories import UnitCategories, unit_categories
from pellucid.models.interpretable_cnn import InterpretableCNN
from pellucid.models.unit_metrics import UnitMetrics

NAMES = ("cat", "fox", "owl")


def make(**changes: Any) -> UnitCategories:
    votes = torch.tensor(
        [[0.1, 0.9, 0.0], [0.8, 0.0, 0.1], [0.2, 0.1, 0.0], [0.0, 0.3, 0.4], [0.5, 0.5, 0.6]]
    )
    fields = {"categories": torch.tensor([1, 0, 0, 1, -1]), "votes": votes, "assigned": True}
    return UnitCategories(**({"class_names": NAMES} | fields | changes))


def test_counts_balance_and_agreement() -> None:
    found = make()
    assert found.counts.tolist() == [2, 2, 0]
    assert found.balance == pytest.approx(math.log(2) / math.log(3))
    # Unit 3 is a fox's and votes more for the owl; unit 4 has no category.
    assert found.agreement == pytest.approx(3 / 4)


def test_order_is_by_category_then_by_vote() -> None:
    assert make().order().tolist() == [1, 2, 0, 3, 4]
    assert make(categories=torch.full((5,), -1)).order().sort().values.tolist() == [0, 1, 2, 3, 4]


def test_no_unit_has_a_category() -> None:
    found = make(categories=torch.full((5,), -1))
    assert found.counts.tolist() == [0, 0, 0]
    assert math.isnan(found.balance)
    assert math.isnan(found.agreement)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"votes": torch.zeros(5, 2)}, r"votes must have shape \(5, 3\)"),
        ({"votes": torch.zeros(4, 3)}, r"got \(4, 3\)"),
        ({"categories": torch.tensor([0, 1, 2, 3, 0])}, "from -1 to 2, got 0 to 3"),
    ],
)
def test_wrong_shapes_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(**wrong)


def model(**options: Any) -> InterpretableCNN:
    torch.manual_seed(0)
    return InterpretableCNN(**({"num_classes": 3, "backbone": "small", "num_units": 5} | options))


def test_votes_are_what_one_deviation_adds_to_a_score() -> None:
    net, image = model(templates=False).eval(), torch.randn(64, 3, 32, 32)
    # Statistics of just these images.
    net.pooled_norm.momentum, net.pooled_norm.eps = None, 1e-12
    net.pooled_norm.train()
    net(image)
    net.eval()
    with torch.no_grad():
        terms = net.explain({"image": image}, torch.full((64,), 2)).contributions
    found = unit_categories(net, torch.rand(5, 3), NAMES)
    assert found is not None
    assert terms is not None
    torch.testing.assert_close(terms.std(0), found.votes[:, 2].abs(), rtol=1e-3, atol=1e-5)


def test_categories_of_training_go_before_activations() -> None:
    net = model()
    net.filter_loss.strength.copy_(torch.eye(3)[:, [2, 0, 1, 1, 0]])
    activation = torch.eye(3)[[0, 1, 2, 0, 1]]
    found = unit_categories(net, activation, NAMES)
    assert found is not None
    assert (found.categories.tolist(), found.assigned) == ([2, 0, 1, 1, 0], True)
    activation[4] = 0.0
    activation[:, 2] = torch.nan
    plain = unit_categories(model(filter_loss_weight=0.0), activation, NAMES)
    assert plain is not None
    assert (plain.categories.tolist(), plain.assigned) == ([0, 1, -1, 0, -1], False)


def test_what_votes_for_no_classes_has_none() -> None:
    assert unit_categories(model(num_classes=2, head="sigmoid"), torch.rand(5, 2), "ab") is None
    net = model()
    net.unit_metrics = UnitMetrics("backbone.stages.0")
    assert unit_categories(net, torch.rand(5, 3), NAMES) is None
