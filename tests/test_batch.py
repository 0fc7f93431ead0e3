"""The batch contract: what is accepted, and what the errors say."""

import pytest
import torch

from pellucid.batch import FIELDS, Batch, BatchError, check_batch


def full_batch() -> Batch:
    return {
        "image": torch.zeros(2, 3, 8, 6),
        "label": torch.zeros(2, dtype=torch.int64),
        "parts": torch.zeros(2, 4, 2),
        "part_visible": torch.zeros(2, 4, dtype=torch.bool),
        "part_masks": torch.zeros(2, 4, 8, 6, dtype=torch.bool),
        "mask": torch.zeros(2, 8, 6, dtype=torch.bool),
        "attention": torch.zeros(2, 8, 6),
        "factors": torch.zeros(2, 5),
        "index": torch.arange(2),
    }


def test_a_batch_with_every_field_passes():
    batch = full_batch()
    assert batch.keys() == FIELDS
    check_batch(batch, requires=FIELDS)


def test_the_image_alone_passes_and_unknown_fields_are_left_alone():
    check_batch({"image": torch.zeros(1, 3, 4, 4).half()})
    check_batch({"image": torch.zeros(1, 3, 4, 4), "caption": ["a fox"]})  # type: ignore[typeddict-unknown-key]


def test_factors_may_be_whole_or_real_numbers():
    for dtype in (torch.int64, torch.float32):
        check_batch({**full_batch(), "factors": torch.zeros(2, 5).to(dtype)})


def test_a_missing_field_is_named_with_those_that_are_there():
    with pytest.raises(BatchError, match="no field 'mask'; it has image"):
        check_batch({"image": torch.zeros(1, 3, 4, 4)}, requires=("mask",))
    with pytest.raises(BatchError, match="no field 'image'; it has label"):
        check_batch({"label": torch.zeros(1, dtype=torch.int64)})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image", torch.zeros(3, 8, 6), r"'image'.*shape \(B, C, H, W\), got \(3, 8, 6\)"),
        ("label", torch.zeros(3, dtype=torch.int64), r"'label'.*shape \(B=2\), got \(3,\)"),
        ("parts", torch.zeros(2, 4, 3), r"'parts'.*\(B=2, P, 2=2\), got \(2, 4, 3\)"),
        ("part_visible", torch.zeros(2, 5, dtype=torch.bool), r"'part_visible'.*P=4.*\(2, 5\)"),
        ("part_masks", torch.zeros(2, 4, 6, 8, dtype=torch.bool), r"'part_masks'.*H=8, W=6"),
        ("mask", torch.zeros(2, 1, 8, 6, dtype=torch.bool), r"'mask'.*got \(2, 1, 8, 6\)"),
        ("image", torch.zeros(2, 3, 8, 6, dtype=torch.uint8), "float32 or .*, got uint8"),
        ("label", torch.zeros(2), "of type int64, got float32"),
        ("mask", torch.zeros(2, 8, 6), "of type bool, got float32"),
        ("index", [0, 1], r"tensor \(B=2\), got list"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_is_and_should_be(name, value, said):
    with pytest.raises(BatchError, match=said):
        check_batch({**full_batch(), name: value})
