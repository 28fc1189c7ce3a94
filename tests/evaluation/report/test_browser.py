"""The page in a real Chromium: what it shows, under mouse, touch and keyboard.

Run it with `make browser`. It needs a chromium (its path in CHROMIUM, or on PATH) and the extra
`obsdiff[browser]`: playwright, which steers it, and axe-core, which checks accessibility. Nothing
is downloaded. Without them these tests are skipped.
"""

import io
import os
import shutil
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ...support.page_runs import another, change, evil, figure, page_of, renamed, several

NEEDED = "needs a chromium and obsdiff[browser]; run it with make browser"
sync_api = pytest.importorskip("playwright.sync_api", reason=NEEDED)
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NEEDED)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
GREEN, RED = (20, 180, 60), (220, 40, 40)  # of the dense and the pruned pictures


def axe_script() -> Path | None:
    """axe.min.js: the file that AXE names, else that of an installed package; None without."""
    if given := os.environ.get("AXE"):
        return Path(given)
    found = util.find_spec("axe_playwright_python")
    places = found.submodule_search_locations if found else []
    return next((file for place in places for file in Path(place).rglob("axe*.js")), None)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens a page; afterwards nothing was requested, and nothing complained."""
    contexts, requests, complaints = [], [], []

    def opened(text: str, width: int = 1280, scheme: str = "light", **options):
        file = tmp_path / f"shown-{len(contexts)}.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith(("file:///", "data:"))] == []
    assert complaints == []


def compared(run: Path) -> str:
    """A page of two runs with SSIM: "half" draws the first prompt worst, "other" the second."""
    ssim = {"half": [0.5, 0.95], "other": [0.95, 0.86]}
    rows = [
        renamed(
            run,
            name,
            metrics={"ssim": figure(sum(values) / 2) | {"per_prompt": values}},
            images=["half/000.png", "half/001.png"] if name == "half" else ["dense/000.png"] * 2,
        )
        for name, values in ssim.items()
    ]
    change(run, runs=rows)
    return page_of(run)


def reds(page) -> float:
    """The share of the stage that shows the pruned picture."""
    pixels = np.asarray(picture_of(page)).astype(int)
    near = {colour: (np.abs(pixels - colour).max(2) < 12).sum() for colour in (GREEN, RED)}
    return near[RED] / (near[RED] + near[GREEN])


def picture_of(page) -> Image.Image:
    """A screenshot of the stage."""
    return Image.open(io.BytesIO(page.locator(".both").screenshot())).convert("RGB")


def middle(page):
    """The stage's left edge, the height of its middle, and its width, once it is in sight."""
    page.locator(".pair").scroll_into_view_if_needed()
    box = page.locator(".pair").bounding_box()
    return box["x"], box["y"] + box["height"] / 2, box["width"]


def test_the_slider_follows_the_mouse(run, show):
    page = show(compared(run))
    page.select_option("select.b", "half")
    x, y, width = middle(page)
    page.mouse.move(x + width / 2, y)
    page.mouse.down()
    page.mouse.move(x + width * 0.8, y, steps=4)
    page.mouse.up()
    assert reds(page) == pytest.approx(0.2, abs=0.06)
    page.mouse.click(x + width * 0.1, y)
    assert reds(page) == pytest.approx(0.9, abs=0.06)


def test_the_slider_follows_a_finger(run, show):
    page = show(compared(run), width=390, has_touch=True, is_mobile=True)
    page.select_option("select.b", "half")
    x, y, width = middle(page)
    page.touchscreen.tap(x + width * 0.25, y)
    assert reds(page) == pytest.approx(0.75, abs=0.06)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_keyboard_does_it_all(run, show):
    page = show(compared(run))
    page.select_option("select.b", "half")
    page.focus(".pair input")
    page.keyboard.press("End")
    assert reds(page) == pytest.approx(0, abs=0.02)
    page.keyboard.press("Home")
    assert reds(page) == pytest.approx(1, abs=0.02)
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".pair input", "aria-valuetext") == "1 % dense"
    page.focus(".thumbs button[aria-current=true]")
    page.keyboard.press("ArrowRight")
    assert page.text_content(".text") == "moon"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == (
        "moon, nearly the same"
    )
    page.keyboard.press("Tab")  # one stop for all prompts
    assert page.evaluate("document.activeElement.closest('.thumbs')") is None


