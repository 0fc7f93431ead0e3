"""The whole table on a network whose reasons are known."""

import json
import math
import warnings

import pytest
import torch
from torch import nn

from pellucid.attribution.agreement import rank_correlation
from pellucid.attribution.baselines import EdgeDetector
from pellucid.attribution.evaluation import (
    OwnExplanation,
    Settings,
    evaluate_explanations,
    make_subject,
)
from pellucid.attribution.method import (
    AttributionMethod,
    ClassScores,
    Finding,
    UnsupportedNetwork,
)
from pellucid.attribution.part_effects import part_correlation, part_relevance, true_part_effects
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.metrics.bootstrap import bootstrap_interval
from pellucid.metrics.maps import (
    deletion_auc,
    evaluate_maps,
    infidelity,
    max_sensitivity,
    relevance_mass,
)
from pellucid.metrics.maps.suite import label_parts_of
from tests.helpers import TinyData, TinyModel

COUNT = 10
QUICK = Settings(
    steps=4,
    squares=8,
    sensitivity_images=4,
    sensitivity_samples=2,
    randomised_images=6,
    resamples=50,
)


class Gradient(AttributionMethod):
    """Input times gradient, of which the test knows all."""

    name, label, sign, promises_completeness = "gradient", "Gradient", "signed", True

    def explain(self, network, image, target):
        image = image.requires_grad_()
        scores = network(image)
        target = scores.argmax(1) if target is None else target
        of_target = scores.gather(1, target[:, None])
        (gradient,) = torch.autograd.grad(of_target.sum(), image)
        pixels = image.detach() * gradient
        return Finding(pixels=pixels, error=torch.full((len(image),), 0.25))


class Refused(Gradient):
    name, label = "refused", "Refused"

    def check(self, network, image=None):
        raise UnsupportedNetwork("head", "it is not to its taste", "use another method")


class Broken(Gradient):
    name, label = "broken", "Broken"

    def explain(self, network, image, target):
        raise RuntimeError("the library fell over")


class Warns(Gradient):
    """Warns, and has no map of the image whose first value is the greatest."""

    name, label = "warns", "Warns"

    def explain(self, network, image, target):
        warnings.warn("it is only nearly right", stacklevel=2)
        heat = super().explain(network, image, target).pixels.sum(1)
        return Finding(heat=heat.where((image[:, 0, 0, 0] < 50)[:, None, None], torch.nan))


@pytest.fixture(scope="module")
def data():
    return SyntheticParts(image_size=32, test_size=COUNT, num_classes=3)


@pytest.fixture(scope="module")
def batch(data):
    return data.render("test", range(COUNT))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ClassScores(TinyModel(3).eval())


@pytest.fixture(scope="module")
def table(data, batch, network):
    subject = make_subject(network, batch["image"])
    methods = [OwnExplanation(), Gradient(), Refused(), Broken()]
    return evaluate_explanations([subject], methods, batch, data, settings=QUICK)


def row(table, name):
    return next(each for each in table.rows if each.method == name)


def test_rows_columns_and_kinds(table):
    kinds = [(each.method, each.kind) for each in table.rows]
    assert kinds == [
        ("own", "own"),
        ("gradient", "post_hoc"),
        ("refused", "post_hoc"),
        ("broken", "post_hoc"),
        ("random_map", "baseline"),
        ("edge_detector", "baseline"),
    ]
    columns = {column.key: column for column in table.columns}
    assert list(columns)[-2:] == ["gini", "entropy"]
    assert columns["gini"].higher_is_better is None
    assert columns["relevance_mass"].higher_is_better is True
    for key in ("deletion_auc", "infidelity", "max_sensitivity", "completeness_error"):
        assert columns[key].higher_is_better is False
    assert "relevance_rank_label_parts" in columns
    assert columns["deletion_auc"].unit == "probability"
    assert table.images == COUNT
    assert "attention_correlation" not in columns


