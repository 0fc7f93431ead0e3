"""The page in a real browser: what moves, what sorts, and that nothing leaves it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.report.page import build_report
from tests.report.conftest import make_run
from tests.report.evaluated import write_adversarial, write_confusion, write_explanations

EVIL = "<script>alert(1)</script>"


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


# The driver's event loop runs as long as the browser does, and tests of other files need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (path := find_browser()) is None:
        pytest.skip("no chromium, chromium-browser or google-chrome: apt-get install chromium")
    with api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs with everything that a page can have."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder, name, seed=0) for name in ("cnn_parts", "icnn_parts")]
    for number, run in enumerate(runs):
        write_explanations(run, labels=("fox", EVIL))
        write_confusion(run, ("fox", "bear"), wrong=2 + 5 * number)
        write_adversarial(run, caption=EVIL)
        results = json.loads((run / "results.json").read_text())
        results["metrics"] |= {"bias/swap_background": 0.3, "bias/remove_head": 0.5}
        (run / "results.json").write_text(json.dumps(results))
        (run / "config.yaml").write_text(f"model:\n  lr: {number + 1}\n")
    return build_report(runs, folder / "report.html")


class Seen:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, browser: Any, report: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        self.context.set_default_timeout(30_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.route("**/*", self._record)
        self.page.goto(report.as_uri())

    def _record(self, route: Any) -> None:
        self.requests.append(route.request.url)
        route.continue_()


@pytest.fixture
def seen(browser: Any, report: Path) -> Iterator[Seen]:
    found = Seen(browser, report)
    yield found
    found.context.close()


def test_it_loads_without_error_and_asks_for_nothing(seen: Seen, report: Path) -> None:
    seen.page.wait_for_load_state("networkidle")
    outside = [url for url in seen.requests if not url.startswith("data:")]
    assert outside == [report.as_uri()]
    assert seen.errors == []
    # Every picture was drawn.
    pictures = seen.page.locator("img")
    assert pictures.count() > 20
    broken = "images => images.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert pictures.evaluate_all(broken) == []


def test_a_slider_lays_the_explanation_over_the_image(seen: Seen) -> None:
    image = seen.page.locator(".shown").first
    slider, over = image.locator("input[type=range]"), image.locator(".over.on")
    clip = "e => getComputedStyle(e).clipPath"
    before = over.evaluate(clip)
    slider.fill("80")
    after = over.evaluate(clip)
    assert before != after
    # What is cut off on the right of an overlay as wide as the image.
    assert "50%" in before
    assert "20%" in after
    assert slider.get_attribute("aria-valuetext") == "80 %"
    slider.press("ArrowRight")
    assert slider.input_value() == "81"
    # The slider of one image leaves the others alone.
    assert seen.page.locator(".shown").nth(1).locator("input").input_value() == "50"


def test_the_overlay_lies_on_its_image(seen: Seen) -> None:
    image = seen.page.locator(".shown").first
    base = image.locator(".base img").bounding_box()
    over = image.locator(".over.on img").bounding_box()
    for side in ("x", "y", "width", "height"):
        assert over[side] == pytest.approx(base[side], abs=1), side


def test_switching_the_method_changes_the_picture(seen: Seen) -> None:
    part = seen.page.locator(".explained").first
    first = part.locator(".shown").first
    visible = "images => images.filter(i => getComputedStyle(i).visibility === 'visible')"
    names = f"{visible}.map(i => i.alt)"
    assert first.locator(".over img").evaluate_all(names) == ["Own explanation of Image 0"]
    before = first.screenshot()
    part.get_by_role("radio", name="Grad-CAM").check()
    assert first.locator(".over img").evaluate_all(names) == ["Grad-CAM of Image 0"]
    assert first.screenshot() != before
    assert first.locator(".told").inner_text().startswith("Grad-CAM.")
    part.get_by_role("radio", name="Integrated gradients").check()
    assert "Completeness error 2.5e-04" in first.locator(".told").inner_text()
    # The other run keeps its own.
    other = seen.page.locator(".explained").nth(1).locator(".shown").first
    assert other.locator(".over img").evaluate_all(names) == ["Own explanation of Image 0"]


def test_the_evaluation_table_sorts(seen: Seen) -> None:
    table = seen.page.locator("table.evaluation").first
    column = "rows => rows.map(r => r.querySelector('th').firstChild.textContent)"

    def methods() -> list[str]:
        return list(table.locator("tbody tr").evaluate_all(column))

    asked = ["Own explanation", "Grad-CAM", "Integrated gradients", "LIME"]
    assert methods()[:4] == asked
    deletion = table.get_by_role("button", name="Deletion")
    deletion.click()
    # Less is better: the smallest first, and what was refused last.
    assert methods() == [
        "Own explanation",
        "Grad-CAM",
        "Integrated gradients",
        "Edge detector",
        "Random map",
        "LIME",
    ]
    heads = table.locator("thead th")
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    deletion.click()
    assert methods()[0] == "Random map"
    assert methods()[-1] == "LIME"
    assert heads.nth(2).get_attribute("aria-sort") == "descending"
    table.get_by_role("button", name="Relevance mass").click()
    assert methods()[0] == "Own explanation"
    assert heads.nth(2).get_attribute("aria-sort") == "none"
    table.get_by_role("button", name="Method").click()
    assert methods() == sorted(methods())


def test_units_sort_by_any_metric(seen: Seen) -> None:
    cards = seen.page.locator(".column").first.locator(".card")
    sort = seen.page.locator("#sort")
    count = sort.locator("option").count()
    assert count > 3
    for place in range(count - 1):
        lower = sort.locator("option").nth(place).get_attribute("data-better") == "lower"
        sort.select_option(str(place))
        found = cards.evaluate_all(f"cards => cards.map(c => Number(c.dataset.f{place}))")
        assert found == sorted(found, reverse=not lower), place
    seen.page.locator("#order").select_option("worst")
    assert cards.evaluate_all(f"cards => cards.map(c => Number(c.dataset.f{count - 2}))") == sorted(
        found, reverse=lower
    )


def test_a_definition_is_one_click_away(seen: Seen) -> None:
    figures = seen.page.locator("figure")
    without = "fs => fs.filter(f => !f.querySelector('figcaption')).length"
    assert figures.evaluate_all(without) == 0
    definition = seen.page.locator("#differences details p").first
    assert not definition.is_visible()
    seen.page.locator("#differences summary").first.click()
    assert definition.is_visible()
    assert "95 % interval" in definition.inner_text()
    # A card says what surprises, whatever it is in place of a picture.
    surprising = seen.page.locator(".card:not([hidden]) .strip", has_text="Surprising").first
    assert not surprising.locator("p").is_visible()
    surprising.locator("summary").click()
    assert "what else the unit fires at" in surprising.locator("p").inner_text()


def test_tab_reaches_every_control(seen: Seen) -> None:
    mark = """() => {
        const wanted = "a[href], button, input, select, summary";
        const all = [...document.querySelectorAll(wanted)].filter(e => e.checkVisibility());
        // Of a group of radio buttons Tab reaches the one that is chosen.
        const reached = all.filter(e => e.type !== "radio" || e.checked);
        reached.forEach((e, n) => e.setAttribute("data-place", n));
        return reached.length;
    }"""
    count = seen.page.evaluate(mark)
    assert count > 30
    found = set()
    for _ in range(2 * count):
        seen.page.keyboard.press("Tab")
        place = seen.page.evaluate("document.activeElement.dataset.place ?? ''")
        if place and place in found:
            break
        # Tables that scroll sideways are reached too, and have no number.
        found.add(place)
    assert {str(n) for n in range(count)} <= found


def test_keys_work_the_switch_and_the_sort(seen: Seen) -> None:
    part = seen.page.locator(".explained").first
    part.get_by_role("radio", name="Own explanation").focus()
    seen.page.keyboard.press("ArrowRight")
    assert part.get_by_role("radio", name="Grad-CAM").is_checked()
    assert part.locator(".over.on").first.get_attribute("data-method") == "grad_cam"
    table = seen.page.locator("table.evaluation").first
    table.get_by_role("button", name="Infidelity").focus()
    seen.page.keyboard.press("Enter")
    assert table.locator("thead th").nth(3).get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("width", [390, 768, 1320])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int) -> None:
    seen = Seen(browser, report, viewport={"width": width, "height": 844})
    # Definitions opened are part of it.
    seen.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide = """limit => [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right > limit + 1)
        .filter(e => !e.closest(".scroll, pre, .film"))
        .map(e => e.tagName + "." + e.className)"""
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, seen.page.evaluate(
        wide, width
    )
    seen.context.close()


def test_dark_and_light(browser: Any, report: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        seen = Seen(browser, report, color_scheme=scheme)
        style = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        colours[scheme] = seen.page.locator("body").evaluate(style)
        assert seen.errors == []
        seen.context.close()

    def light(colour: str) -> int:
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert light(colours["light"][0]) > 600 > 200 > light(colours["light"][1])
    assert light(colours["dark"][0]) < 200 < 600 < light(colours["dark"][1])


def test_print_shows_all_explanations_and_no_controls(seen: Seen) -> None:
    seen.page.emulate_media(media="print")
    first = seen.page.locator(".shown").first
    assert not first.locator("input").is_visible()
    assert not seen.page.locator(".switch").first.is_visible()
    assert not seen.page.locator("nav").is_visible()
    overs = first.locator(".over")
    shown = overs.evaluate_all("o => o.map(e => getComputedStyle(e).visibility)")
    assert shown == ["visible"] * overs.count()
    boxes = [overs.nth(n).bounding_box() for n in range(overs.count())]
    assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes), "side by side"
    assert first.locator("figcaption").first.is_visible()
    # Each map in the shape of its image, and its caption below it.
    sides = "i => i.map(e => e.getBoundingClientRect()).map(b => b.width / b.height)"
    assert first.locator("img").evaluate_all(sides) == pytest.approx([1.0] * (len(boxes) + 1))
    for n in range(len(boxes)):
        caption = overs.nth(n).locator("figcaption").bounding_box()
        picture = overs.nth(n).locator("img").bounding_box()
        assert caption["y"] >= picture["y"] + picture["height"]


def test_on_paper_no_figure_is_cut_off(browser: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = write_explanations(run, images=1)
    content = json.loads(path.read_text())
    content["columns"] *= 4
    for place, column in enumerate(content["columns"]):
        content["columns"][place] = {**column, "key": f"figure_{place}"}
    for row in content["rows"]:
        row["cells"] = {f"figure_{n}": {"mean": n, "low": 0, "high": 20} for n in range(16)}
    path.write_text(json.dumps(content))
    paper = {"width": 720, "height": 1000}
    seen = Seen(browser, build_report([run]), viewport=paper)
    seen.page.emulate_media(media="print")
    for cells in (".evaluation td", ".agreeing td"):
        right = seen.page.locator(cells).evaluate_all(
            "c => c.map(e => e.getBoundingClientRect().right)"
        )
        assert len(right) > 30
        assert max(right) <= paper["width"], cells
    # Without the head of the table each figure says its own name.
    name = "getComputedStyle(document.querySelector('.evaluation td'), '::before').content"
    assert "Figure 0" in seen.page.evaluate(name)
    seen.context.close()


def test_without_scripts_everything_is_there(browser: Any, report: Path) -> None:
    seen = Seen(browser, report, java_script_enabled=False)
    first = seen.page.locator(".shown").first
    assert first.locator(".over").count() == 4
    assert all(first.locator(".over").nth(n).is_visible() for n in range(4))
    assert not seen.page.locator(".switch").first.is_visible()
    assert not first.locator("input").is_visible()
    seen.context.close()


def test_names_from_the_disk_run_no_script(seen: Seen) -> None:
    assert EVIL in seen.page.locator("#explanations").inner_text()
    assert EVIL in seen.page.locator("#adversarial").inner_text()
    assert seen.page.evaluate("document.scripts.length") == 1
    assert seen.errors == []
