import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.sentences import first_sentence, sentence_ends, sentences

CASES = {
    "The cat sat. It slept.": ["The cat sat.", "It slept."],
    "Really? Yes! Good.": ["Really?", "Yes!", "Good."],
    "no full stop": ["no full stop"],
    "It costs 3.5 m at most. Cheap.": ["It costs 3.5 m at most.", "Cheap."],
    "Dr. Smith met Prof. Lee. They left.": ["Dr. Smith met Prof. Lee.", "They left."],
    "J. K. Rowling wrote it. I read it.": ["J. K. Rowling wrote it.", "I read it."],
    "See e.g. Fig. 3 (cf. Sec. 2). Then go.": ["See e.g. Fig. 3 (cf. Sec. 2).", "Then go."],
    "Wait ... what? a lower letter": ["Wait ... what? a lower letter"],
    'She said "Go." Then she left.': ['She said "Go."', "Then she left."],
    "He left. (She stayed.) They met.": ["He left.", "(She stayed.)", "They met."],
    "“Is it?” “It is.”": ["“Is it?”", "“It is.”"],
    "One line\nand the next. Another.": ["One line and the next.", "Another."],
    "A title\n\nThe text": ["A title", "The text"],
    "A title \n \t\n  The text": ["A title", "The text"],
    "这是第一句。这是第二句\uff01对吗\uff1f对": [
        "这是第一句。",
        "这是第二句\uff01",
        "对吗\uff1f",
        "对",
    ],
    "他说\uff1a「好。」然后走了。": ["他说\uff1a「好。」", "然后走了。"],
    "这是第一句.这是第二句!2023年是第三句(见图).最后": [
        "这是第一句.",
        "这是第二句!",
        "2023年是第三句(见图).",
        "最后",
    ],
    "误差为3.5%,基于.NET平台等......方法": ["误差为3.5%,基于.NET平台等......方法"],
    "P值小于.05,差异显著.2例治愈": ["P值小于.05,差异显著.", "2例治愈"],
    "一.概述.十二\uff0e方法如下.结束": ["一.概述.", "十二\uff0e方法如下.", "结束"],
    "www.example.com is a.b.c": ["www.example.com is a.b.c"],
    "It ended in 1999. 2000 came.": ["It ended in 1999.", "2000 came."],
    "Too much!!! Was it?! Yes.": ["Too much!!!", "Was it?!", "Yes."],
    "Short. " * 3: ["Short."] * 3,
    "": [],
    " \n\n\t ": [],
}


@pytest.mark.parametrize(("text", "expected"), CASES.items(), ids=[repr(text) for text in CASES])
def test_sentences_end_where_a_reader_would_end_them(text, expected):
    assert sentences(text) == expected
    assert first_sentence(text) == (expected[0] if expected else "")


_PIECES = st.sampled_from(
    [*" \n\t.!?\"')(。\uff01」\u3000文", "a", "A", "Dr", "e.g", "Hello", "5", "“"]
)
_TEXTS = st.lists(_PIECES, max_size=40).map("".join) | st.text(max_size=60)


@given(_TEXTS)
def test_no_character_but_white_space_is_lost_added_or_moved(text):
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in found)


@given(_TEXTS, st.sampled_from([0, 1_990, 2_000, 10_000]))
def test_the_first_sentence_of_a_long_text_is_the_first_of_all(text, length):
    text = "word " * (length // 5) + text + " Next. " * (length // 7)
    found = sentences(text)
    assert first_sentence(text) == (found[0] if found else "")


@pytest.mark.parametrize(
    "run", [".", " ", "\n", " \n", "!?", "e.g. ", "“ ", "。", ")", ". ", "文.", "文.)"]
)
def test_a_million_characters_of_leaders_or_blanks_do_not_hang(run):
    # Quadratic time would be hours.
    text = "Contents " + run * (1_000_000 // len(run)) + " x"
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert first_sentence(text).startswith("Contents")


def test_the_ends_of_sentences_are_places_in_the_text():
    text = "It sat. Dr. No left. 这是。那是。 A title\n\nEnd."
    starts = [0, *sentence_ends(text)]
    parts = [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert parts == ["It sat.", " Dr. No left.", " 这是。", "那是。", " A title\n\n", "End."]
    assert sentence_ends("") == sentence_ends("no full stop") == []
