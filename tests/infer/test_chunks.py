import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.errors import DataError
from sumzero.infer.chunks import counter, split
from sumzero.prompt import PromptRenderer

# What texts are made of: words, stops, quotes, line ends, blank lines, long words, wide characters.
PARTS = [
    "The cat",
    " sat",
    ".",
    "!",
    '." ',
    " ",
    "\n",
    "\n\n",
    " \n \n ",
    ", and",
    "; ",
    "Dr. J. K.",
]
PARTS += [
    "句子",
    "。",
    "，",
    "」",
    "指标.以",
    "\uff01",
    "x" * 40,
    "🙂",
    "\r\n",
    "\t",
    "e\u0301",
    "\x00",
]
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=60).map("".join)


@pytest.fixture(scope="module")
def count(tokenizer):
    return counter(PromptRenderer(tokenizer))


def words(texts):
    """Counts words, so that a test can say what fits."""
    return [len(text.split()) for text in texts]


def letters(texts):
    return [len(text) for text in texts]


def spans(text, limit, count):
    return [text[chunk.begin : chunk.end] for chunk in split(text, limit, count)]


@given(TEXTS, st.integers(min_value=8, max_value=80))
def test_chunks_together_are_the_text_and_none_is_above_the_limit(count, text, limit):
    chunks = split(text, limit, count)
    assert "".join(text[chunk.begin : chunk.end] for chunk in chunks) == text
    assert [chunk.tokens for chunk in chunks] == count([chunk.of(text) for chunk in chunks])
    assert max(chunk.tokens for chunk in chunks) <= limit
    assert len(chunks) == 1 or all(chunk.of(text) for chunk in chunks)
    assert (len(chunks) == 1) == (count([text.strip()])[0] <= limit)
    assert split(text, limit, count) == chunks


@given(TEXTS.filter(str.strip), st.integers(min_value=1, max_value=9))
def test_the_limit_is_kept_where_pieces_together_have_more_tokens_than_one_by_one(text, limit):
    def squares(texts):
        return [(len(text) ** 2 + 99) // 100 for text in texts]

    chunks = split(text, limit, squares)
    assert "".join(text[chunk.begin : chunk.end] for chunk in chunks) == text
    assert all(1 <= chunk.tokens <= limit for chunk in chunks)


@given(
    st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=40),
    st.integers(min_value=9, max_value=60),
)
def test_sentences_that_fit_are_never_cut(lengths, limit):
    text = " ".join(" ".join(["Word"] * length) + "." for length in lengths)
    assert all(span.rstrip().endswith(".") for span in spans(text, limit, words))


def test_a_paragraph_s_end_is_taken_before_a_sentence_s():
    text = "One two. Three four. Five six.\n\nSeven eight. Nine ten."
    assert spans(text, 6, words) == ["One two. Three four. Five six.\n\n", "Seven eight. Nine ten."]
    lines = "A: one two three four.\nB: five. Six seven.\nA: eight nine."
    assert spans(lines, 7, words)[0] == "A: one two three four.\n"


def test_shares_are_even_not_full_and_then_the_rest():
    text = " ".join(["Two words."] * 55)
    sizes = [chunk.tokens for chunk in split(text, 100, words)]
    assert sizes == [54, 56]
    assert [chunk.tokens for chunk in split(text, 110, words)] == [110]


def test_a_sentence_that_does_not_fit_is_cut_at_clauses_then_words_then_characters():
    assert spans("one two three, four five six", 4, words) == ["one two three, ", "four five six"]
    assert spans("one two three four five six", 4, words) == ["one two three ", "four five six"]
    sizes = [len(span) for span in spans("x" * 1000, 100, letters)]
    assert sum(sizes) == 1000
    assert max(sizes) <= 100
    assert min(sizes) >= 70


def test_chinese_is_cut_at_its_stops_typed_or_not_and_at_its_commas():
    text = "这是第一句话。他说\uff1a「很好。」然后他走了\uff01真的吗\uff1f"
    assert spans(text, 12, letters) == [
        "这是第一句话。",
        "他说\uff1a「很好。」",
        "然后他走了\uff01真的吗\uff1f",
    ]
    assert spans("地表糙度是指标.以金川为例.", 9, letters) == ["地表糙度是指标.", "以金川为例."]
    assert spans("地表糙度是指标\uff0c以金川为例", 9, letters) == [
        "地表糙度是指标\uff0c",
        "以金川为例",
    ]


def test_white_space_however_long_goes_with_what_is_before_it():
    text = "one" + " " * 500 + "two" + "\n" * 500 + "three"
    assert spans(text, 5, letters) == ["one" + " " * 500, "two" + "\n" * 500, "three"]


def test_no_room_and_a_character_that_has_more_tokens_than_the_limit_are_refused(count):
    with pytest.raises(DataError, match="room for 0 tokens"):
        split("text", 0, words)
    with pytest.raises(DataError, match=r"a character has \d tokens and there is room for 1"):
        split("🙂🙂", 1, count)


def test_an_empty_text_is_one_chunk():
    assert spans("", 5, words) == [""]
    assert spans(" \n", 5, words) == [" \n"]


def test_stories_are_cut_at_paragraphs_and_into_even_shares(shared_data, count):
    for line in (shared_data / "squality_long8.jsonl").read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["document"]
        chunks = split(text, 1500, count)
        assert "".join(text[chunk.begin : chunk.end] for chunk in chunks) == text
        sizes = [chunk.tokens for chunk in chunks]
        assert max(sizes) <= 1500
        assert min(sizes) >= 0.7 * max(sizes)
        assert all("\n" in re.search(r"\s*$", text[: chunk.end])[0] for chunk in chunks[:-1])


def test_chinese_abstracts_are_cut_at_the_ends_of_sentences(shared_data, count):
    lines = (shared_data / "csl_zh_600.jsonl").read_text(encoding="utf-8").splitlines()
    text = "".join(json.loads(line)["document"] for line in lines[:100])
    found = split(text, 1500, count)
    assert "".join(text[chunk.begin : chunk.end] for chunk in found) == text
    sizes = [chunk.tokens for chunk in found]
    assert min(sizes) >= 0.6 * max(sizes)
    assert all(chunk.of(text)[-1] in "。.!\uff01?\uff1f" for chunk in found[:-1])
