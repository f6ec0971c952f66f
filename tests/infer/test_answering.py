"""Rows of a model under its contract; the engine is the test's own, and reads prompts back."""

import pytest

from sumzero.infer.answering import answers
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.questions import asking, each_record

from .model_run import Reader, opened, write_run

ROWS = [
    {"id": "a", "document": "The cat sat on the mat. " * 30, "q": "Who sat?", "tag": 1},
    {"id": "b", "document": "It was warm.", "q": "Was it warm?", "tag": 2},
]
SOURCE = {"metadata": ["tag"], "task": "answer", "instruction": "q"}


@pytest.fixture
def config(tmp_path, model_folder, tokenizer):
    def make(long="truncate", **data):
        generate = {"long": long}
        return write_run(
            tmp_path, model_folder, tokenizer, ROWS, source=SOURCE, generate=generate, **data
        )

    return make


def _rows(run, tokenizer):
    inputs, model, _ = opened(run)
    found = answers(Reader(tokenizer), iter(inputs), run, model, lambda _: {})
    return {row["id"]: row for row in found}


def test_each_record_is_asked_and_its_row_says_what_was_kept(config, tokenizer):
    run = config()
    inputs, model, made_by = opened(run)
    last, first = answers(Reader(tokenizer), iter(inputs), run, model, lambda _: {})
    assert (first["id"], last["id"]) == ("a", "b")
    assert "Was it warm?" in last["text"]
    assert "Who sat?" in first["text"]
    assert first["metadata"] == {"tag": 1}
    assert first["truncated"]
    assert first["document_kept"] < first["document_tokens"]
    assert first["prompt_tokens"] == 128 - 16
    assert not last["truncated"]
    assert last["document_kept"] == last["document_tokens"]
    assert last["text"] == last["text"].strip()
    ask = asking(run, model.contract)
    asked = [(r, ask(r, s)) for r, s in each_record(run.data.test, need_targets=False)]
    assert made_by["input"] == input_digest(asked)
    assert made_by["asked"] == sorted({text for _, text in asked})


@pytest.mark.parametrize(("long", "rule"), [("truncate", "drop"), (None, "head")])
def test_a_document_that_may_not_be_cut_has_a_row_with_its_error(config, tokenizer, long, rule):
    rows = _rows(config(long, truncation=rule), tokenizer)
    assert rows["a"]["error"].startswith("the prompt does not fit: ")
    assert rows["a"]["metadata"] == {"tag": 1}
    assert "text" in rows["b"]
