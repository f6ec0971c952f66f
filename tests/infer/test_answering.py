"""Rows of a model under its contract; the engine is the test's own, and reads prompts back."""

import json
import shutil

import pytest

from sumzero.contract import make_contract, write_contract
from sumzero.infer.answering import answers, open_model
from sumzero.infer.engine import Completion
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.inputs import open_inputs
from sumzero.infer.questions import asking, read_test
from sumzero.prompt import PromptRenderer
from sumzero.runfile import check
from sumzero.runfolder import RunFolder

ROWS = [
    {"id": "a", "document": "The cat sat on the mat. " * 30, "q": "Who sat?", "tag": 1},
    {"id": "b", "document": "It was warm.", "q": "Was it warm?", "tag": 2},
]


class Reader:
    """Answers with the prompts that it is given, the last one first."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def generate(self, requests, stop_ids, seed):
        assert stop_ids
        for request in reversed(list(requests)):
            text = self._tokenizer.decode(request.prompt_ids)
            yield Completion(request.id, f" {text}\n", (), len(text), "stop", 0.5)


@pytest.fixture
def config(tmp_path, model_folder, tokenizer):
    def make(**data):
        file = tmp_path / "test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        source = {"path": str(file), "metadata": ["tag"], "task": "answer", "instruction": "q"}
        data = {"train": source, "test": source, "max_length": 128, **data}
        values = {"name": "run", "runs": str(tmp_path / "runs"), "data": data}
        made = check(values | {"generate": {"max_new_tokens": 16}}, "run.toml")
        export = RunFolder.of(made).export
        shutil.copytree(model_folder, export, dirs_exist_ok=True)
        renderer = PromptRenderer(tokenizer, made.data.truncation)
        write_contract(export, make_contract(renderer, made.data))
        return made

    return make


def _opened(config):
    inputs = open_inputs(RunFolder.of(config).inputs, config.data.test)
    return inputs, *open_model(config, "finetuned", inputs)


def test_each_record_is_asked_and_its_row_says_what_was_kept(config, tokenizer):
    run = config()
    inputs, model, made_by = _opened(run)
    last, first = answers(Reader(tokenizer), iter(inputs), run, model)
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
    records, sources = read_test(run)
    ask = asking(run, model.contract)
    asked = [(r, ask(r, s)) for r, s in zip(records, sources, strict=True)]
    assert made_by["input"] == input_digest(asked)
    assert made_by["asked"] == sorted({text for _, text in asked})


def test_a_document_that_may_not_be_cut_has_a_row_with_its_error(config, tokenizer):
    run = config(truncation="drop")
    inputs, model, _ = _opened(run)
    rows = {row["id"]: row for row in answers(Reader(tokenizer), iter(inputs), run, model)}
    assert rows["a"]["error"].startswith("the prompt does not fit: ")
    assert rows["a"]["metadata"] == {"tag": 1}
    assert "text" in rows["b"]
