import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.alignment import alignment

TEXTS = st.lists(st.text("ab 猫犬.\n", max_size=20), max_size=6)


def test_what_was_copied_is_found_and_what_was_not_has_nothing():
    document = [
        "The committee met on Monday.",
        "Prices of wheat rose by 12 percent after the drought.",
        "The minister of trade resigned.",
    ]
    found = alignment(document, ["Wheat prices rose by 12 percent.", "Cats sleep."])
    assert found[0].argmax() == 1
    assert found[0, 1] > 3 * max(found[0, 0], found[0, 2])
    assert not found[1].any()


def test_a_sentence_has_all_of_itself_in_any_script():
    for text in ("Ein schöner Tag!", "这是一个句子。", "テストです。", "Это тест.", "x"):
        assert alignment([text, "else"], [text]).tolist() == [[1.0, 0.0]]


def test_chinese_is_compared_by_characters_and_2023_alone_makes_nothing_equal():
    document = ["2023年公司收入增长。", "天气很好,我们去公园。"]
    found = alignment(document, ["公司的收入在2023年增长了。", "2023年天气不好。"])
    assert found[0].argmax() == 0
    assert found[1].max() < 0.6


def test_rare_words_tell_more_than_common_ones():
    document = ["the a of the zebra", "the a of in the", "the a of in on", "the a of at the"]
    found = alignment(document, ["the of a zebra"])[0]
    assert found[0] > 1.5 * found[1:].max()


@given(TEXTS, TEXTS)
def test_it_is_a_table_of_shares(document, summary):
    found = alignment(document, summary)
    assert found.shape == (len(summary), len(document))
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_sentences_without_words_have_nothing():
    assert alignment(["...", ""], ["!!!", ""]).tolist() == [[0, 0], [0, 0]]
    assert alignment([], ["a"]).shape == (1, 0)
