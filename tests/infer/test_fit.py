"""What becomes of documents that do not fit is decided before anything is generated."""

import pytest

from sumzero.cli import main
from sumzero.config import Source
from sumzero.errors import ConfigError
from sumzero.infer.fit import check_fit
from sumzero.records import Record

from .model_run import opened, write_run

LONG = "The cat sat on the mat. " * 30


@pytest.fixture
def config(tmp_path, model_folder, tokenizer):
    def make(rows, **options):
        return write_run(tmp_path, model_folder, tokenizer, rows, **options)

    return make


def _rows(*documents):
    return [{"id": f"r{i}", "document": text} for i, text in enumerate(documents)]


def _room(model):
    asked = model.renderer.ask(model.contract.instructions[0].inference())
    return 128 - 16 - model.renderer.fixed_tokens(asked)


def test_documents_that_do_not_fit_are_refused_by_number_first_id_and_room(config):
    run = config(_rows("Short.", LONG, LONG + "It was warm."))
    inputs, model, _ = opened(run)
    tokens = len(model.renderer.encode_text([LONG.strip()])[0])
    with pytest.raises(ConfigError) as refused:
        check_fit(model, inputs, run.generate)
    assert str(refused.value) == (
        f"generate.long: 2 documents are too long, 'r1' first: {tokens} tokens, and a prompt has "
        f'room for {_room(model)}; say what becomes of them: "truncate", "map_reduce" or "refine" '
        "(docs/long_documents.md)"
    )


def test_the_command_refuses_before_it_starts_an_engine_and_leaves_nothing(
    config, tmp_path, capsys
):
    run = config(_rows(LONG))
    file = tmp_path / "run.toml"
    file.write_text(
        f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{tmp_path}/test.jsonl"\n'
        f"[generate]\nmax_new_tokens = {run.generate.max_new_tokens}\n"
    )
    for _ in range(2):
        assert main(["generate", str(file)]) == 2
        (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("sumzero: "))
        assert "1 document is too long, 'r0' first: " in line
    assert not (tmp_path / "runs" / "run" / "generations").exists()
    assert main(["generate", str(file), "--system=lead1"]) == 0  # it has no limit


def test_a_document_is_too_long_from_the_first_token_beyond_its_room(config):
    run = config(_rows("Short."))
    _, model, _ = opened(run)
    room = _room(model)
    text = " ".join(["cat"] * 200)
    words = text.split()
    fits = max(
        n for n in range(200) if len(model.renderer.encode_text([" ".join(words[:n])])[0]) <= room
    )
    source = run.data.test[0]
    check_fit(model, [(Record("a", " ".join(words[:fits])), source)], run.generate)
    with pytest.raises(ConfigError, match="'a' first"):
        check_fit(model, [(Record("a", " ".join(words[: fits + 1])), source)], run.generate)


def test_the_room_is_what_a_record_s_own_question_leaves(config):
    run = config(
        [{"id": "a", "document": "The cat sat. " * 4, "q": "Who sat? " * 10}],
        source={"task": "answer", "instruction": "q"},
    )
    inputs, model, _ = opened(run)
    with pytest.raises(ConfigError, match="'a' first"):
        check_fit(model, inputs, run.generate)
    short = Record("a", "The cat sat. " * 4, instruction="Who?")
    check_fit(model, [(short, run.data.test[0])], run.generate)


@pytest.mark.parametrize("long", ["truncate", "map_reduce", "refine"])
def test_what_is_said_is_taken_but_for_translations_from_summaries(config, long):
    run = config(_rows(LONG), generate={"long": long})
    inputs, model, _ = opened(run)
    check_fit(model, inputs, run.generate)
    source = Source(path="x", task="translate", target_language="zh")
    records = [(Record("short", "A cat."), source), (Record("b", LONG), source)]
    model = type(model)(model.folder, model.contract, model.renderer, lambda *_: "Translate.")
    if long == "truncate":
        check_fit(model, records, run.generate)
    else:
        with pytest.raises(ConfigError, match=f"\"{long}\": 'b' has .* is not made of summaries"):
            check_fit(model, records, run.generate)
