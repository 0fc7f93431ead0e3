"""Judging any heat maps of a batch by all metrics that the batch allows."""

import pytest
import torch

from pellucid.batch import BatchError
from pellucid.metrics import maps as judge
from pellucid.metrics.maps.suite import ALL_NAMES, label_parts_of, make_map_suite


def batch(count=5):
    torch.manual_seed(0)
    part_masks = torch.rand(count, 3, 8, 8) < 0.2
    return {
        "image": torch.randn(count, 3, 8, 8),
        "part_masks": part_masks,
        "mask": part_masks.any(1),
        "attention": torch.rand(count, 16, 16)[:, ::2, ::2].contiguous(),
    }


def scores(image):
    return image.mean((2, 3)) * 5


def test_each_figure_is_that_of_its_function():
    given, maps = batch(), torch.rand(5, 4, 4)
    del given["attention"]
    found = judge.evaluate_maps(maps, given, scores, label_parts=(0, 2), steps=8)
    part_masks, mask = given["part_masks"], given["mask"]
    label = part_masks[:, 0] | part_masks[:, 2]
    wanted = {
        "relevance_mass": judge.relevance_mass(maps, mask),
        "relevance_mass_parts": judge.relevance_mass(maps, part_masks.any(1)),
        "relevance_mass_label_parts": judge.relevance_mass(maps, label),
        "relevance_rank": judge.relevance_rank(maps, mask),
        "relevance_rank_parts": judge.relevance_rank(maps, part_masks.any(1)),
        "relevance_rank_label_parts": judge.relevance_rank(maps, label),
        "pointing_game": judge.pointing_game(maps, mask),
        "iou_best": judge.best_iou(maps, mask),
        "gini": judge.map_gini(maps),
        "entropy": judge.map_entropy(maps),
        "deletion_auc": judge.deletion_auc(scores, given["image"], maps, steps=8),
        "insertion_auc": judge.insertion_auc(scores, given["image"], maps, steps=8),
    }
    assert found == pytest.approx({name: float(value.mean()) for name, value in wanted.items()})


def test_a_batch_without_annotation_has_fewer_figures():
    given, maps = batch(), torch.rand(5, 4, 4)
    bare = judge.evaluate_maps(maps, {"image": given["image"]})
    assert bare.keys() == {"gini", "entropy"}
    chosen = judge.evaluate_maps(maps, given, scores, names=["relevance_mass", "deletion_auc"])
    assert chosen.keys() == {"relevance_mass", "deletion_auc"}
    assert "relevance_mass_label_parts" not in judge.evaluate_maps(
        maps, given | {"attention": torch.rand(5, 8, 8)}, names=["relevance_mass"]
    )


def test_human_attention_of_a_batch_is_compared():
    given = {"image": torch.randn(4, 3, 28, 28), "attention": torch.rand(4, 28, 28)}
    found = judge.evaluate_maps(given["attention"].square(), given)
    assert found["attention_correlation"] > 0.9


def test_wrong_inputs_say_what_is_wrong():
    given, maps = batch(), torch.rand(5, 4, 4)
    with pytest.raises(BatchError, match="mask"):
        judge.evaluate_maps(maps, given | {"mask": given["mask"][:, :4]})
    with pytest.raises(ValueError, match="image has 5 images, maps have 4"):
        judge.evaluate_maps(maps[:4], given)
    with pytest.raises(ValueError, match="image is 8 x 8, maps are 9 x 9"):
        judge.evaluate_maps(torch.rand(5, 9, 9), given)
    with pytest.raises(ValueError, match=r"maps\[0\] has a value that is not finite"):
        judge.evaluate_maps(maps * torch.nan, given)
    with pytest.raises(
        ValueError, match="there is no metric 'mass' of maps; choose from relevance"
    ):
        judge.evaluate_maps(maps, given, names=["mass"])


class Data:
    provides = frozenset({"image", "mask", "part_masks"})
    part_names = ("head", "body", "tail")
    label_parts = ("tail", "head")


class Bare:
    provides = frozenset({"image", "label"})
    part_names = ()


def test_the_suite_is_what_the_data_allow():
    built, skipped = make_map_suite(Data())
    assert label_parts_of(Data()) == (2, 0)
    assert set(ALL_NAMES) - built.keys() == {
        "attention_correlation",
        "deletion_auc",
        "insertion_auc",
        # Of models that can be given another attention.
        "attention_faithfulness",
        "attention_faithfulness_even",
        "attention_faithfulness_strongest",
    }
    assert skipped == {}
    built, skipped = make_map_suite(Bare())
    assert built.keys() == {"gini", "entropy"}
    assert skipped.keys() == {"relevance_mass", "relevance_rank", "pointing_game", "iou_best"}
    assert skipped["iou_best"] == "needs mask, which Bare does not provide"
    built, skipped = make_map_suite(Bare(), ["gini", "attention_correlation"])
    assert built.keys() == {"gini"}
    assert skipped == {"attention_correlation": "needs attention, which Bare does not provide"}
