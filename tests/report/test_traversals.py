"""What latents do: pictures, files, sliders of the page, and words."""

import base64
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.models.explanation import Traversals
from pellucid.report import latents
from pellucid.report.latents import save_traversals
from pellucid.report.page import build_report
from pellucid.report.results import make_headlines, make_table, make_verdict, text_table
from pellucid.report.runs import Run
from pellucid.report.traversals import (
    by_importance,
    draw_reconstructions,
    draw_strip,
    draw_traversals,
    latent_table,
    to_pixels,
)
from tests.generators import make_explanation, make_traversals
from tests.report.test_page import Page

NewRun = Callable[..., Path]


def pictures(count: int = 2, size: int = 8) -> list[np.ndarray]:
    return [np.full((size, size, 3), 40 * (i + 1), np.uint8) for i in range(count)]


@pytest.fixture
def generator(new_run: NewRun) -> NewRun:
    """Makes the run of a generator: figures, traversals and no units."""

    def make(name: str = "beta_vae", explanation=None, **changes) -> Path:
        metrics = changes.pop("metrics", {"test/mig": 0.28, "test/elbo": -45.1})
        run = new_run(name, metrics=metrics, **changes)
        (run / "units.json").unlink()
        explanation = make_explanation() if explanation is None else explanation
        save_traversals(explanation, pictures(len(explanation.scores)), run)
        return run

    return make


def test_frames_become_pixels() -> None:
    grey = torch.tensor([0.0, 0.5, 1.0, -3.0, 7.0, math.nan]).reshape(1, 1, 6)
    expected = [0, 128, 255, 0, 255, 0]
    assert to_pixels(grey)[0].tolist() == [[value] * 3 for value in expected]
    colour = torch.rand(4, 2, 3, 5, 6)
    pixels = to_pixels(colour)
    assert pixels.shape == (4, 2, 5, 6, 3)
    assert pixels[1, 0, 2, 3, 1] == round(float(colour[1, 0, 1, 2, 3]) * 255)
    with pytest.raises(ValueError, match=r"1 or 3 channels, got \(2, 5, 6\)"):
        to_pixels(torch.rand(2, 5, 6))


def test_latents_are_sorted_by_importance() -> None:
    importance = torch.tensor([0.2, math.nan, 3.0, 0.2])
    traversals = replace(make_traversals(latents=4), importance=importance)
    assert by_importance(traversals) == [2, 0, 3, 1]


def test_a_strip_has_every_frame_as_it_is() -> None:
    traversals = make_traversals(channels=3)
    strip = draw_strip(traversals, 1, 2)
    assert strip.shape == (8, 5 * 8, 3)
    for step in range(5):
        frame = to_pixels(traversals.images[1, 2, step]).numpy()
        assert (strip[:, 8 * step : 8 * step + 8] == frame).all()
    for i, latent in ((2, 0), (-1, 0), (0, 3)):
        with pytest.raises(ValueError, match=f"got {i} and {latent}"):
            draw_strip(traversals, i, latent)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (100, 1)])
