import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer import words
from sumzero.infer.words import GOOGLE, UNICODE, length, tokenizer_of, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天是2023年。", ["今", "天", "是", "2023", "年"]),
        ("用BERT模型", ["用", "bert", "模", "型"]),
        ("カタカナ、ー々〇", ["カ", "タ", "カ", "ナ", "ー", "々", "〇"]),
        ("ｶﾀ", ["カ", "タ"]),
        ("für Straße STRASSE", ["für", "strasse", "strasse"]),
        ("fu\u0308r", ["für"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("l'homme don't 3.5", ["l", "homme", "don", "t", "3", "5"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("<n>, — !", ["n"]),
        ("half \ud800 pair", ["half", "pair"]),
        ("", []),
    ],
)
def test_texts_in_other_scripts_are_cut_where_their_readers_would(text, expected):
    assert tokens(text) == [unicodedata.normalize("NFKC", token) for token in expected]


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_of_ascii_is_the_long_way(text):
    assert tokens(text) == words._TOKEN.findall(text.lower())


@given(st.text())
def test_no_letter_or_digit_is_lost(text):
    kept = regex.findall(r"[\p{L}\p{N}]", words.folded(text))
    assert regex.findall(r"[\p{L}\p{N}]", "".join(tokens(text))) == kept


@pytest.mark.parametrize(
    ("language", "references", "expected"),
    [
        ("en", ["A cat."], GOOGLE),
        ("en-US", ["café"], GOOGLE),
        ("English", ["2023"], GOOGLE),
        ("en", ["只有一句。"], UNICODE),
        ("en", ["Только одно предложение, with words"], UNICODE),
        ("en", ["A cat.", "这只猫坐在垫子上，很高兴。"], UNICODE),
        ("de", ["Fur"], UNICODE),
        ("zh-CN", ["BERT"], UNICODE),
        ("Chinese", ["BERT"], UNICODE),
    ],
)
def test_language_and_references_tell_how_texts_are_cut(language, references, expected):
    assert tokenizer_of(language, references) == expected
    assert tokenizer_of(language, references[::-1]) == expected


def test_lengths_are_words_or_characters():
    assert length("three short words", "en") == 3
    assert length("今天 是。", "zh") == length("今天 是。", "en") == 4
    assert length("Это три слова", "ru") == 3
