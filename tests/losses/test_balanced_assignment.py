"""Filters spread evenly over categories: the assignment, and its place in the filter loss."""

from itertools import permutations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.losses.balanced_assignment import balanced_assignment
from pellucid.losses.filter_loss import FilterLoss
from pellucid.models.interpretable_cnn import InterpretableCNN


def test_what_each_filter_answers_most_where_that_is_even() -> None:
    strength = torch.tensor([[9.0, 1, 1, 8], [1, 9, 9, 1]])
    assert balanced_assignment(strength).tolist() == [0, 1, 1, 0]


def test_the_least_decided_filter_goes_where_one_is_missing() -> None:
    # All prefer category 0; the third prefers it least, though it is the strongest.
    strength = torch.tensor([[9.0, 8, 60, 7], [1, 1, 50, 2]])
    assert balanced_assignment(strength).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("categories", "units"), [(2, 4), (2, 5), (3, 7), (4, 3), (3, 6)])
def test_against_all_assignments(categories: int, units: int) -> None:
    strength = torch.rand(categories, units, generator=torch.Generator().manual_seed(units))
    share = strength / strength.sum(0)

    def worth(assignment: tuple[int, ...]) -> float:
        return sum(float(share[c, u]) for u, c in enumerate(assignment))

    even = [u % categories for u in range(units)]
    # Which categories have one more is open, so that all ways to name them count.
    allowed = {
        tuple(names[c] for c in order)
        for order in set(permutations(even))
        for names in permutations(range(categories))
    }
    found = tuple(balanced_assignment(strength).tolist())
    assert found in allowed
    assert worth(found) == pytest.approx(max(map(worth, allowed)))


def test_silent_filters_are_assigned_too() -> None:
    assert balanced_assignment(torch.zeros(3, 6)).bincount().tolist() == [2, 2, 2]


def batch(seed: int, images: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(images, 6, 4, 4, generator=generator)
    maps[::3] *= 5  # Category 0 activates every filter most.
    return maps, torch.arange(images) % 3


def test_categories_are_even_and_kept_in_evaluation() -> None:
    loss, plain = FilterLoss(6, 3, balance=True), FilterLoss(6, 3)
    assert loss.categories.tolist() == [0, 1, 2, 0, 1, 2]
    for seed in range(3):
        loss(*batch(seed))
        plain(*batch(seed))
    assert plain.categories.tolist() == [0] * 6
    assert loss.categories.bincount().tolist() == [2, 2, 2]
    assert torch.equal(loss.categories, balanced_assignment(loss.strength))
    assert torch.equal(loss.scale, loss.strength[loss.categories, torch.arange(6)])
    before = loss.categories.clone()
    loss.eval()(*batch(9))
    assert torch.equal(loss.categories, before)


def test_a_resumed_loss_goes_on_as_it_was() -> None:
    whole, first = FilterLoss(6, 3, balance=True), FilterLoss(6, 3, balance=True)
    for seed in range(2):
        whole(*batch(seed))
        first(*batch(seed))
    second = FilterLoss(6, 3, balance=True)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.categories, first.categories)
    assert torch.equal(second(*batch(2)), whole(*batch(2)))
    assert torch.equal(second.categories, whole.categories)
    # A loss without balance reads checkpoints of before, which have no assignment.
    assert "assigned" not in FilterLoss(6, 3).state_dict()


def on_two() -> tuple[list[int], float]:
    loss = FilterLoss(6, 3, balance=True)
    value = torch.zeros(())
    for seed in range(3):
        maps, labels = batch(seed)
        own = slice(0, 5) if dist.get_rank() == 0 else slice(5, 10)
        value = loss(maps[own], labels[own])
    return loss.categories.tolist(), float(value)


@pytest.mark.ddp
def test_two_processes_agree_with_one(run_on_two) -> None:
    loss = FilterLoss(6, 3, balance=True)
    for seed in range(3):
        maps, labels = batch(seed)
        value = loss(maps[:10], labels[:10])
    for categories, found in run_on_two(on_two):
        assert categories == loss.categories.tolist()
        assert found == pytest.approx(float(value), rel=1e-5)


def test_it_needs_several_categories() -> None:
    with pytest.raises(ValueError, match="balance must be false where single_category is true"):
        FilterLoss(6, 2, single_category=True, balance=True)
    with pytest.raises(ValueError, match="got head 'sigmoid' and assignment 'category'"):
        InterpretableCNN(2, "small", head="sigmoid", balanced_categories=True)
    with pytest.raises(ValueError, match="got head 'softmax' and assignment 'exact'"):
        InterpretableCNN(3, "small", assignment="exact", balanced_categories=True)


def test_the_model_hands_it_on() -> None:
    model = InterpretableCNN(3, "small", num_units=6, balanced_categories=True)
    found = model.assigned_categories()
    assert found is not None
    assert found.bincount().tolist() == [2, 2, 2]
