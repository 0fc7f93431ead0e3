"""GAN, InfoGAN and AC-GAN: their losses, what they find in images, and whole runs."""

import hashlib
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.nn import functional as F

from pellucid.errors import UserError
from pellucid.models.ac_gan import ACGAN
from pellucid.models.adversarial import AdversarialModel
from pellucid.models.gan import GAN
from pellucid.models.info_gan import InfoGAN
from pellucid.models.judge import Judge
from tests.helpers import TinyData, TinyModel, call, only_run, write_config

SMALL = {"network": "infogan_svhn", "num_noise": 4}
MODELS = {
    "GAN": lambda **o: GAN(**SMALL | o),
    "InfoGAN": lambda **o: InfoGAN(**SMALL | {"categorical": (3, 2), "q_hidden": 8} | o),
    "ACGAN": lambda **o: ACGAN(3, **SMALL | o),
}


CODE_ERRORS = ("code_error_hungarian", "code_error_majority")


def batch_of(count=6, channels=1, size=32):
    source = torch.Generator().manual_seed(0)
    image = torch.rand(count, channels, size, size, generator=source)
    return {"image": image, "label": torch.arange(count) % 3, "index": torch.arange(count) + 5}


def make(name, **options):
    torch.manual_seed(0)
    return MODELS[name](**options)


def redo(model, batch):
    """The generator's turn written down again, with the same random numbers."""
    torch.manual_seed(3)
    codes = model.sample(batch)
    return codes, model.trunk(model.generator(model.codes.join(codes)))


@pytest.mark.parametrize("name", MODELS)
def test_each_turn_reaches_its_own_weights(name):
    model, batch = make(name), batch_of()
    for turn, others in zip(model.turns(), reversed(model.turns()), strict=True):
        model.zero_grad()
        turn.loss(batch)["loss"].backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in turn.parameters())
        if turn.name == "discriminator":
            assert all(p.grad is None for p in others.parameters())
    players = [p for turn in model.turns() for p in turn.parameters()]
    # Each weight has one player.
    assert len(players) == len(set(players)) == len(list(model.parameters()))


def test_gan_losses_are_the_printed_ones():
    model, batch = make("GAN"), batch_of()
    _, features = redo(model, batch)
    expected = -F.logsigmoid(model.real_or_generated(features)).mean()
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_turn(batch)["loss"], expected)
    real = model.real_or_generated(model.trunk(batch["image"]))
    game = -F.logsigmoid(real).mean() - F.logsigmoid(-model.real_or_generated(features)).mean()
    torch.manual_seed(3)
    torch.testing.assert_close(model.discriminator_turn(batch)["loss"], game)


def test_infogan_adds_the_bound_with_both_weights_to_both_losses():
    batch, losses = batch_of(), {}
    for weights in ((0, 0), (2, 0), (0, 3)):
        model = make("InfoGAN", categorical_weight=weights[0], continuous_weight=weights[1])
        for turn in model.turns():
            torch.manual_seed(3)
            losses[turn.name, weights] = turn.loss(batch)["loss"]
    codes, features = redo(model, batch)
    mean, *logits = model.q(features).split([2, 3, 2], 1)
    categorical = math.log(3) + math.log(2)
    for column, q in enumerate(logits):
        categorical -= F.cross_entropy(q, codes.categories[:, column])
    half = math.log(2 * math.pi) / 2
    continuous = 2 * (math.log(2) - half) - (mean - codes.continuous).square().sum(1).mean() / 2
    for turn in ("discriminator", "generator"):
        plain = losses[turn, (0, 0)]
        torch.testing.assert_close(losses[turn, (2, 0)], plain - 2 * categorical)
        torch.testing.assert_close(losses[turn, (0, 3)], plain - 3 * continuous)


def test_infogan_pairs_are_of_real_images_and_train_the_discriminator_alone():
    batch = batch_of()
    model, plain = make("InfoGAN", pairs_weight=2.0), make("InfoGAN")
    torch.manual_seed(3)
    found = model.discriminator_turn(batch)
    torch.manual_seed(3)
    without = plain.discriminator_turn(batch)
    assert "paired_information" not in without
    pairs = found["paired_information"].detach()
    assert 0 <= float(pairs) <= math.log(3) + math.log(2)
    torch.testing.assert_close(found["loss"], without["loss"] - 2 * pairs)
    torch.manual_seed(3)
    alone = plain.generator_turn(batch)["loss"]
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_turn(batch)["loss"], alone)


