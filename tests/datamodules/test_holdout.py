"""Validation images out of a training set."""

import pytest
import torch

from pellucid.datamodules.errors import DataError
from pellucid.datamodules.holdout import stratified_holdout

LABELS = torch.tensor([0, 0, 1, 7, 2] * 2 + [0, 1] * 13 + [0] * 23 + [2] * 2)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_class_gives_its_share_and_at_least_one(share):
    held = stratified_holdout(LABELS, share, 0)
    assert held.dtype == torch.bool
    for label in (0, 1, 2, 7):
        chosen = [bool(h) for h, own in zip(held, LABELS, strict=True) if own == label]
        assert sum(chosen) == max(1, round(share * len(chosen)))


def test_the_choice_is_a_function_of_the_seed():
    torch.manual_seed(1)
    first = stratified_holdout(LABELS, 0.25, 3)
    torch.manual_seed(2)
    assert torch.equal(first, stratified_holdout(LABELS, 0.25, 3))
    assert not torch.equal(first, stratified_holdout(LABELS, 0.25, 4))


def test_a_choice_is_not_the_first_images_of_a_class():
    held = stratified_holdout(torch.zeros(1000, dtype=torch.int64), 0.5, 0)
    assert 200 < int(held[:500].sum()) < 300


def test_a_class_keeps_a_training_image():
    with pytest.raises(DataError, match=r"class number 3 .* 1 training images, .* takes 1 for"):
        stratified_holdout(torch.tensor([0, 0, 3]), 0.1, 0)
    with pytest.raises(DataError, match="takes 2 for validation; add images or lower val_share"):
        stratified_holdout(torch.tensor([0, 0]), 0.9, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=f"val_share must be above 0 and below 1, got {share}"):
        stratified_holdout(LABELS, share, 0)