def test_the_overview_has_a_row_per_latent(size: int, channels: int) -> None:
    traversals = make_traversals(size=size, channels=channels)
    importance = torch.tensor([0.5, 1.0, 0.001])
    picture = draw_traversals(replace(traversals, importance=importance), 0)
    assert picture.dtype == np.uint8
    side = size * (64 // size) if size <= 64 else 64
    # The frames stand on the right: five of them, a pixel between two of them, and a margin.
    left = picture.shape[1] - 12 - (5 * side + 4)
    for row, latent in enumerate((1, 0, 2)):
        y = 12 + row * (max(side, 44) + 6) + side // 2
        shades = [int(picture[y, left + step * (side + 1) + side // 2, 0]) for step in range(5)]
        frames = to_pixels(traversals.images[0, latent])
        assert shades == frames[:, 0, 0, 0].tolist()


def test_the_overview_shows_the_image_and_its_reconstruction() -> None:
    traversals = make_traversals()
    bare = draw_traversals(traversals, 0)
    image = np.full((8, 8, 3), (200, 30, 10), np.uint8)
    drawn = torch.full((1, 8, 8), 0.4)
    full = draw_traversals(traversals, 0, image=image, reconstruction=drawn)
    assert full.shape[1] > bare.shape[1]
    assert full[12 + 30, 12 + 30].tolist() == [200, 30, 10]
    assert full[12 + 64 + 14 + 6 + 30, 12 + 30].tolist() == [102] * 3
    # The rest is as without them.
    assert (full[12:76, -300:] == bare[12:76, -300:]).all()
    single = draw_traversals(make_traversals(latents=1), 0, image=image, reconstruction=drawn)
    assert single.shape[0] >= 2 * 64


@pytest.mark.parametrize("importance", [0.0099, 0.0101])
def test_dead_latents_are_marked(importance: float) -> None:
    traversals = replace(make_traversals(latents=1), importance=torch.tensor([importance]))
    label = draw_traversals(traversals, 0)[12:60, 12:150].astype(int)
    warns = (label[..., 0] - label[..., 2] > 60).any()  # Brown; all else is grey or bluish.
    assert warns == (importance < 0.01)
    assert ("dead" in latent_table(make_explanation(traversals), 0)) == (importance < 0.01)
    bits = replace(traversals, importance_unit="share of variance")
    assert "dead" not in latent_table(make_explanation(bits), 0)


def test_names_of_any_length_and_kind_are_drawn() -> None:
    names = ("$x^", "z" * 400, "a\nb")
    traversals = replace(make_traversals(), names=names, importance_name="mutual information")
    picture = draw_traversals(traversals, 0)
    assert picture.shape[1] < 5 * 64 + 4 + 36 + 300
    for width in range(1, 40):  # No size is rounded down by the canvas.
        draw_traversals(make_traversals(steps=1, size=width), 0, num_latents=1, size=width)


@pytest.mark.parametrize("wrong", [{"num_latents": 0}, {"size": 0}])
def test_the_overview_refuses_nothing_to_draw(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1, got"):
        draw_traversals(make_traversals(), 0, **wrong)


def test_reconstructions_stand_below_their_images() -> None:
    drawn = torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    picture = draw_reconstructions(pictures(), drawn)
    assert picture.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1], 0].tolist()
    assert corners == [40, 80, 51, 204]
    with pytest.raises(ValueError, match="2 images and 1 reconstructions"):
        draw_reconstructions(pictures(), drawn[:1])


def test_table_of_latents() -> None:
    traversals = replace(make_traversals(), importance=torch.tensor([0.004, 2.5, 0.3]))
    lines = latent_table(make_explanation(traversals), 1).splitlines()
    assert [line.split() for line in lines] == [
        ["latent", "KL", "(nats)", "code", "drawn"],
        ["z1", "2.500", "2.000", "-2", "to", "2"],
        ["z2", "0.300", "2", "5", "categories"],
        ["z0", "0.004", "1.500", "-2", "to", "2", "dead"],
    ]
    bare = latent_table(make_explanation(replace(traversals, codes=None)), 1).splitlines()
    assert bare[1].split() == ["z1", "2.500", "-2", "to", "2"]
    with pytest.raises(ValueError, match="no traversals"):
        latent_table(replace(make_explanation(), traversals=None), 0)


def test_a_code_that_begins_again_shows_each_category_once(tmp_path: Path) -> None:
    traversals = make_traversals(latents=2)
    traversals.values[:, 1] = torch.tensor([0.0, 1, 2, 0, 1])
    assert draw_strip(traversals, 0, 1).shape == (8, 3 * 8, 3)
    assert draw_strip(traversals, 0, 0).shape == (8, 5 * 8, 3)
    assert "3 categories" in latent_table(make_explanation(traversals), 0)
    path = save_traversals(make_explanation(traversals), pictures(), tmp_path)
    assert json.loads(path.read_text())["latents"][1]["values"] == [[0, 1, 2]] * 2
    # Rows of unequal length fit into one picture.
    longest = draw_traversals(make_traversals(latents=2), 0).shape
    assert draw_traversals(traversals, 0).shape == longest


def test_files_of_a_run(tmp_path: Path) -> None:
    explanation = make_explanation()
    path = save_traversals(explanation, pictures(), tmp_path)
    content = json.loads(path.read_text())
    assert (content["importance_name"], content["importance_unit"]) == ("KL", "nats")
    assert content["frame"] == [8, 8]
    assert explanation.traversals is not None
    for place, latent in enumerate(content["latents"]):
        assert latent["name"] == f"z{place}"
        values = explanation.traversals.values[:, place]
        assert latent["values"] == values.tolist()
        assert latent["codes"] == pytest.approx([place * 0.5, (3 + place) * 0.5])
        for i, strip in enumerate(latent["strips"]):
            with Image.open(tmp_path / strip) as picture:
                assert picture.mode == "L"  # A third of the bytes.
                pixels = np.asarray(picture.convert("RGB"))
            assert (pixels == draw_strip(explanation.traversals, i, place)).all()
    for i, shown in enumerate(content["images"]):
        with Image.open(tmp_path / shown["image"]) as picture:
            assert picture.convert("RGB").getpixel((3, 3)) == (40 * (i + 1),) * 3
        with Image.open(tmp_path / shown["reconstruction"]) as picture:
            assert picture.convert("RGB").getpixel((3, 3)) == (128,) * 3
        assert (tmp_path / shown["overview"]).is_file()


def test_files_hold_no_nan_and_draw_no_more_than_asked(tmp_path: Path) -> None:
    traversals = replace(make_traversals(), importance=torch.tensor([math.nan, 1.0, 0.5]))
    path = save_traversals(make_explanation(traversals), pictures(), tmp_path, num_latents=2)
    found = json.loads(path.read_text(), parse_constant=pytest.fail)["latents"]
    assert [latent["name"] for latent in found] == ["z1", "z2", "z0"]
    assert found[2]["importance"] is None
    assert [len(latent["strips"]) for latent in found] == [2, 2, 0]


def test_files_need_traversals_and_their_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no traversals"):
        save_traversals(replace(make_explanation(), traversals=None), [], tmp_path)
    with pytest.raises(ValueError, match="3 images and traversals of 2"):
        save_traversals(make_explanation(), pictures(3), tmp_path)


def test_page_of_a_generator(generator: NewRun) -> None:
    run = generator()
    page = Page(build_report([run]))
    assert "Not in this report" not in page.text
    assert "There are no units" not in page.text
    assert "2 of 3 latents say something about the image; the other 1 is dead" in page.text
    assert "latents" in {a.get("id") for a in page.all("section")}
    assert any(a.get("href") == "#latents" for a in page.all("a"))
    cards = page.all("article", "latent")
    steps = [json.loads(card["data-steps"]) for card in cards]
    minus = "\N{MINUS SIGN}"
    assert steps[0] == [f"{minus}2.00", f"{minus}1.00", "0.00", "1.00", "2.00"]
    assert steps[2] == [f"category {i}" for i in range(5)]
    assert [card["data-loops"] for card in cards] == ["false", "false", "true"]
    sliders = page.all("input")
    assert [a["type"] for a in sliders] == ["range"] * 3
    assert [(a["min"], a["max"], a["value"]) for a in sliders] == [
        ("0", "4", "2"),
        ("0", "4", "2"),
        ("0", "4", "0"),
    ]
    assert [a["aria-valuetext"] for a in sliders] == ["0.00", "0.00", "category 0"]
    assert [a["aria-label"] for a in page.all("button", "play")] == [
        "Play z0",
        "Play z1",
        "Play z2",
    ]
    # Without a script there is nothing to move, and all frames are seen.
    assert all("hidden" in a for a in page.all("div", "steer"))
    content = json.loads((run / "traversals.json").read_text())
    strips = [strip for latent in content["latents"] for strip in latent["strips"]]
    shown = [a["src"] for a in page.all("img") if a["alt"].startswith("z")]
    for strip, source in zip(strips, shown, strict=True):
        assert base64.b64decode(source.partition(",")[2]) == (run / strip).read_bytes()
    assert "image 1.50" in page.text  # The code of the second image.
    assert len([a for a in page.all("img") if a["alt"].startswith("Reconstruction")]) == 2


def test_bars_are_as_long_as_the_importance(generator: NewRun) -> None:
    traversals = replace(make_traversals(), importance=torch.tensor([2.0, 0.5, 0.001]))
    page = Page(build_report([generator(explanation=make_explanation(traversals))]))
    widths = [float(a["width"]) for a in page.all("rect")]
    room = latents.WIDTH - latents.LEFT - latents.RIGHT
    assert widths == pytest.approx([room, room / 4, 1])
    assert "z2: 0.001 nats, dead" in page.text


def test_latents_of_unknown_importance_are_neither_dead_nor_alive(generator: NewRun) -> None:
    """Those of a GAN that draws from noise alone."""
    traversals = replace(make_traversals(), importance=torch.full((3,), math.nan), codes=None)
    page = Page(build_report([generator(explanation=make_explanation(traversals))]))
    assert len(page.all("article", "latent")) == 3
    assert not page.all("rect")
    for word in ("say something about", "None of the 3", "KL 0", "KL nan", "nan nats"):
        assert word not in page.text, word
    assert "nats" not in latent_table(make_explanation(traversals), 0).split("\n", 1)[1]


def test_values_of_each_image_are_named_where_they_differ(generator: NewRun) -> None:
    traversals = make_traversals()
    values = traversals.values + torch.tensor([0.0, 0.25])[:, None, None]
    page = Page(
        build_report([generator(explanation=make_explanation(replace(traversals, values=values)))])
    )
    (first, *_) = page.all("article", "latent")
    assert json.loads(first["data-steps"])[2] == "0.00 / 0.25"


def test_names_are_escaped(generator: NewRun) -> None:
    evil = "\"'><script>alert(1)</script>"
    traversals = replace(
        make_traversals(),
        names=(evil, "b", "c"),
        importance_name=evil,
        importance_unit=evil,
    )
    page = Page(build_report([generator(explanation=make_explanation(traversals))]))
    assert len(page.all("script")) == 1
    assert evil in page.text
    assert {f"Play {evil}"} <= {a["aria-label"] for a in page.all("button", "play")}


def test_two_generators_side_by_side(generator: NewRun) -> None:
    runs = [generator(), generator("factor_vae", metrics={"test/mig": 0.33, "test/elbo": -47.0})]
    page = Page(build_report(runs))
    assert len(page.all("div", "latents")) == 2
    assert "beta_vae 3 latents" in page.text
    assert "its MIG is higher (0.330 against 0.280: better)" in page.text


def test_a_generator_beside_a_classifier(generator: NewRun, new_run: NewRun) -> None:
    page = Page(build_report([generator(), new_run()]))
    assert len(page.all("div", "latents")) == 1
    assert len(page.all("article", "card")) == 5
    assert "have no figure in common" in page.text


def test_a_run_without_traversals_has_no_section(new_run: NewRun) -> None:
    page = Page(build_report([new_run()]))
    assert "What each latent does" not in page.text
    assert not any(a.get("href") == "#latents" for a in page.all("a"))


BROKEN = [
    ("{", "traversals.json cannot be read"),
    ("[1]", "traversals.json holds no object but list"),
    ('{"latents": 3}', "traversals.json is not as `pellucid run` writes it"),
    ('{"latents": [], "images": [], "frame": [0, 4]}', "a frame of 0 x 4 pixels"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_file_is_named(generator: NewRun, text: str, message: str) -> None:
    run = generator()
    (run / "traversals.json").write_text(text)
    page = Page(build_report([run]))
    assert message in page.text
    assert "What each latent does" not in page.text


def test_a_missing_file_is_named(generator: NewRun) -> None:
    run = generator()
    (run / "traversals.json").unlink()
    text = Page(build_report([run])).text
    assert "traversals.json is missing: no sliders of the latents" in text


def change(run: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads((run / "traversals.json").read_text())
    edit(content)
    (run / "traversals.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("importance", "much"),
        ("values", [[None]]),
        ("values", [[1, 2], [1]]),
        ("values", []),
        ("codes", [0.5]),
        ("strips", 3),
    ],
)
def test_a_wrong_entry_is_named(generator: NewRun, key: str, value: object) -> None:
    run = generator()
    change(run, lambda content: content["latents"][1].update({key: value}))
    text = Page(build_report([run])).text
    assert "traversals.json is not as `pellucid run` writes it" in text


def test_missing_and_foreign_pictures_are_named(generator: NewRun) -> None:
    run = generator()
    (run / "images" / "traversals" / "latent_00_image_1.png").unlink()
    page = Page(build_report([run]))
    assert "1 pictures of latents cannot be shown, the first one images/traversals" in page.text
    assert len(page.all("div", "gone")) == 1
    change(run, lambda content: content["latents"][0]["strips"].__setitem__(1, "../secret.png"))
    assert "outside of the run directory" in Page(build_report([run])).text


def test_latents_without_pictures_are_named(generator: NewRun, monkeypatch) -> None:
    run = generator()
    save_traversals(make_explanation(), pictures(), run, num_latents=1)
    page = Page(build_report([run]))
    assert len(page.all("article", "latent")) == 1
    assert "Not drawn, as they say less: z1, z2." in page.text


def test_size_of_ten_latents_of_four_images(generator: NewRun) -> None:
    """Blurred noise, which is harder to compress than what any decoder draws."""
    noise = torch.rand(440, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    frames = torch.nn.functional.interpolate(noise, size=(64, 64), mode="bicubic")
    shape = (4, 10, 11)
    traversals = Traversals(
        images=frames.clamp(0, 1).unflatten(0, shape),
        values=torch.linspace(-3, 3, 11).expand(shape),
        names=tuple(f"z{i}" for i in range(10)),
        kinds=("continuous",) * 10,
        importance=torch.linspace(3, 0, 10),
        importance_name="KL",
    )
    explanation = make_explanation(traversals, reconstruction=frames[:4].clamp(0, 1))
    run = generator(explanation=explanation)
    size = build_report([run]).stat().st_size
    (run / "traversals.json").unlink()
    for path in (run / "images" / "traversals").iterdir():
        path.unlink()
    assert size - build_report([run]).stat().st_size < 1_000_000


def test_frames_keep_their_places_when_made_smaller(generator: NewRun) -> None:
    """The page finds a frame at its share of the strip's width."""
    run = generator(explanation=make_explanation(make_traversals(images=1, steps=11, size=64)))
    page = Page(build_report([run]))
    (first, *_) = [a["src"] for a in page.all("img") if a["alt"].startswith("z")]
    with Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2]))) as picture:
        assert picture.width / picture.height == pytest.approx(11)


def test_verdict_of_a_generator() -> None:
    metrics = {"test/mig": 0.284, "test/factor_vae_score": 0.6, "test/elbo": -45.12}
    (sentence,) = make_verdict([Run(Path("a"), "beta_vae", metrics=metrics)])
    assert sentence == (
        "On the test split, beta_vae has a MIG of 0.284, a FactorVAE score of 0.600, "
        "and an ELBO of -45.1 nats."
    )
    gan = {"test/code_error_hungarian": 0.043, "test/classifier_fid": 12.3}
    (sentence,) = make_verdict([Run(Path("a"), "info", metrics=gan)])
    assert "an error of the categorical code of 4.3 %, and a classifier FID of 12.300" in sentence
    both = {"test/accuracy": 0.9, "test/judged_accuracy": 0.95}
    (sentence,) = make_verdict([Run(Path("a"), "acgan", metrics=both)])
    assert sentence == (
        "On the test split, acgan is right on 90.0 % of the images, and it has 95.0 % of samples "
        "judged as their label."
    )


def test_verdict_of_many_generators() -> None:
    def run(label: str, mig: float, error: float) -> Run:
        metrics = {"test/mig": mig, "test/code_error_hungarian": error}
        return Run(Path(label), label, metrics=metrics)

    runs = [run("a", 0.2, 0.3), run("b", 0.31, 0.05), run("c", 0.3, 0.04)]
    best, *pairs = make_verdict(runs)
    assert best == (
        "Of 3 runs on the test split, b has the highest MIG (0.310), and c has the lowest error of "
        "the categorical code (4.0 %)."
    )
    assert pairs[1] == (
        "c compared with a on the test split: its MIG is higher (0.300 against 0.200: better), and "
        "its error of the categorical code is lower (4.0 % against 30.0 %: better)."
    )
    same = make_verdict([run("a", 0.2, 0.3), run("b", 0.20001, 0.35)])
    assert same == [
        "b compared with a on the test split: its MIG is the same (0.200), and its error of the "
        "categorical code is higher (35.0 % against 30.0 %: worse)."
    ]
    one = make_verdict([run("a", 0.2, 0.3), run("b", 0.4, 0.2), run("c", 0.4, 0.3)])[0]
    assert one == (
        "Of 3 runs on the test split, b has the lowest error of the categorical code (20.0 %)."
    )


def test_tables_of_generators() -> None:
    metrics = {"test/sap": 0.05, "test/mig": 0.28, "test/kl": 12.0, "test/loss": 45.0}
    runs = [Run(Path("a"), "a", metrics=metrics)]
    (stage,) = make_table(runs)
    assert [cell.text for row in stage.rows for cell in row.cells] == [
        "0.280",
        "0.050",
        "12.0",
        "45.0",
    ]
    assert len(text_table(runs).splitlines()) == 3
    assert [headline.value for headline in make_headlines(runs)] == ["0.280"]
    many = {f"test/{name}": 0.5 for name in ("mig", "factor_vae_score", "beta_vae_score")}
    many |= {f"test/{name}": 0.5 for name in ("dci_disentanglement", "active_units", "elbo")}
    many |= {"test/code_error_hungarian": 0.5, "test/classifier_fid": 0.5}
    assert len(make_headlines([Run(Path("a"), "a", metrics=many)])) == 6


def write_codes(run: Path, codes: np.ndarray) -> None:
    np.savez(run / "codes.npz", codes=codes, index=np.arange(len(codes)))


def test_agreement_of_runs_of_one_experiment(generator: NewRun, tmp_path: Path) -> None:
    """The same two latents, swapped; another experiment is not compared."""
    first, other = generator(), generator("factor_vae")
    second = first.with_name("later")
    shutil.copytree(first, second)
    codes = np.random.default_rng(0).normal(size=(300, 2))
    for run, values in ((first, codes), (second, codes[:, ::-1]), (other, codes)):
        write_codes(run, values)
    page = Page(build_report([first, second, other], tmp_path / "page.html"))
    figure = r"(\d\.\d{3} ± \d\.\d{3})"
    found = re.findall(rf"UDR of 2 runs, .*? {figure}; .*? {figure}\.", page.text)
    # One latent of the other run says all of each; Lasso's penalty takes its alpha of 0.1 away.
    assert found == [("0.900 ± 0.000",) * 2]
    (second / "codes.npz").write_bytes(b"PK no archive")
    text = Page(build_report([first, second], tmp_path / "page.html")).text
    assert "UDR of beta_vae cannot be computed" in text


def test_a_run_alone_agrees_with_none(generator: NewRun) -> None:
    run = generator()
    write_codes(run, np.eye(3))
    assert "UDR" not in Page(build_report([run])).text
