"""The browser of examples in headless Chromium: sources that light up, filters, keys, links."""

import pytest

from .browser import PROGRAM
from .report_pages import begin, choose, ids, lit, open_example, opened, opened_page, write_page
from .scored_run import HOSTILE

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    with opened_page(made, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(autouse=True)
def anew(page):
    begin(page)


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


def test_a_link_opens_its_example_and_there_is_none_before_one_is_chosen(page, made):
    page.open("about:blank")
    page.open(made.as_uri())
    assert page.run("location.hash + scrollY") == "0"
    open_example(page, "r4")
    link = page.run("location.href")
    assert link.endswith("#example=r4")
    page.open("about:blank")
    page.open(link)
    assert opened(page) == "r4"
    page.requests[:] = [made.as_uri()]


def test_what_the_model_was_unsure_of_is_underlined_with_its_probability(page):
    open_example(page, "r1")
    marked = page.run(
        "[...document.querySelectorAll('.output .token')].map("
        "x => [x.textContent, x.title, getComputedStyle(x).textDecoration.includes('wavy'),"
        " getComputedStyle(x).textDecorationThickness])"
    )
    assert marked == [
        ["Cat", "probability 100%", False, "auto"],
        ["1", "probability 50%", False, "auto"],
        ["sat", "probability 50%", False, "auto"],
        ["on", "probability 5%", True, "2.5px"],
        ["🙂", "probability 14%", True, "1px"],
        ["mats.", "probability below 1%", True, "2.5px"],
    ]
    assert (
        page.run("document.querySelector('.output .text').textContent") == "Cat 1 sat on 🙂 mats."
    )
    assert "mean probability of a token 17%" in page.run(
        "document.querySelector('.output .about').textContent"
    )
    page.run("at('sure').click()")
    assert not page.run(
        "getComputedStyle(document.querySelector('.unlikely')).textDecoration.includes('wavy')"
    )
    page.run("at('sure').click()")
    page.run("document.querySelectorAll('.sentence')[1].focus()")  # for those who do not point
    assert page.run("document.querySelector('.doubts').textContent") == (
        "The model was least sure of “mats.” below 1%, “on” 5%, “🙂” 14%"
    )


def test_only_explained_summaries_can_be_in_order_of_certainty(page):
    choose(page, "order", "unsure")
    assert ids(page)[0] == "r1"
    assert page.run("at('sure-legend').checkVisibility()")
