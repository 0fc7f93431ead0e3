"""What models rely on whose reasons are known."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.analysis.bias import evaluate_bias, is_confounded
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.explanation import Explanation

CLASSES, COUNT = 3, 30


class Scenes(Dataset):
    """A background whose level, and a head whose level, are the class; the tail says nothing."""

    def __init__(self, removed=(), tied=True, swapped=False) -> None:
        self.removed, self.tied, self.swapped = removed, tied, swapped

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= COUNT:
            raise IndexError(index)
        label = index % CLASSES
        scene = label if self.tied else (index // CLASSES) % CLASSES
        scene = (scene + 1) % CLASSES if self.swapped else scene
        image, masks = torch.zeros(3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
        image[0] = scene
        if "head" not in self.removed:
            masks[0, 2:4, 2:4] = True
            image[1, 2:4, 2:4] = label + 1
        # Every other image hides the tail.
        if "tail" not in self.removed and index % 2:
            masks[1, 5:7, 5:7] = True
        return {
            "image": image,
            "label": torch.tensor(label),
            "part_masks": masks,
            "mask": masks.any(0),
        }


class Data:
    confound, remove_parts, batch_size = 1.0, (), 7
    part_names = ("head", "tail")

    def make_dataset(self, split, *, remove_parts=None, confound=None, swap_background=False):
        assert split == "test"
        return Scenes(remove_parts or (), confound != 0.0, swap_background)


class Reader(torch.nn.Module):
    """Reads the class off the background or off the head, and says so by its map."""

    def __init__(self, head: bool, maps: bool = True) -> None:
        super().__init__()
        self.head, self.maps = head, maps

    def class_scores(self, image: Tensor) -> Tensor:
        level = image[:, 1, 2, 2] - 1 if self.head else image[:, 0, 0, 0]
        return torch.eye(CLASSES)[level.clamp(min=0).long()]

    def explain(self, batch: Any) -> Explanation:
        scores = self.class_scores(batch["image"])
        heat = torch.zeros(len(scores), 8, 8)
        heat[:, 2, 2] = 1.0
        heat = heat if self.head else 1 - (batch["image"][:, 1] > 0).float()
        return Explanation(scores=scores, target=scores.argmax(1), heat=heat if self.maps else None)


def test_a_model_that_reads_the_head_relies_on_nothing_else():
    found = evaluate_bias(Reader(head=True), Data())
    assert found == {
        "test/accuracy": 1.0,
        "deconfounded/accuracy": 1.0,
        "bias/swap_background": 0.0,
        # Without a head it says class 0, which a third of the images are of.
        "bias/remove_head": pytest.approx(2 / 3),
        "bias/remove_tail": 0.0,
        "bias/background_relevance": 0.0,
    }


def test_a_model_that_reads_the_background_is_found_out():
    found = evaluate_bias(Reader(head=False), Data())
    assert found["test/accuracy"] == 1.0
    assert found["deconfounded/accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert found["bias/swap_background"] == 1.0
    assert found["bias/remove_head"] == found["bias/remove_tail"] == 0.0
    # All but the head's four pixels, of which half of the images show four of the tail too.
    assert found["bias/background_relevance"] == pytest.approx((1 + 56 / 60) / 2)


def test_parts_that_are_removed_already_and_models_without_maps_are_left_out():
    data = Data()
    data.remove_parts = ("head",)
    found = evaluate_bias(Reader(head=False, maps=False), data)
    assert "bias/remove_head" not in found
    assert "bias/background_relevance" not in found


def test_the_first_images_alone():
    looked = evaluate_bias(Reader(head=True), Data(), images=1)
    # The first image hides its tail: nothing to be said of it.
    assert looked["bias/remove_tail"] != looked["bias/remove_tail"]
    assert looked["test/accuracy"] == 1.0
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        evaluate_bias(Reader(head=True), Data(), images=0)


class Corner(Reader):
    """Votes by what it finds in the upper left corner of a figure's image."""

    def class_scores(self, image: Tensor) -> Tensor:
        return image[:, :, :6, :6].mean((2, 3)) @ torch.tensor(
            [[1.0, -2, 1, 0], [0, 1, -2, 1], [1, 0, 1, -2]]
        )

    def explain(self, batch: Any) -> Explanation:
        scores = self.class_scores(batch["image"])
        heat = torch.zeros(len(scores), 64, 64)
        heat[:, :6, :6] = 1
        return Explanation(scores=scores, target=scores.argmax(1), heat=heat)


def test_the_built_in_figures_can_be_judged():
    data = SyntheticParts(test_size=60, confound=0.9)
    assert is_confounded(data)
    assert not is_confounded(SyntheticParts(test_size=60))
    found = evaluate_bias(Corner(head=False), data)
    assert found["bias/swap_background"] > 0.3
    assert max(found[f"bias/remove_{part}"] for part in data.part_names) < 0.2
    assert found["bias/background_relevance"] > 0.9
