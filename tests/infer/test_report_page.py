"""The page in headless Chromium: as people see and use it, from a scored run on disk."""

import http.server
import json
import threading
from functools import partial

import pytest

from sumzero.infer.report import report
from sumzero.infer.support import ATTRIBUTIONS
from sumzero.runfolder import RunFolder

from .browser import PROGRAM, browser
from .scored_run import HOSTILE, run_settings, scored_run, source_rows, trained

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here")
MODEL = "org/a-model"


def explain(config, rows, texts):
    """attributions.jsonl for all rows but the first: the second of three sentences weighs most."""
    lines = [{"kind": "explanation"}]
    for row in rows[1:]:
        spans, start = [], 0
        for sentence in row["document"].split(". "):
            spans.append([start, start + len(sentence) + 1])
            start += len(sentence) + 2
        spans[-1][1] = len(row["document"])
        own = {"id": row["id"], "system": MODEL, "document_sentences": spans}
        own["summary_sentences"] = [[0, 3], [4, len(texts[row["id"]])]]
        own |= {"weights": [[0.5, 2.0, -1.0], [0, 0, 0]], "alignment": [[0, 0, 1.0], [0.5, 0, 0]]}
        lines.append(own)
    file = RunFolder.of(config).root / ATTRIBUTIONS
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a run beside another one."""
    folder = tmp_path_factory.mktemp("report")
    rows = source_rows()
    texts = {row["id"]: " ".join(row["document"].split()[:6]) for row in rows}
    texts["r2"] = "Cut off…"
    config = scored_run(folder, "first", rows=rows, texts=texts)
    trained(config)
    explain(config, rows, texts)
    other = scored_run(folder, "second", rows=rows, texts={**texts, "r3": "Cat 3 sat.", "r5": None})
    return report(config, [other])


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.look(1280, 900)
        one.open(made.as_uri())
        yield one
        assert one.faults == []
        assert one.requests == [made.as_uri()]


@pytest.fixture(autouse=True)
def anew(page):
    """Each test begins with all examples, the first open, and nothing lit."""
    page.run(
        "for (const [id, value] of [['system', '0'], ['only', 'all'], ['order', 'input']])"
        " { at(id).value = value; at(id).dispatchEvent(new Event('change')); }"
        "at('search').value = ''; at('search').dispatchEvent(new Event('input'));"
        "at('list').focus(); at('list').querySelector('li').click();"
        "document.activeElement.blur()"
    )


def open_example(page, id_):
    page.run(f"[...at('list').children].find(x => x.textContent.startsWith('{id_}')).click()")


def ids(page):
    return page.run("[...at('list').querySelectorAll('.id')].map(x => x.textContent)")


def opened(page):
    return page.run("at('example-id').textContent")


def lit(page):
    return page.run(
        "[...at('document').querySelectorAll('.lit')].map(x => [x.textContent, x.dataset.weight])"
    )


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


def test_pointing_at_a_sentence_lights_its_sources_by_weight(page):
    open_example(page, "r1")
    page.point("document.querySelector('.sentence')")
    sources = lit(page)
    assert sources == [["Cat 1 sat on 🙂 mats.", "0.5"], ["It was warm there.", "2"]]
    shares = page.run(
        "[...document.querySelectorAll('.source.lit')].map("
        "x => [x.style.getPropertyValue('--share'), getComputedStyle(x).textDecorationThickness])"
    )
    assert shares == [["0.250", "1.75px"], ["1.000", "4px"]]
    told = page.run("document.querySelector('.sources').innerText")
    assert told.splitlines() == [
        "Sources by ablation",
        "2 sentence 2: It was warm there.",
        "0.5 sentence 1: Cat 1 sat on 🙂 mats.",
    ]
    page.point("document.querySelector('h1')")
    assert lit(page) == []


def test_a_click_keeps_the_sources_lit_until_escape(page):
    open_example(page, "r1")
    page.point("document.querySelector('.sentence')", click=True)
    page.point("document.querySelector('h1')")
    assert len(lit(page)) == 2
    assert page.run("document.querySelector('.sentence').getAttribute('aria-pressed')") == "true"
    page.press("Escape")
    assert lit(page) == []
    assert page.run("document.querySelector('.sentence').getAttribute('aria-pressed')") == "false"


def test_a_sentence_without_sources_says_so(page):
    open_example(page, "r1")
    page.point("document.querySelectorAll('.sentence')[1]")
    assert lit(page) == []
    assert "no sentence" in page.run("document.querySelector('.sources').textContent")


def test_where_nothing_was_explained_words_in_common_light_up(page):
    open_example(page, "r1")
    page.point("document.querySelectorAll('.output')[2].querySelector('.sentence')")
    assert lit(page)[0] == ["Cat 1 sat on 🙂 mats.", "1"]
    assert "Sources by words in common" in page.run("at('outputs').innerText")


def test_the_other_method_has_other_sources(page):
    open_example(page, "r1")
    assert page.run("[...at('method').options].map(x => x.value)") == ["ablation", "overlap"]
    page.run("at('method').value = 'overlap'; at('method').dispatchEvent(new Event('change'))")
    page.point("document.querySelector('.sentence')")
    assert [weight for _, weight in lit(page)] == ["1"]
    page.run("at('method').value = 'ablation'; at('method').dispatchEvent(new Event('change'))")


def test_all_works_from_the_keyboard(page):
    page.run("at('list').focus()")
    page.press("ArrowDown")
    assert opened(page) == "r1"
    page.press("End")
    assert opened(page) == "r7"
    page.press("Home")
    page.press("ArrowUp")
    assert opened(page) == HOSTILE
    assert page.run("document.querySelectorAll('[aria-selected=true]').length") == 1
    page.run("at('next').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    assert opened(page) == "r1"
    for _ in range(4):  # past the document, to the first sentence
        page.press("Tab")
        if page.run("document.activeElement.className").startswith("sentence"):
            break
    assert page.run("document.activeElement.className") == "sentence lit"
    assert len(lit(page)) == 2
    page.press("Enter", "\r")
    page.press("Tab")
    assert [weight for _, weight in lit(page)] == ["0.5", "2"]
    page.press("Escape")
    assert lit(page) == []


def choose(page, field, value):
    page.run(f"at('{field}').value = '{value}'; at('{field}').dispatchEvent(new Event('change'))")


def test_filters_leave_what_they_say(page):
    labels = page.run("[...at('only').options].map(x => x.textContent)")
    assert labels == ["all (8)", "stopped by length (1)", "changed between runs (2)"]
    choose(page, "only", "length")
    assert ids(page) == ["r2"]
    choose(page, "only", "changed")
    assert ids(page) == ["r3", "r5"]
    choose(page, "only", "all")
    choose(page, "order", "worst")
    numbers = page.run("[...at('list').querySelectorAll('.number')].map(x => +x.textContent)")
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]
    choose(page, "order", "changed")
    assert ids(page)[0] in ("r3", "r5")


def test_another_system_has_its_own_filters(page):
    names = page.run("[...at('system').options].map(x => x.textContent)")
    assert names == ["first", "second", "lead1"]
    choose(page, "system", "1")
    labels = page.run("[...at('only').options].map(x => x.textContent)")
    assert "failed (1)" in labels
    choose(page, "only", "failed")
    assert ids(page) == ["r5"]
    assert page.run("document.querySelector('.output h4').textContent") == "second"
    assert HOSTILE.split("\u2028")[0].strip() in page.run(
        "document.querySelector('.output').innerText"
    )


def test_records_are_found_by_their_id(page):
    page.paste("search", "R4")
    assert ids(page) == ["r4"]
    assert opened(page) == "r4"
    page.paste("search", "no such id")
    assert page.run("at('none').checkVisibility() && !at('example').checkVisibility()")
    assert page.run("at('count').textContent").startswith("0 of 8")


def test_a_link_opens_its_example(page, made):
    open_example(page, "r4")
    link = page.run("location.href")
    assert link.endswith("#example=r4")
    page.open("about:blank")
    page.open(link)
    assert opened(page) == "r4"
    page.requests[:] = [made.as_uri()]


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


def contrast(page, selector):
    """WCAG's ratio of an element's text and what is painted behind it."""
    return page.run(
        """(selector => {
            const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
            const over = colours => {
                canvas.clearRect(0, 0, 1, 1);
                for (const colour of colours) {
                    canvas.fillStyle = colour;
                    canvas.fillRect(0, 0, 1, 1);
                }
                return [...canvas.getImageData(0, 0, 1, 1).data];
            };
            const light = rgb => rgb.slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const element = document.querySelector(selector);
            const grounds = [];
            for (let at = element; at; at = at.parentElement)
                grounds.unshift(getComputedStyle(at).backgroundColor);
            const [a, b] = [light(over(grounds)),
                light(over([...grounds, getComputedStyle(element).color]))].sort((x, y) => x - y);
            return (b + 0.05) / (a + 0.05);
        })(""" + json.dumps(selector) + ")"
    )  # fmt: skip


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