def test_acgan_classifies_real_and_generated_images():
    model, batch = make("ACGAN", class_weight=0.5), batch_of()
    codes, features = redo(model, batch)
    drawn = codes.categories[:, 0]
    # Negative log-likelihood of a soft-max, taken once.
    of_generated = -model.classifier(features).softmax(1)[range(6), drawn].log().mean()
    scores = model.classifier(model.trunk(batch["image"]))
    of_real = -scores.softmax(1)[range(6), batch["label"]].log().mean()
    torch.manual_seed(3)
    found = model.discriminator_turn(batch)
    torch.testing.assert_close(found["real_classification_loss"], of_real)
    torch.testing.assert_close(found["generated_classification_loss"], of_generated)
    plain = make("ACGAN", class_weight=0)
    torch.manual_seed(3)
    game = plain.discriminator_turn(batch)["loss"]
    torch.testing.assert_close(found["loss"], game + 0.5 * (of_real + of_generated))
    torch.manual_seed(3)
    game = plain.generator_turn(batch)["loss"]
    torch.manual_seed(3)
    torch.testing.assert_close(model.generator_turn(batch)["loss"], game + 0.5 * of_generated)


def test_what_q_misses_of_each_code_is_remembered(monkeypatch):
    monkeypatch.setattr("pellucid.models.info_gan.MOMENTUM", 1.0)
    model, batch = make("InfoGAN"), batch_of()
    assert model.code_information().tolist() == pytest.approx([0] * 4, abs=1e-6)
    torch.manual_seed(3)
    model.discriminator_turn(batch)
    codes, features = redo(model, batch)
    mean, logits = model.split(model.q(features))
    missed = [*(mean - codes.continuous).square().mean(0).tolist()]
    missed += [
        float(F.cross_entropy(q, codes.categories[:, i]).detach()) for i, q in enumerate(logits)
    ]
    assert model.missed.tolist() == pytest.approx(missed, rel=1e-4)
    model.missed.copy_(torch.tensor([0.01, 1.0, 0.1, 9.0]))
    first = math.log(2) - math.log(2 * math.pi * math.e * 0.01) / 2
    expected = [first, 0, math.log(3) - 0.1, 0]
    assert model.code_information().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_an_explanation_has_a_row_for_each_code(name, channels):
    model, batch = make(name, channels=channels).eval(), batch_of(4, channels)
    found = model.explain({"image": batch["image"]})
    shown = found.traversals
    rows = {"GAN": 4, "InfoGAN": 4, "ACGAN": 1}[name]
    assert shown.images.shape == (4, rows, 10, channels, 32, 32)
    assert 0 <= shown.images.min() <= shown.images.max() <= 1
    assert shown.values.shape == (4, rows, 10)
    assert len(shown.names) == len(shown.kinds) == len(shown.importance) == rows
    # A plain GAN does not know which of its noise variables matter.
    unknown = shown.importance.isnan().all()
    assert unknown == (name == "GAN")
    assert unknown or (shown.importance.diff() <= 0).all()
    assert found.scores.shape == (4, 3 if name == "ACGAN" else 0)
    again = model.explain({"image": batch["image"]}).traversals
    assert torch.equal(again.images, shown.images)
    assert (shown.codes is None) == (name == "GAN")