def test_cells_are_the_metrics_of_the_method_s_maps(table, data, batch, network):
    image = batch["image"]
    target = network(image).argmax(1)
    found = row(table, "gradient")
    heat = Gradient().attribute(network, image, target).heat
    torch.testing.assert_close(found.heat, heat)
    torch.testing.assert_close(found.values["relevance_mass"], relevance_mass(heat, batch["mask"]))
    scores = network.model.class_scores
    with torch.no_grad():
        whole = evaluate_maps(
            heat, batch, scores, target=target, label_parts=label_parts_of(data), steps=4
        )
        fidelity = infidelity(scores, image, heat, target, squares=8)
    for key, value in whole.items():
        assert float(found.values[key].nanmean()) == pytest.approx(value, abs=1e-5), key
    torch.testing.assert_close(found.values["infidelity"], fidelity)
    moved = max_sensitivity(
        lambda x, t: Gradient().attribute(network, x, t).heat, image[:4], target[:4], samples=2
    )
    torch.testing.assert_close(found.values["max_sensitivity"][:4], moved)
    assert found.values["max_sensitivity"][4:].isnan().all()
    assert found.values["completeness_error"].tolist() == [0.25] * COUNT


def test_own_explanation_is_the_model_s(table, batch, network):
    with torch.no_grad():
        wanted = network.model.explain(batch)
    found = row(table, "own")
    torch.testing.assert_close(found.heat, wanted.heat_map())
    # Its units' contributions and bias add up to the score.
    assert float(found.values["completeness_error"].max()) < 1e-4
    assert found.seconds_per_image > 0


def test_the_network_that_knows_nothing(table, batch, network):
    found = row(table, "gradient")
    assert set(found.randomised) <= set(found.values)
    assert "relevance_mass" in found.randomised
    assert not torch.equal(found.randomised["relevance_mass"], found.values["relevance_mass"])
    alike = found.values["randomised_similarity"]
    assert alike.isnan().tolist() == [number >= 6 for number in range(COUNT)]
    assert float(alike[:6].max()) < 0.999
    assert found.randomised["gini"].isnan().tolist() == alike.isnan().tolist()
    for name in ("random_map", "edge_detector"):
        assert row(table, name).randomised is None
        assert "randomised_similarity" not in row(table, name).values


def test_methods_that_refuse_or_fail_leave_a_note_and_no_figure(table):
    assert row(table, "refused").note == (
        "refused: layer 'head': it is not to its taste; use another method"
    )
    assert row(table, "broken").note == "failed: RuntimeError: the library fell over"
    for name in ("refused", "broken"):
        assert row(table, name).heat is None
        assert row(table, name).values == {}


def test_effects_of_parts(table, data, batch, network):
    target = network(batch["image"]).argmax(1)
    effects = true_part_effects(
        network.model.class_scores, data, "test", range(COUNT), target, batch_size=3
    )
    assert table.part_effects.parts == data.part_names
    for number, part in enumerate(data.part_names):
        wanted = float(effects.score[:, number].nanmean())
        assert table.part_effects.score[part] == pytest.approx(wanted, abs=1e-5)
    found = row(table, "edge_detector")
    given = part_relevance(found.heat, batch["part_masks"])
    torch.testing.assert_close(
        found.part_correlation, part_correlation(given, effects.score), equal_nan=True
    )


def test_agreement_of_methods(table):
    assert table.agreement.methods == ("own", "gradient", "random_map", "edge_detector")
    first, second = row(table, "gradient").heat, row(table, "edge_detector").heat
    wanted = rank_correlation(first, second, (32, 32)).nanmean()
    assert float(table.agreement.rank_correlation[1, 3]) == pytest.approx(float(wanted))


def test_it_is_written_in_plain_values(table):
    found = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    cells = found["rows"][1]["cells"]
    interval = bootstrap_interval(row(table, "gradient").values["relevance_mass"], resamples=50)
    assert cells["relevance_mass"]["mean"] == pytest.approx(interval.mean)
    assert cells["relevance_mass"]["low"] == pytest.approx(interval.low)
    assert cells["relevance_mass"]["count"] == COUNT
    assert cells["max_sensitivity"]["count"] == 4
    assert set(found["rows"][2]["cells"].values()) == {None}
    assert found["rows"][4]["randomised"] is None
    assert set(found["rows"][1]["randomised"]) == {each["key"] for each in found["columns"]}
    assert len(found["agreement"]["rank_correlation"]) == 4
    parts = found["part_effects"]
    assert [each["method"] for each in parts["rows"]] == [each.method for each in table.rows]
    assert set(parts["true_effect"]) == set(parts["parts"])
    assert parts["rows"][1]["correlation"]["count"] <= COUNT