def test_any_two_runs_are_compared_the_worst_prompt_first(run, show):
    page = show(compared(run))
    labels = "[...document.querySelectorAll('.thumbs button')].map(b => b.ariaLabel)"
    page.select_option("select.b", "half")
    assert page.evaluate(labels) == ["a <b>fish</b>, visible differences", "moon, nearly the same"]
    page.select_option("select.b", "other")
    assert page.evaluate(labels) == ["moon, small differences", "a <b>fish</b>, nearly the same"]
    assert "other: SSIM 0.95 to dense, nearly the same" in page.text_content(".said")
    page.select_option("select.a", "half")
    assert page.text_content(".tag.a") == "half"
    page.click("a[data-run=half]")  # the worst prompt on its card
    assert [page.text_content(f".tag.{side}") for side in "ab"] == ["dense", "half"]
    assert page.text_content(".text") == "a <b>fish</b>"


def test_blink_and_difference(run, show):
    page = show(compared(run))
    page.select_option("select.b", "half")
    page.click("[data-mode=difference]")
    assert page.get_attribute("[data-mode=difference][aria-pressed]", "aria-pressed") == "true"
    assert not page.is_visible(".pair input")
    pixel = np.asarray(picture_of(page))[50, 50].astype(int)
    assert np.abs(pixel - np.minimum(255, 3 * np.abs(np.subtract(GREEN, RED)))).max() < 12
    page.click("[data-mode=blink]")
    for seen in ("hidden", "visible", "hidden"):
        page.wait_for_function(
            "seen => getComputedStyle(document.querySelector('.both img.b')).visibility === seen",
            arg=seen,
        )
    page.click("[data-mode=slider]")
    page.wait_for_timeout(900)  # longer than a blink
    assert page.is_visible(".pair input")
    assert not page.locator(".pair.off").count()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_axe_finds_nothing(run, show, width, scheme):
    script = axe_script()
    if script is None:
        pytest.skip("needs axe-core: obsdiff[browser], or the path of axe.min.js in AXE")
    change(run, prompts=["word " * 50, "moon"])
    page = show(several(run), width=width, scheme=scheme, bypass_csp=True)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.add_script_tag(path=script)
    found = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []
    dark = np.asarray(Image.open(shot(page)).convert("L"))[5, 5] < 60
    assert dark == (scheme == "dark")


def shot(page):
    """A screenshot of the window, as a file in memory."""
    return io.BytesIO(page.screenshot())


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_nothing_overflows_the_page(run, show, width):
    change(run, prompts=["word" * 200, "a long prompt " * 50])
    page = show(several(run), width=width)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".pictures img").count() == 12


def test_a_click_on_a_title_sorts_its_table(run, show):
    page = show(several(run))
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    quality, config = (page.locator("table.sortable").nth(i) for i in (0, 2))

    def by(table, column: int) -> str:
        table.locator("thead button").nth(column).click()
        names = table.locator("tbody th").all_text_contents()
        return " ".join(name[:5] for name in names)

    assert by(quality, 1) == "dense a c a_nam b d"  # dense's 0 is sorted like the others
    assert by(quality, 1) == "b d a_nam c a dense"  # b and d are equal and stay in their order
    assert quality.locator("[aria-sort]").get_attribute("aria-sort") == "descending"
    assert by(quality, 4) == "a_nam a b d c dense"  # by number, what has none last
    assert by(quality, 4) == "d b a a_nam c dense"
    assert by(quality, 0) == "a a_nam b c d dense"
    assert by(config, 1) == "c b d a_nam a"
    assert page.locator(".hint").first.is_visible()


def test_no_text_becomes_a_script(run, show):
    page = show(evil(run))
    assert page.title() == "obsdiff: dense and pruned"
    assert page.evaluate("document.scripts.length") == 1
    assert "{{ 7 * 7 }}" in page.text_content("body")


def test_without_a_script_everything_is_there(run, show):
    page = show(compared(run), java_script_enabled=False)
    assert not page.is_visible(".compare")
    assert page.locator(".pictures img").first.is_visible()
    assert page.locator("table.sortable thead button").count() == 0


def test_every_comparison_has_a_slider_of_its_own(run, show):
    first = compared(run)
    assert first.count("<section") == 1
    page = show(page_of(run, another(run, "second", seeds=[3, 4])))
    for i in range(2):
        page.locator("select.b").nth(i).select_option("half")
        page.locator(".next").nth(i).click()
        assert page.locator(".text").nth(i).text_content() == "moon"
