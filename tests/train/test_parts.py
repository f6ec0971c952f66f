"""What is asked of a record and learnt from it, as it comes out in training."""

import re

import pytest

from sumzero.errors import DataError
from sumzero.instructions import bundled

ASKED = re.compile(r"<\|user\|>(.*?)\n\n(.*)<\|end\|><\|assistant\|>", re.DOTALL)
ANSWER = {"task": "answer", "document": "context", "instruction": "question"}


def _asked(run, epoch=0):
    """By record id, what stands after the document and each target's text."""
    return {
        name: (ASKED.fullmatch(prompt)[2], target.removesuffix("<|end|>"))
        for piece in run.texts(epoch)
        for name, prompt, target in piece
    }


def test_a_summary_is_asked_for_in_all_the_words_of_its_set_over_the_epochs(prepared):
    run = prepared([{"document": f"Cat {n}.", "target": "Cat."} for n in range(12)])
    heard = {asked for epoch in range(3) for asked, _ in _asked(run, epoch).values()}
    assert heard == set(bundled("summarize", "en").ways(None, length_control=False))


def test_a_question_without_an_answer_is_learnt_as_unanswerable(prepared):
    rows = [
        {"id": "yes", "context": "A cat sat.", "question": "Who sat?", "target": ["A cat"]},
        {"id": "no", "context": "A cat sat.", "question": "Who ran?", "target": []},
    ]
    asked = _asked(prepared(rows, source=ANSWER))
    assert asked["yes"][1] == "A cat"
    assert asked["no"][1] == bundled("answer", "en").unanswerable
    assert "Who ran?" in asked["no"][0]


def test_each_question_is_asked_in_the_words_of_the_set(prepared):
    rows = [{"id": n, "context": "A cat sat.", "question": f"Q{n}?", "target": "A"} for n in "abc"]
    for name, (asked, _) in _asked(prepared(rows, source=ANSWER)).items():
        words = asked.replace(f"Q{name}?", "{question}")
        assert words in bundled("answer", "en").paraphrases


def test_rows_are_asked_in_their_own_language(prepared):
    rows = [
        {"id": "en", "document": "A cat.", "target": "Cat.", "lang": "en"},
        {"id": "zh", "document": "一只猫。", "target": "猫。", "lang": "zh-CN"},
        {"id": "fr", "document": "Un chat.", "target": "Chat.", "lang": "fr"},
    ]
    run = prepared(rows, source={"language_column": "lang"})
    asked = _asked(run)
    assert asked.keys() == {"en", "zh"}
    assert asked["zh"][0] in bundled("summarize", "zh").ways(None, length_control=False)
    (reject,) = run.rejects
    assert (reject["id"], reject["line"]) == ("fr", 3)
    assert "language 'fr'" in reject["reason"]
    assert run.counts["rejected_by_reason"] == {"no instructions for language": 1}


def test_a_row_s_own_instruction_is_asked_as_it_stands_in_any_language(prepared):
    rows = [
        {"id": "a", "target": "Cat.", "ask": "Name {the} animal.", "lang": "en"},
        {"id": "b", "target": "Chat.", "ask": "Résume.", "lang": "fr"},
        {"id": "c", "target": "Wet.", "ask": " {question} <|end|>", "lang": "en"},
    ]
    rows = [{"document": "A cat.", **row} for row in rows]
    source = {"instruction": "ask", "language_column": "lang"}
    asked = _asked(prepared(rows, source=source))
    assert asked == {
        "a": ("Name {the} animal.", "Cat."),
        "b": ("Résume.", "Chat."),
        "c": ("{question} <|end|>", "Wet."),
    }


def test_a_length_that_is_asked_for_is_that_of_the_target(prepared):
    rows = [
        {"id": "short", "document": "A cat sat on a mat.", "target": "A cat sat."},
        {"id": "long", "document": "Cats sit.", "target": "One two three four five six. And more."},
    ]
    own = {"short": {"in one sentence", "5 words"}, "long": {"in 2 sentences", "10 words"}}
    run = prepared(rows, length_control=True)
    heard = {"short": set(), "long": set()}
    for epoch in range(25):
        for name, (asked, _) in _asked(run, epoch).items():
            heard[name] |= set(re.findall(r"in one sentence|in \d+ sentences|\d+ words", asked))
    assert heard == own


def test_references_share_the_whole_prompt_and_questions_the_document(prepared):
    rows = [
        {"context": "A cat sat.", "question": "Who?", "target": ["A cat", "The cat"]},
        {"context": "Rain fell.", "question": "What?", "target": "Rain"},
        {"context": "Rain fell.", "question": "Did it?", "target": "It did"},
    ]
    run = prepared(rows, source=ANSWER)
    assert run.store.alike.tolist() == [True, False]
    (one, other), (first, second) = run.texts()
    assert one[1] == other[1]
    assert first[1] != second[1]


def test_with_length_control_references_are_asked_for_apart(prepared):
    rows = [{"document": "A cat sat.", "target": ["A cat.", "One. Two. Three. Four five six."]}]
    assert prepared(rows, length_control=True).store.alike.tolist() == [False]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_length": 100}, "target too long"),
        ({"max_length": 500, "truncation": "drop"}, "document too long"),
        ({"max_length": 400, "max_prompt": 16}, "instruction too long"),
    ],
)
def test_a_row_that_does_not_fit_is_listed_with_what_is_at_fault(prepared, values, reason):
    rows = [
        {"id": "fits", "document": "A cat.", "target": "Cat.", "ask": "Go."},
        {"id": "not", "document": "A cat sat. " * 100, "target": "Cat. " * 80, "ask": "Go. " * 20},
    ]
    run = prepared(rows, source={"instruction": "ask"}, **values)
    (reject,) = run.rejects
    assert (reject["id"], reject["line"]) == ("not", 2)
    assert reject["reason"].startswith(reason)
    assert run.counts["rejected_by_reason"] == {reason: 1}
    assert _asked(run).keys() == {"fits"}


def test_a_document_that_must_not_be_cut_is_refused_with_file_and_line(prepared):
    rows = [{"document": "A cat.", "target": "Cat."}, {"document": "A. " * 300, "target": "A."}]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: document too long: \d+ tokens, \d+ fit"):
        prepared(rows, truncation="error", max_length=200)