def test_maps_that_are_not_finite_and_warnings_are_told(data, batch, network):
    image = batch["image"].clone()
    image[3, 0, 0, 0] = 100.0
    changed = {**batch, "image": image}
    settings = Settings(steps=2, squares=2, sensitivity_images=0, randomised_images=0)
    found = evaluate_explanations(
        [make_subject(network, image)], [Warns()], changed, data, settings=settings
    )
    warned = row(found, "warns")
    assert "warning: it is only nearly right" in warned.note
    assert f"the map is not finite in 1 of {COUNT} images" in warned.note
    assert warned.values["gini"].isnan().tolist() == [number == 3 for number in range(COUNT)]
    assert found.as_dict()["rows"][0]["cells"]["gini"]["count"] == COUNT - 1
    assert "max_sensitivity" in found.skipped
    assert "randomised_similarity" in found.skipped
    assert warned.randomised is None


class Sick(nn.Module):
    """Scores of NaN for images whose first value is above a limit."""

    def __init__(self, network, limit):
        super().__init__()
        self.network, self.limit = network, limit

    def forward(self, image):
        scores = self.network(image)
        return scores.where((image[:, 0, 0, 0] < self.limit)[:, None], torch.nan)


def test_images_with_scores_of_nan_are_left_out_and_counted(data, batch, network):
    image = batch["image"]
    limit = float(image[:, 0, 0, 0].sort().values[-2:].mean())
    subject = make_subject(Sick(network, limit), image)
    settings = Settings(steps=2, squares=2, sensitivity_images=1)
    found = evaluate_explanations([subject], [Gradient()], batch, data, settings=settings)
    assert found.images == COUNT - 1
    assert "1 of 10 are left out" in found.skipped["images"]
    assert len(row(found, "gradient").heat) == COUNT - 1
    none = make_subject(Sick(network, -math.inf), image)
    empty = evaluate_explanations([none], [Gradient()], batch, data, settings=settings)
    assert empty.images == 0
    assert empty.rows == []
    assert "no image is left" in empty.skipped["rows"]
    json.dumps(empty.as_dict(), allow_nan=False)


