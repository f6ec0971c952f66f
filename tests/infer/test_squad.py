import pytest

from sumzero.infer.squad import signature, squad
from sumzero.instructions import bundled

SAID = bundled("answer", "en").unanswerable


@pytest.mark.parametrize(
    ("references", "text", "exact", "f1"),
    [
        (["The Church of England"], "church of england!", 1, 1),
        (["the Church of England"], "in the Church", 0, 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        (["1984"], "In 1984", 0, 2 * (1 / 2) * 1 / (1 / 2 + 1)),
        (["no", "a yes"], "Yes", 1, 1),
        (["to be to be"], "to to to", 0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        (["U.S."], "US", 1, 1),
        (["x"], "", 0, 0),
        (["The"], " ", 0, 0),
    ],
)
def test_english_goes_by_squads_rules(references, text, exact, f1):
    assert squad(references, text, unanswerable=SAID) == [exact, pytest.approx(f1, abs=1e-15)]


def test_a_question_without_an_answer_is_all_or_nothing():
    said = [SAID]
    assert squad(said, SAID.upper(), unanswerable=SAID) == [1, 1]
    assert squad(said, SAID.split()[0], unanswerable=SAID) == [0, 0]
    assert squad(said, "", unanswerable=SAID) == [0, 0]
    document = [f"{SAID} But here it does"]
    assert squad(document, SAID, unanswerable=SAID) == [0, 0]
    assert squad(document, SAID, unanswerable=None)[1] > 0.5


def test_chinese_and_japanese_go_by_characters():
    assert squad(["英国教会内"], "英国教会", unanswerable=None, language="zh") == [
        0,
        pytest.approx(2 * 1 * 0.8 / 1.8),
    ]
    assert squad(["2023年"], "2023年。", unanswerable=None, language="zh") == [1, 1]
    assert squad(["2023年"], "2022年", unanswerable=None, language="zh") == [0, 0.5]
    assert squad(["カメラ"], "メラ", unanswerable=None, language="ja")[1] == pytest.approx(0.8)
    assert squad(["die Straße"], "STRASSE", unanswerable=None, language="de")[0] == 0


def test_an_answer_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        squad([], "x", unanswerable=None)


def test_the_signature_tells_the_languages_ways():
    assert "norm:squad" in signature(["google"])
    assert "tok:unicode" in signature(["google", "unicode"])