@torch.no_grad()
def test_a_row_changes_one_code_and_keeps_what_q_reads():
    model, batch = make("InfoGAN").eval(), batch_of(2)
    model.missed.copy_(torch.tensor([1.0, 0.2, 1.05, 0.01]))
    found = model.explain(batch)
    shown = found.traversals
    # Sorted: the second category is all known, then the second continuous code.
    assert shown.names == ("category 1", "continuous 1", "category 0", "continuous 0")
    assert shown.kinds == ("categorical", "continuous", "categorical", "continuous")
    assert shown.values[0, 0].tolist() == [0, 1] * 5
    assert shown.values[1, 1].tolist() == pytest.approx(torch.linspace(-2, 2, 10).tolist())
    mean, logits = model.split(model.q(model.trunk(batch["image"])))
    codes, read, _ = model.infer(batch["image"])
    torch.testing.assert_close(read, torch.cat([mean, *[q.softmax(1) for q in logits]], 1))
    torch.testing.assert_close(found.codes, read)
    chosen = torch.stack([logits[1].argmax(1), logits[0].argmax(1)], 1)
    torch.testing.assert_close(shown.codes[:, [0, 2]], chosen.float())
    torch.testing.assert_close(shown.codes[:, [3, 1]], mean)
    codes.continuous[:, 1] = 2.0
    torch.testing.assert_close(shown.images[:, 1, 9], model.draw(codes))
    # Where the code has the value that Q reads, the picture is the reconstruction.
    for i in range(2):
        chosen = int(logits[1][i].argmax())
        torch.testing.assert_close(shown.images[i, 0, chosen], found.reconstruction[i])


def test_acgan_shows_each_class_and_reconstructs_the_target():
    model, batch = make("ACGAN").eval(), batch_of(4)
    target = torch.tensor([2, 0, 1, 1])
    found = model.explain(batch, target)
    for i, chosen in enumerate(target.tolist()):
        torch.testing.assert_close(found.traversals.images[i, 0, chosen], found.reconstruction[i])
    assert torch.equal(found.target, target)
    predicted = model.explain(batch)
    assert torch.equal(predicted.target, predicted.scores.argmax(1))
    assert found.traversals.codes.tolist() == [[2], [0], [1], [1]]


def test_the_running_mean_draws_in_evaluation():
    model, batch = make("GAN", ema_decay=0.9).eval(), batch_of()
    before = model.evaluate(batch, "val")["generator_loss"]
    for p in model.generator.parameters():
        p.data.zero_()
    assert model.evaluate(batch, "val")["generator_loss"] == before
    model.on_update()
    assert model.evaluate(batch, "val")["generator_loss"] != before
    assert any(name.startswith("ema.") for name in model.state_dict())