class Fragile(nn.Module):
    """Scores of NaN for images of which a part was taken away."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        hole = (image == 0).flatten(1).any(1)
        return self.network(image).masked_fill(hole[:, None], torch.nan)


def test_changed_images_with_scores_of_nan_cost_a_column_only(data, batch, network):
    subject = make_subject(Fragile(network), batch["image"])
    settings = Settings(steps=2, squares=2, sensitivity_images=1, randomised_images=0)
    found = evaluate_explanations([subject], [Gradient()], batch, data, settings=settings)
    assert "not finite" in found.skipped["infidelity"]
    assert "not finite" in found.skipped["deletion_auc"]
    cells = found.as_dict()["rows"][0]["cells"]
    assert cells["deletion_auc"] is None
    assert cells["infidelity"] is None
    assert cells["relevance_mass"] is not None


class OneLogit(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)[:, :1]


def test_one_logit_has_no_probability(data, batch, network):
    subject = make_subject(OneLogit(network), batch["image"])
    settings = Settings(steps=2, squares=2, sensitivity_images=1)
    found = evaluate_explanations([subject], [Gradient()], batch, data, settings=settings)
    assert "one logit" in found.skipped["deletion_auc"]
    keys = [column.key for column in found.columns]
    assert "insertion_auc" not in keys
    assert "infidelity" in keys
    assert all(value != value for value in found.part_effects.probability.values())
    assert set(found.as_dict()["part_effects"]["true_effect"].values()) == {None}


def test_data_without_masks_say_what_is_left_out():
    data = TinyData(length=4)
    images = torch.stack([data.dataset("test")[i]["image"] for i in range(4)])
    batch = {"image": images, "index": torch.arange(4)}
    torch.manual_seed(0)
    subject = make_subject(ClassScores(TinyModel(3).eval()), images)
    settings = Settings(steps=2, squares=2, sensitivity_images=1)
    found = evaluate_explanations([subject], [OwnExplanation()], batch, data, settings=settings)
    assert "needs mask" in found.skipped["relevance_mass"]
    assert "needs part_masks" in found.skipped["relevance_rank_parts"]
    assert "cannot redraw" in found.skipped["part_effects"]
    assert found.part_effects is None
    assert found.as_dict()["part_effects"] is None
    assert [c.key for c in found.columns][:2] == ["deletion_auc", "insertion_auc"]


def test_another_network_is_judged_by_itself(data, batch, network, table):
    torch.manual_seed(1)
    other = ClassScores(TinyModel(3).eval())
    subjects = [
        make_subject(network, batch["image"]),
        make_subject(other, batch["image"], name="plain", adapt=lambda image: 2 * image),
    ]
    methods = [OwnExplanation(), Gradient()]
    found = evaluate_explanations(subjects, methods, batch, data, settings=QUICK)
    assert [each.method for each in found.rows] == [
        "own",
        "gradient",
        "random_map",
        "edge_detector",
        "plain/gradient",
    ]
    twin = found.rows[-1]
    assert (twin.label, twin.kind) == ("Gradient of plain", "post_hoc")
    image = 2 * batch["image"]
    target = other(image).argmax(1)
    heat = Gradient().attribute(other, image, target).heat
    torch.testing.assert_close(twin.heat, heat)
    with torch.no_grad():
        wanted = deletion_auc(other, image, heat, target, steps=4)
    torch.testing.assert_close(twin.values["deletion_auc"], wanted)
    # The table that it is about is as it was without it.
    for key, values in row(table, "gradient").values.items():
        torch.testing.assert_close(found.rows[1].values[key], values, equal_nan=True)
    effects = true_part_effects(
        other, data, "test", range(COUNT), target, adapt=lambda image: 2 * image
    )
    wanted = part_correlation(part_relevance(heat, batch["part_masks"]), effects.score)
    torch.testing.assert_close(twin.part_correlation, wanted, equal_nan=True)


def test_a_network_that_is_no_model_has_no_own_explanation(data, batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    settings = Settings(steps=2, squares=2, sensitivity_images=1)
    found = evaluate_explanations(
        [make_subject(net, batch["image"])], [OwnExplanation()], batch, data, settings=settings
    )
    assert "refused: layer 'Sequential'" in row(found, "own").note
    # Evaluation was for the call alone.
    assert net.training


def test_equal_seeds_give_equal_tables(data, batch, network):
    def once(seed):
        settings = Settings(steps=2, squares=4, sensitivity_images=1, resamples=20, seed=seed)
        subject = make_subject(network, batch["image"])
        found = evaluate_explanations([subject], [Gradient()], batch, data, settings=settings)
        rows = found.as_dict()["rows"]
        return [{**each, "seconds_per_image": 0} for each in rows]

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_wrong_input_is_named(data, batch, network):
    for name, least in (("steps", 1), ("squares", 2), ("seed", 0), ("randomised_images", 0)):
        with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
            Settings(**{name: least - 1})
    with pytest.raises(ValueError, match="radius must be above 0"):
        Settings(radius=0.0)
    with pytest.raises(ValueError, match="at least one network"):
        evaluate_explanations([], [EdgeDetector()], batch, data)
    few = make_subject(network, batch["image"][:2])
    with pytest.raises(ValueError, match=r"same images, got \[2, 10\]"):
        evaluate_explanations([few], [EdgeDetector()], batch, data)
    with pytest.raises(ValueError, match="of one image or more"):
        make_subject(nn.Flatten(), batch["image"][:0])
    with pytest.raises(ValueError, match=r"must give scores \(B, K\) of one class or more"):
        make_subject(nn.Identity(), batch["image"])
