"""The page in headless Chromium: what is on it, that data stays text, and that it can be read."""

import http.server
import threading
from functools import partial

import pytest

from sumzero.infer.report import report
from sumzero.runfolder import RunFolder

from .browser import PROGRAM
from .report_pages import contrast, ids, open_example, opened, opened_page, write_page
from .scored_run import HOSTILE, run_settings, source_rows, trained

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    with opened_page(made, tmp_path_factory.mktemp("profile")) as one:
        yield one


def test_every_part_is_there(page):
    found = page.run("[...document.querySelectorAll('main > section')].map(x => x.id)")
    expected = ["scores", "comparison", "length", "examples", "training", "data", "generation"]
    assert found == [*expected, "made"]
    assert page.run("document.querySelectorAll('#training svg .line').length") >= 3
    assert page.run("document.querySelectorAll('#scores svg .mark').length") > 6
    assert page.run("document.querySelectorAll('#comparison svg .zero').length") == 1
    assert page.run("document.querySelectorAll('svg:not([aria-label]):not(.key)').length") == 0
    text = page.run("document.body.innerText")
    for said in ("second less first", "60 documents with 68 targets", "98.0%", "torch 2.13.0"):
        assert said in text


def test_data_stays_text_everywhere(page):
    assert page.run("window.hit") is None
    assert page.run("document.querySelectorAll('img, script[src], link, iframe').length") == 0
    assert page.run("document.scripts.length") == 2
    assert opened(page) == HOSTILE
    document = page.run("at('document').textContent")
    assert document == f"{HOSTILE} Here it ends."
    assert page.run("at('references').querySelectorAll('p')[0].textContent") == HOSTILE
    assert HOSTILE in page.run("at('data').textContent")


def test_the_policy_lets_nothing_else_run_or_load(page):
    assert "default-src 'none'" in page.run(
        "document.querySelector('meta[http-equiv=Content-Security-Policy]').content"
    )
    page.run(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.hit = 3'}))"
    )
    assert page.run("window.hit") is None
    refused = page.run(
        "fetch(location.href).then(() => 'fetched', fault => fault.constructor.name)"
    )
    assert refused == "TypeError"
    assert len(page.faults) >= 2
    assert all("Content Security Policy" in fault["text"] for fault in page.faults)
    page.faults.clear()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(page, width, dark):
    page.look(width, 900, dark=dark)
    open_example(page, "r1")
    page.point("document.querySelector('.sentence')", click=True)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    for selector in ("body", ".source.lit", ".sentence.lit", ".note", "figcaption", "small"):
        assert contrast(page, selector) >= 4.5, selector
    page.press("Escape")
    page.look(1280, 900)


def test_on_paper_the_open_example_is_whole_and_its_controls_are_away(page):
    page.look(800, 1000, media="print")
    assert not page.run("at('controls').checkVisibility()")
    assert page.run("at('document').checkVisibility()")
    assert page.run("getComputedStyle(at('document')).overflowY") == "visible"
    page.look(1280, 900)


def test_it_is_the_same_from_a_server(made, page, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=made.parent)
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/report.html"
        page.requests.clear()
        page.open(address)
        assert len(ids(page)) == 8
        assert page.requests == [address]
        server.shutdown()
    page.open(made.as_uri())
    page.requests[:] = [made.as_uri()]


def test_what_is_still_trained_has_curves_and_no_scores(tmp_path, page, made):
    config = run_settings(tmp_path, "young", source_rows())
    RunFolder.of(config).begin(config)
    trained(config, ends=False)
    page.open(report(config).as_uri())
    text = page.run("document.body.innerText")
    assert "The training has not finished" in text
    assert "Nothing has been scored yet" in text
    assert page.run("document.querySelectorAll('#training svg').length") >= 3
    assert page.run("document.scripts.length") == 0
    page.open(made.as_uri())
    page.requests[:] = [made.as_uri()]