def test_evaluation_draws_the_same_whenever_it_comes():
    model = make("InfoGAN").eval()
    first = model.evaluate(batch_of(), "val")
    torch.rand(7)
    second = model.evaluate(batch_of(), "val")
    assert first["loss"] == second["loss"]
    other = batch_of() | {"index": torch.arange(6)}
    assert model.evaluate(other, "val")["loss"] != first["loss"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GAN", {"channels": 2}, r"channels must be 1 \(greys\) or 3 \(colours\), got 2"),
        ("GAN", {"lr": 0}, r"lr must be greater than 0, got 0"),
        ("GAN", {"lr": math.inf}, r"lr must be finite, got inf"),
        ("GAN", {"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ("GAN", {"ema_decay": 2.0}, r"ema_decay must be in \(0, 1\), got 2.0"),
        ("GAN", {"traversal_steps": 1}, r"traversal_steps must be at least 2, got 1"),
        ("InfoGAN", {"categorical_weight": -1}, r"categorical_weight must be at least 0, got -1"),
        ("InfoGAN", {"pairs_balance": math.nan}, r"pairs_balance must be at least 0, got nan"),
        ("InfoGAN", {"q_hidden": 0}, r"q_hidden must be at least 1, got 0"),
        ("InfoGAN", {"categorical": (), "num_continuous": 0}, r"num_continuous must be above 0"),
        ("InfoGAN", {"categorical": (), "pairs_weight": 1.0}, r"pairs_weight is for categorical"),
        ("ACGAN", {"class_weight": -1}, r"class_weight must be at least 0, got -1"),
        ("ACGAN", {"class_weight": math.nan}, r"class_weight must be at least 0, got nan"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_infogan_without_categories_and_without_continuous_codes():
    for options in ({"categorical": ()}, {"num_continuous": 0}):
        model = make("InfoGAN", **options)
        for turn in model.turns():
            assert turn.loss(batch_of())["loss"].isfinite()
        shown = model.eval().explain(batch_of(2)).traversals
        assert shown.images.shape[1] == 2


CONFIG = """\
# An adversarial model on coloured squares, for tests.
trainer:
  max_epochs: 1
  limit_train_batches: 2
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: {class_path}
  init_args: {{network: infogan_svhn, channels: 3, num_noise: 4{more}}}
data:
  class_path: tests.helpers.TinyData
  init_args: {{image_size: 32}}
"""
CLASSES = {
    "GAN": ("pellucid.models.gan.GAN", ""),
    "InfoGAN": ("pellucid.models.info_gan.InfoGAN", ", categorical: [3, 2], ema_decay: 0.9"),
    "ACGAN": ("pellucid.models.ac_gan.ACGAN", ""),
}


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    """A checkpoint of a classifier of the coloured squares."""
    folder = tmp_path_factory.mktemp("judge")
    text = yaml.safe_load(CONFIG.format(class_path="tests.helpers.TinyModel", more=""))
    text["model"].pop("init_args")
    config = write_config(folder, yaml.safe_dump(text))
    assert call("fit", "--config", config, "--run_root", folder / "runs") == 0
    return only_run(folder / "runs") / "checkpoints/best.ckpt"


@pytest.mark.parametrize("name", CLASSES)
def test_a_whole_run_is_judged(name, judge, tmp_path):
    class_path, more = CLASSES[name]
    config = write_config(tmp_path, CONFIG.format(class_path=class_path, more=more))
    words = ["run", "--config", config, "--run_root", tmp_path, "--model.judge", judge]
    assert call(*words) == 0
    run = only_run(tmp_path)
    results = json.loads((run / "results.json").read_text())
    told = results["judge"]
    assert told["checkpoint"] == str(judge)
    assert told["sha256"] == hashlib.sha256(judge.read_bytes()).hexdigest()
    assert told["model"] == "tests.helpers.TinyModel"
    checkpoint = run / "checkpoints/best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["judge"] == "none"
    assert not any("judge" in key or "features" in key for key in saved["state_dict"])
    model = type(make(name)).load_from_checkpoint(checkpoint, weights_only=True)
    # The squares are normalised: what the model knows of it came from the data module.
    assert model.image_range.std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert model.eval().explain(batch_of(2, 3)).traversals.images.isfinite().all()
    figures = figures_of_test(run, checkpoint, tmp_path / "judged")
    assert figures["test/classifier_fid"] > 0
    own = {
        "GAN": {"classifier_fid"},
        "InfoGAN": {"classifier_fid", "reconstruction_error", *CODE_ERRORS}
        | {f"{key}_2" for key in CODE_ERRORS},
        "ACGAN": {"classifier_fid", "reconstruction_error", "judged_accuracy", "accuracy"}
        | set(CODE_ERRORS),
    }[name]
    scores, count = results["scores"], TinyData().length
    ones = set() if name == "GAN" else {"active_units", "pairwise_mutual_information"}
    for table in ("values", "std", "samples"):
        assert scores[table].keys() == own | ones
    assert (scores["codes"] is None) == (name == "GAN")
    assert scores["samples"]["classifier_fid"] == dict.fromkeys(
        ("real_images", "generated_images"), count
    )
    for key in own:
        assert scores["values"][key] == pytest.approx(results["metrics"][f"test/{key}"])
        assert key == "classifier_fid" or scores["samples"][key] == {"images": count}
    assert scores["std"]["classifier_fid"] > 0
    # A test alone tells the same.
    (again,) = (tmp_path / "judged").glob("*/*/results.json")
    tested = json.loads(again.read_text())
    assert tested["scores"]["std"] == pytest.approx(scores["std"], rel=1e-4)
    assert tested["judge"]["sha256"] == told["sha256"]
    assert tested["fit_seconds"] is None
    if name == "GAN":
        assert results["skipped"]["reconstruction_error"].endswith("and GAN reads none")
    if name == "ACGAN":
        assert 0 <= figures["test/judged_accuracy"] <= 1
        assert 0 <= figures["test/accuracy"] <= 1
        # The class is a code as well: wrong in as many images, or fewer under other names.
        hungarian, majority = (
            figures[f"test/code_error_{kind}"] for kind in ("hungarian", "majority")
        )
        assert 0 <= majority <= hungarian <= 1 - figures["test/accuracy"] + 1e-6
    if name == "InfoGAN":
        assert figures["test/code_error_majority"] <= figures["test/code_error_hungarian"]
        assert 0 <= figures["test/code_error_hungarian_2"] <= 1


def figures_of_test(run: Path, checkpoint: Path, root: Path) -> dict[str, float]:
    words = ["test", "--config", run / "config.yaml", "--ckpt_path", checkpoint]
    assert call(*words, "--run_root", root) == 0
    text = (only_run(root) / "metrics.csv").read_text().strip().splitlines()
    names, values = text[0].split(","), text[-1].split(",")
    return {n: float(v) for n, v in zip(names, values, strict=True) if v}


@pytest.mark.parametrize(("name", "layer"), [("ACGAN", "classifier"), ("InfoGAN", "q")])
def test_a_layer_that_sees_drawn_images_too_is_scored_on_real_ones(name, layer, tmp_path):
    class_path, more = CLASSES[name]
    config = write_config(tmp_path, CONFIG.format(class_path=class_path, more=more))
    assert call("run", "--config", config, "--run_root", tmp_path, "--scores.layer", layer) == 0
    run = only_run(tmp_path)
    kind = type(make(name))
    model = kind.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    batch = next(iter(TinyData(image_size=32).dataloader("test")))
    with torch.no_grad():
        seen = model.trunk(model.pixels(batch))
        expected = getattr(model, layer)(seen)
    with np.load(run / "codes.npz") as content:
        rows = np.searchsorted(content["index"], batch["index"].numpy())
        np.testing.assert_allclose(content["codes"][rows], expected, rtol=1e-4, atol=1e-5)
        means = batch["image"].mean((1, 2, 3))
        np.testing.assert_allclose(content["image_mean"][rows], means, rtol=1e-5, atol=1e-6)


def test_a_generator_that_has_diverged_is_reported(judge, tmp_path):
    class_path, more = CLASSES["InfoGAN"]
    text = CONFIG.format(class_path=class_path, more=f"{more}, lr: 1.0e+30")
    words = ["run", "--config", write_config(tmp_path, text), "--run_root", tmp_path]
    assert call(*words, "--model.judge", judge, "--trainer.limit_train_batches=1") == 0
    run = only_run(tmp_path)
    results = json.loads((run / "results.json").read_text())
    for figures in (results["scores"]["values"], results["metrics"]):
        broken = [key for key, value in figures.items() if value is None]
        assert any(key.endswith("classifier_fid") for key in broken)
    assert "classifier_fid" not in results["scores"]["std"]
    assert (run / "report.html").is_file()


def test_without_a_judge_the_reason_is_told(tmp_path, capsys):
    class_path, more = CLASSES["ACGAN"]
    config = write_config(tmp_path, CONFIG.format(class_path=class_path, more=more))
    assert call("run", "--config", config, "--run_root", tmp_path) == 0
    run = only_run(tmp_path)
    results = json.loads((run / "results.json").read_text())
    for key in ("classifier_fid", "judged_accuracy"):
        assert "give the checkpoint of one as model.judge" in str(results["skipped"][key])
        assert f"test/{key}" not in results["metrics"]
    assert results["judge"] is None
    assert (run / "report.html").is_file()
    scores = results["scores"]
    for kind in ("hungarian", "majority"):
        key = f"code_error_{kind}"
        assert scores["values"][key] == pytest.approx(results["metrics"][f"test/{key}"])
        assert 0 <= scores["std"][key] < 0.5


def test_an_ac_gan_redraws_an_image_by_its_class():
    model, batch = make("ACGAN").eval(), batch_of(4)
    outputs = model.evaluate(batch, "val")
    shown = model.explain(batch)
    expected = (shown.reconstruction - model.pixels(batch)).square().mean((1, 2, 3))
    torch.testing.assert_close(outputs["reconstruction_error"], expected)


@pytest.mark.parametrize("problem", ["missing", "a generator", "a stranger"])
def test_a_judge_that_cannot_be_used_is_named(problem, judge, tmp_path, capsys):
    path = tmp_path / "judge.ckpt"
    if problem != "missing":
        content = torch.load(judge, weights_only=True)
        if problem == "a generator":
            content["hyper_parameters"].pop("num_classes")
        else:
            content["pellucid"]["model"] = "os.path.Classifier"
        torch.save(content, path)
    with pytest.raises(UserError, match=r"model\.judge: .*judge\.ckpt"):
        Judge.read(str(path))


def test_the_judge_sees_images_as_it_was_trained(judge):
    found = Judge.read(str(judge))
    assert isinstance(found.classifier, TinyModel)
    assert found.num_features == 4
    grey = torch.rand(5, 1, 32, 32)
    features, scores = found(grey)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (grey.expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    classifier = found.classifier
    expected = classifier.maps({"image": image}).mean((2, 3))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(scores, classifier.head(expected))
    assert not any(p.requires_grad for p in classifier.parameters())


def test_the_judge_does_without_half_precision(judge):
    found, image = Judge.read(str(judge)), torch.rand(5, 3, 32, 32)
    features, scores = found(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = found(image.bfloat16().float())
        torch.testing.assert_close(found(image), (features, scores), rtol=0, atol=0)
    assert again[0].dtype == torch.float32


def fit_on_squares(model):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, TinyData(image_size=32))
    return trainer


def test_a_judge_of_other_data_is_refused_before_training(judge):
    model = ACGAN(4, **SMALL, channels=3, judge=str(judge))
    with pytest.raises(UserError, match=r"model\.judge: has 3 classes, the data have 4"):
        fit_on_squares(model)
    found = Judge.read(str(judge))
    found.check(1, 32)
    found.classifier.features = torch.nn.Conv2d(3, 4, 40)
    with pytest.raises(UserError, match=r"model\.judge: TinyModel cannot look at .* of 32 pixels"):
        found.check(3, 32)


def test_batches_without_an_index_have_latents_of_their_own():
    model, batch = make("GAN"), {"image": batch_of()["image"]}
    first, again = model.evaluation_codes(batch), model.evaluation_codes(batch)
    other = model.evaluation_codes({"image": batch["image"].flip(0)})
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, other.noise)


def test_the_data_at_hand_say_how_they_are_normalised(tmp_path):
    """Whatever data the weights of a checkpoint were trained on."""
    model = make("GAN", channels=3)
    trainer = fit_on_squares(model)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    other = TinyData(image_size=32)
    other.mean, other.std = (0.5,) * 3, (0.25,) * 3
    trainer.test(model, other, ckpt_path=str(path), verbose=False, weights_only=True)
    assert model.image_range.mean.tolist() == [0.5] * 3
    assert model.image_range.std.tolist() == [0.25] * 3


FACTOR = """\
model:
  class_path: pellucid.models.factor_vae.FactorVAE
  init_args: {encoder: mlp, discriminator_width: 8, discriminator_layers: 2, gradient_clip: 1.0}
"""


@pytest.mark.parametrize("name", ["InfoGAN", "FactorVAE"])
def test_a_resumed_run_has_the_weights_of_an_unbroken_one(name, tmp_path):
    """With batch normalisation, a running mean of weights, two optimisers and random draws."""
    class_path, _ = CLASSES["InfoGAN"]
    more = ", categorical: [3, 2], ema_decay: 0.9, pairs_weight: 1.0, decay: linear"
    content = yaml.safe_load(CONFIG.format(class_path=class_path, more=more))
    content["trainer"] |= {"max_epochs": 2}
    if name == "FactorVAE":
        content |= yaml.safe_load(FACTOR)
        content["data"]["init_args"]["image_size"] = 8
    config = write_config(tmp_path, yaml.safe_dump(content))
    ends = []
    for stops in (False, True):
        root = tmp_path / f"runs-{stops}"
        words = ["fit", "--config", config, "--run_root", root]
        with pytest.MonkeyPatch.context() as patch:
            if stops:
                patch.setattr(
                    AdversarialModel, "on_train_epoch_start", interrupt_second, raising=False
                )
            assert call(*words) == (130 if stops else 0)
        run = only_run(root)
        last = run / "checkpoints/last.ckpt"
        if stops:
            assert torch.load(last, weights_only=True)["epoch"] == 0
            assert call("fit", "--config", run / "config.yaml", "--ckpt_path", last) == 0
        ends.append(torch.load(last, weights_only=True))
    whole, resumed = ends
    assert whole["epoch"] == resumed["epoch"] == 1
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    for one, other in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for number, state in one["state"].items():
            assert all(torch.equal(v, other["state"][number][k]) for k, v in state.items())


def interrupt_second(model):
    if model.current_epoch == 1:
        signal.raise_signal(signal.SIGINT)
