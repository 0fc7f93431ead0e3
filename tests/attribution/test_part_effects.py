"""True effects of parts where they are known by construction."""

import pytest
import torch
from scipy.stats import spearmanr

from pellucid.attribution.part_effects import (
    can_redraw,
    part_correlation,
    part_relevance,
    true_part_effects,
)
from pellucid.datamodules.synthetic_parts import SyntheticParts
from tests.helpers import TinyData

LEVELS = (1.0, 3.0, -2.0)


class Blocks:
    """Parts that add their level to a channel each; every other image hides the third."""

    part_names = ("head", "tail", "leg")

    def __init__(self, remove_parts=()) -> None:
        self.remove_parts, self.asked = remove_parts, []

    def render(self, split, indices, *, remove_parts=None):
        self.asked.append((split, list(indices), tuple(remove_parts)))
        image = torch.zeros(len(indices), 3, 6, 6)
        masks = torch.zeros(len(indices), 3, 6, 6, dtype=torch.bool)
        for row, index in enumerate(indices):
            for number, name in enumerate(self.part_names):
                if name not in remove_parts and not (number == 2 and index % 2):
                    masks[row, number, 2 * number : 2 * number + 2, :2] = True
                    image[row, number, 2 * number : 2 * number + 2, :2] = LEVELS[number]
        return {"image": image, "part_masks": masks}


def scores(image):
    """The sum of the channels for class 1, nothing for class 0."""
    total = image.sum((1, 2, 3)) / 4
    return torch.stack((torch.zeros(len(image)), total), 1)


def test_effects_are_those_of_the_parts():
    data, target = Blocks(), torch.tensor([1, 1, 0, 1, 0])
    found = true_part_effects(scores, data, "val", [4, 7, 2, 0, 6], target, batch_size=2)
    shown = torch.tensor(LEVELS)
    torch.testing.assert_close(found.score[0], shown)
    torch.testing.assert_close(found.score[2], torch.zeros(3))
    torch.testing.assert_close(found.score[1, :2], shown[:2])
    assert found.score[1, 2].isnan()
    before, after = torch.tensor(2.0).sigmoid(), torch.tensor([1.0, -1.0, 4.0]).sigmoid()
    torch.testing.assert_close(found.probability[0], before - after)
    torch.testing.assert_close(found.probability[2], after - before)
    assert data.asked[0] == ("val", [4, 7], ())
    assert len(data.asked) == 3 * 4


def test_parts_that_no_figure_has_are_not_asked_for():
    data = Blocks(remove_parts=("tail",))
    found = true_part_effects(scores, data, "test", [0], torch.tensor([1]))
    assert found.score[0].isnan().tolist() == [False, True, False]
    assert [removed for _, _, removed in data.asked] == [
        ("tail",),
        ("tail", "head"),
        ("tail", "leg"),
    ]


def test_images_may_be_adapted_and_one_logit_has_no_probability():
    found = true_part_effects(
        lambda image: scores(image)[:, 1:],
        Blocks(),
        "test",
        [0],
        torch.tensor([0]),
        adapt=lambda image: 10 * image,
    )
    torch.testing.assert_close(found.score[0], 10 * torch.tensor(LEVELS))
    assert found.probability.isnan().all()


def test_the_built_in_figures_can_be_drawn_without_a_part():
    data = SyntheticParts(test_size=8)
    assert can_redraw(data)
    assert not can_redraw(TinyData())
    whole = data.render("test", [1, 5])
    weight = whole["part_masks"][0, 0].float()

    def reads_the_head(image):
        return torch.stack(((image * weight).sum((1, 2, 3)), torch.zeros(len(image))), 1)

    found = true_part_effects(reads_the_head, data, "test", [1, 5], torch.zeros(2).long())
    effect = found.score[0]
    assert abs(float(effect[0])) > 0.1
    others = effect[1:]
    # What is behind the head may show now; what is elsewhere changes nothing.
    assert int((others[~others.isnan()].abs() < 1e-3).sum()) >= 2


def test_relevance_is_the_share_of_the_mass():
    masks = Blocks().render("test", [0, 1], remove_parts=())["part_masks"]
    heat = torch.zeros(2, 6, 6)
    heat[:, 0, 0], heat[:, 3, 1], heat[:, 5, 5], heat[:, 4, 0] = 1.0, 2.0, 1.0, -7.0
    found = part_relevance(heat, masks)
    torch.testing.assert_close(found[0], torch.tensor([0.25, 0.5, 0.0]))
    torch.testing.assert_close(found[1, :2], torch.tensor([0.25, 0.5]))
    assert found[1, 2].isnan()
    assert part_relevance(-heat.abs(), masks).isnan().all()
    with pytest.raises(ValueError, match=r"part_masks must be bool of shape \(B=2, P, H, W\)"):
        part_relevance(heat, masks[:, 0])
    with pytest.raises(ValueError, match="part_masks is 6 x 6, maps are 9 x 9"):
        part_relevance(torch.ones(2, 9, 9), masks)


def test_correlation_agrees_with_scipy():
    generator = torch.Generator().manual_seed(0)
    relevance, effects = (torch.randn(20, 6, generator=generator) for _ in range(2))
    relevance[3:6] = relevance[3:6].round()
    effects[10:, 2] = torch.nan
    found = part_correlation(relevance, effects)
    for row in range(20):
        known = ~effects[row].isnan()
        wanted = spearmanr(relevance[row, known], effects[row, known]).statistic
        assert float(found[row]) == pytest.approx(wanted, abs=1e-5)


def test_images_that_show_too_little_are_not_judged():
    relevance = torch.tensor([[1.0, 2, torch.nan], [1, 2, 3], [1, 1, 1]])
    effects = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 2, 3]])
    found = part_correlation(relevance, effects)
    assert found[1] == 1
    assert found[[0, 2]].isnan().all()
    assert part_correlation(relevance, effects, least=2)[0] == 1
    with pytest.raises(ValueError, match="least must be at least 2 parts, got 1"):
        part_correlation(relevance, effects, least=1)
    with pytest.raises(ValueError, match=r"got \(3, 3\) and \(3, 2\)"):
        part_correlation(relevance, effects[:, :2])


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="target has 1 classes for 2 images"):
        true_part_effects(scores, Blocks(), "test", [0, 1], torch.tensor([1]))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        true_part_effects(scores, Blocks(), "test", [0], torch.tensor([1]), batch_size=0)
