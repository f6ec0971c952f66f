from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.sources import Sources, sentence_spans

TEXT = "  One is here. Two is, too.\n\nThree! 四在这里。五也在。 "
DOCUMENTS = st.text("Aa. !\n猫。", max_size=80)


def texts_of(sources):
    return [sources.document[begin:end] for begin, end in sources.spans]


def test_sentences_are_spans_without_the_space_around_them():
    sources = Sources.of(TEXT, [(0, len(TEXT))], 100)
    assert texts_of(sources) == [
        "One is here.",
        "Two is, too.",
        "Three!",
        "四在这里。",
        "五也在。",
    ]
    assert sources.there == (0, 1, 2, 3, 4)
    assert sources.cut_in_two == ()


def test_what_stays_keeps_what_stands_before_it():
    sources = Sources.of(TEXT, [(0, len(TEXT))], 100)
    assert sources.text([True] * 5) == TEXT.strip()
    assert sources.text([True, False, True, False, True]) == "One is here.\n\nThree!五也在。"
    assert sources.text([False, True, False, False, False]) == "Two is, too."
    assert sources.text([False] * 5) == ""


def test_a_document_that_was_cut_has_no_more_than_was_read():
    begin = TEXT.index("is, too")
    sources = Sources.of(TEXT, [(0, begin)], 100)
    assert sources.there == (0, 1)
    assert sources.cut_in_two == (1,)
    assert sources.text([True, True]) == "One is here. Two "
    assert sources.text([False, True]) == "Two "
    ends = Sources.of(TEXT, [(0, 9), (TEXT.index("也"), len(TEXT))], 100)
    assert ends.there == (0, 4)
    assert ends.cut_in_two == (0, 4)
    assert ends.text([True, True]) == "  One is "[2:9] + "也在。"


def test_many_sentences_are_joined_with_their_neighbours():
    document = "This is it. " * 10_000
    sources = Sources.of(document, [(0, len(document))], 100)
    assert len(sources.spans) == len(sources.there) == 100
    assert sources.sentences == 10_000
    cut = Sources.of(document, [(0, 1200)], 10)
    assert len(cut.there) == 10
    assert len(cut.spans) == 10 + 10
    assert cut.text([True] * 10) == document[:1199]


@given(DOCUMENTS, st.integers(0, 80), st.integers(0, 80), st.integers(1, 5))
def test_every_sentence_is_in_one_span_and_only_what_was_read_is_ever_left(document, a, b, most):
    read = [(min(a, b), min(max(a, b), len(document)))]
    sources = Sources.of(document, read, most)
    assert len(sources.there) <= most
    spans = sentence_spans(document)
    for begin, end in spans:
        assert sum(x <= begin and end <= y for x, y in sources.spans) == 1
    assert "".join("".join(t.split()) for t in texts_of(sources)) == "".join(document.split())
    everything = sources.text([True] * len(sources.there))
    assert everything in document[slice(*read[0])]
    assert everything.split() == document[slice(*read[0])].split()
