"""A look over a split, and what is picked from it."""

import pytest
import torch

from pellucid.analysis.overview import look_over, pick_for_units, pick_images, spread
from pellucid.analysis.representatives import unit_representatives
from pellucid.analysis.submodular_pick import heat_features, submodular_pick
from pellucid.models.explanation import Explanation
from tests.helpers import TinyData, TinyModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel(3).eval()


def test_it_sees_every_image_of_a_small_split(model):
    data = TinyData(length=11, batch_size=4)
    found = look_over(model, data, "test")
    assert found.places.tolist() == list(range(11))
    assert found.labels.tolist() == [i % 3 for i in range(11)]
    images = torch.stack([data.dataset("test")[i]["image"] for i in range(11)])
    with torch.no_grad():
        wanted = model.explain({"image": images})
    torch.testing.assert_close(found.features, wanted.contributions)
    torch.testing.assert_close(found.responses, wanted.maps.amax((2, 3)))
    picked, reasons = pick_images(found, 3)
    assert picked == submodular_pick(wanted.contributions, 3).images
    assert reasons[0].startswith("picked: first to show filter ")
    assert len(reasons) == 3
    units = pick_for_units(found, 2)
    assert units == unit_representatives(wanted.maps.amax((2, 3)), found.labels, 2)


def test_another_explains_in_its_place(model):
    data = TinyData(length=11, batch_size=4)

    def heat(image, target):
        assert target.shape == image.shape[:1]
        return image.square().sum(1)

    own, found = look_over(model, data, "test"), look_over(model, data, "test", heat=heat)
    images = torch.stack([data.dataset("test")[i]["image"] for i in range(11)])
    torch.testing.assert_close(found.features, heat_features(images.square().sum(1)))
    # Cells have no names, and what units respond to is the model's.
    assert found.feature_names == ()
    assert found.responses.equal(own.responses)


def test_places_are_those_of_the_split_where_not_all_are_seen(model):
    data = TinyData(length=20)
    found = look_over(model, data, "test", limit=5)
    assert found.places.tolist() == [0, 4, 8, 12, 16]
    assert set(pick_images(found, 2)[0]) <= set(found.places.tolist())
    strong = {i for unit in pick_for_units(found).representative for i in unit}
    assert strong <= set(found.places.tolist())
    assert spread(3, 10) == [0, 1, 2]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        look_over(model, data, limit=0)


class Sick(TinyModel):
    """Has no finite score of every third image."""

    def explain(self, batch, target=None):
        found = super().explain(batch, target)
        bad = torch.arange(len(found.scores)) % 3 == 1
        return Explanation(
            scores=found.scores.masked_fill(bad[:, None], torch.nan),
            target=found.target,
            maps=found.maps,
        )


def test_images_with_scores_of_nan_are_never_picked():
    torch.manual_seed(0)
    found = look_over(Sick(3).eval(), TinyData(length=8), "test")
    assert found.places.tolist() == [0, 2, 3, 5, 6]
    # Without contributions, cells of the heat map stand for features, which have no names.
    assert found.features.shape == (5, 16)
    picked, reasons = pick_images(found, 2)
    assert set(picked) <= {0, 2, 3, 5, 6}
    assert "new features" in reasons[0]


class Mute(TinyModel):
    """Explains by nothing."""

    def explain(self, batch, target=None):
        found = super().explain(batch, target)
        return Explanation(scores=found.scores, target=found.target)


def test_a_model_that_tells_nothing_has_images_from_all_over():
    found = look_over(Mute(3).eval(), TinyData(length=9), "test")
    assert found.features is None
    picked, reasons = pick_images(found, 3)
    assert picked == [0, 3, 6]
    assert "spread evenly" in reasons[0]
    assert pick_for_units(found) is None
    assert pick_images(found, 0) == ([], [])
