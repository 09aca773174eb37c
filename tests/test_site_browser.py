"""Pages in a headless Chromium, on a wide and on a narrow screen, light and dark.

The pages are those that nbdev gives, turned into HTML by pandoc, on which Quarto is built, with our `styles.css` in a
plain page whose text has about the width that it has on the site. So these tests hold the content of the pages and our
rules for it. Quarto's theme, its navigation and its scripts are not here; only `make docs` builds those. The report is
the file that users get.
"""
import json

import pytest
from browser import Browser, chromium
from site_pages import NBS, process, render

pytest.importorskip("websocket", reason="websocket-client, which speaks with Chromium, is not installed")
PAGES = ("index", "losses/03_agcacl", "evaluate/00_scores", "report/05_page")
SCREENS = [(1280, False), (1280, True), (400, False), (400, True)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "The HTML files by name, and what pandoc complained of."
    pytest.importorskip("pypandoc", reason="pypandoc_binary, which renders the pages, is not installed")
    folder = tmp_path_factory.mktemp("pages")
    failed = process(folder / "processed", [NBS / f"{page}.ipynb" for page in PAGES])
    assert failed == {}
    return {page: render(folder / "processed" / f"{page}.ipynb", folder / page) for page in PAGES}


def faults(found):
    "What should not be, by name."
    wrong = {name: found[name] for name in ("errors", "asked", "out", "missing") if found[name]}
    if found["sideways"] > 0:
        wrong["sideways"] = found["sideways"]
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_every_screen(page, pages, browser):
    "No error, no other host, nothing sticks out but inside its own box, no code is cut, every picture is there."
    file, warnings = pages[page]
    assert warnings == ""   # a formula that pandoc cannot turn into MathML would stay TeX
    for width, dark in SCREENS:
        found = browser.open(file, width, dark)
        assert faults(found) == {} and found["cut"] == [], (width, dark)
        assert found["pictures"] > 0
        assert (found["background"] == "rgb(255, 255, 255)") != dark, "the stand-in theme follows the system"
    if page == "losses/03_agcacl":
        assert found["formulas"] > 50


def test_figures_stand_on_white_in_the_dark(pages, browser):
    browser.open(pages["losses/03_agcacl"][0], 1280, True)
    script = "getComputedStyle(document.querySelector('.cell-output-display img')).backgroundColor"
    assert browser.call("Runtime.evaluate", expression=script)["result"]["value"] == "rgb(255, 255, 255)"


def test_what_sticks_out_is_seen(tmp_path, browser):
    "The look at a page finds what it should: an error, a picture that is missing, a line too wide, a stranger."
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><html><head><title>bad</title></head><body><p style='width:3000px'>wide</p>"
        "<img src='nothing.png'><img src='http://127.0.0.1:9/stranger.png'><script>throw Error('broken')</script>"
        "<pre class='sourceCode' style='overflow:auto;width:200px'>" + "x" * 500 + "</pre></body></html>")
    found = browser.open(page, 1280, False)
    assert set(faults(found)) == {"errors", "asked", "out", "missing", "sideways"}
    assert len(found["cut"]) == 1 and len(found["missing"]) == 2
    assert found["asked"] == ["http://127.0.0.1:9/stranger.png"]


def test_the_report_fits_every_screen(tmp_path, browser):
    from made_up_run import made_up_run

    from pediatric_ecg.report import build_report

    report = build_report(made_up_run(tmp_path / "run", seed=1))
    for width, dark in SCREENS:
        found = browser.open(report, width, dark)
        assert faults(found) == {}, (width, dark)
        assert found["pictures"] > 3
        assert (found["background"] == "rgb(255, 255, 255)") != dark, "the page follows the system"
        if width == 1280:  # tables scroll inside their own box on a phone, and on a desk not at all
            script = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
            assert browser.call("Runtime.evaluate", expression=script)["result"]["value"] == 0
    script = "getComputedStyle(document.querySelector('figure img')).backgroundColor"
    assert browser.call("Runtime.evaluate", expression=script)["result"]["value"] == "rgb(255, 255, 255)"


def test_the_printed_report_is_light_and_shows_every_item(tmp_path, browser):
    "What is folded on the screen is open on paper, and paper is white although the system is dark."
    from made_up_run import made_up_run

    from pediatric_ecg.report import build_report

    report = build_report(made_up_run(tmp_path / "run", seed=1))
    browser.open(report, 800, True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[
        {"name": "prefers-color-scheme", "value": "dark"}])
    script = """JSON.stringify([getComputedStyle(document.body).backgroundColor, (() => {
        document.querySelector('details').open = false;
        return document.querySelector('.tripod tr:last-child').getBoundingClientRect().height; })()])"""
    background, height = json.loads(browser.call("Runtime.evaluate", expression=script)["result"]["value"])
    browser.call("Emulation.setEmulatedMedia", media="")
    assert background == "rgb(255, 255, 255)" and height > 10
