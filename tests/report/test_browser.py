"""The page of an evaluation as a browser shows it: by keyboard, light and dark, narrow and wide, and no script runs."""

import pytest

from headless import Headless, find_browser
from histofold.report.evaluation import write_evaluation_report
from small_masks import made_masks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium here: install the package chromium"),
]
HACK = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
IDS = [HACK, *"bcdef"]
WAIT = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        evaluation = made_masks(patch, tmp_path_factory.mktemp("run"), IDS, patients=3)
        write_evaluation_report(evaluation)
        yield (evaluation.run / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Headless(tmp_path_factory.mktemp("profile")) as started:
        yield started


def asked_for(browser):
    """The files that the page has asked for."""
    urls = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith("data:")]


def complaints(browser):
    return [event["params"] for event in browser.events if event.get("method") == "Log.entryAdded"]


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_nothing_leaves_and_no_script_runs(browser, address, width, dark):
    browser.open(address, width, dark=dark)
    browser.value(WAIT)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("typeof window.hacked + document.scripts.length") == "undefined0"
    folder = address.rsplit("/", 1)[0]
    assert all(url.startswith(folder) for url in asked_for(browser))
    assert complaints(browser) == []
    missing = (
        "[...document.images].filter(each => each.complete && !each.naturalWidth && each.loading != 'lazy').length"
    )
    assert browser.value(missing) == 0


def test_the_theme_is_the_systems_until_one_is_chosen(browser, address):
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.open(address, 900, dark=True)
    dark = browser.value(paper)
    browser.press("Tab")
    browser.press("ArrowRight")
    assert browser.value("document.activeElement.id") == "theme-light"
    light = browser.value(paper)
    browser.press("ArrowRight")
    assert [browser.value(paper), light] == [dark, "rgb(255, 255, 255)"] != [light, dark]
    outline = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert browser.value(outline) == "solid", "where the keyboard is can be seen"


def test_arrow_keys_go_from_slide_to_slide_and_load_only_what_is_open(browser, address):
    browser.open(address, 1000)
    browser.value("document.querySelector('.slides input').focus()")
    browser.value(WAIT)
    assert not [url for url in asked_for(browser) if "-0-" in url], "layers are loaded when a slide opens"
    opened = "[...document.querySelectorAll('.panel')].findIndex(each => each.offsetHeight > 0 && each.children.length)"
    assert browser.value(opened) == -1
    for place in (1, 2):
        browser.press("ArrowRight")
        browser.value(WAIT)
        assert browser.value(opened) == place
    layers = {url.rsplit("-", 1)[1] for url in asked_for(browser) if "-0-" in url}
    assert layers == {"errors.png"}
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.value(opened) == -1


def test_switches_lay_one_layer_over_the_picture(browser, address):
    browser.open(address, 1000)
    layers = "[...document.querySelectorAll('.gallery .viewer')[{}].querySelectorAll('.over')]"
    shown = layers + ".map(each => each.offsetHeight > 0)"
    browser.value("document.querySelector('.gallery .viewer input:checked').focus()")
    seen = []
    for _ in range(4):
        seen.append(browser.value(shown.format(0)))
        browser.press("ArrowLeft")
    assert sorted(map(sum, seen)) == [0, 1, 1, 1], "the picture alone, and each of its layers"
    assert len({tuple(each) for each in seen}) == 4
    assert browser.value(shown.format(1)) == [False, False, True], "another viewer has a switch of its own"
