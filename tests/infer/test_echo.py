"""The engine without a model, other input files, and tables: from the command line."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.cli import main
from sumzero.infer.echo import Echo, EchoRequest, count_tokens
from sumzero.infer.generate import generate
from sumzero.infer.generation import finished_generations
from sumzero.infer.score import score
from sumzero.infer.table import write_parquet
from sumzero.runfile import load
from sumzero.runfolder import RunFolder

ROWS = [
    {"id": "a", "document": "One two  three.\nFour five.", "target": "One.", "tag": {"n": 1}},
    {"id": "b", "document": "只有一句。还有一句。", "target": "二。", "tag": ["x"]},
    {"id": "c", "document": "Six", "target": "Six", "tag": None},
]


@pytest.fixture
def run_file(tmp_path):
    _write(tmp_path / "test.jsonl", ROWS)
    file = tmp_path / "run.toml"
    file.write_text(
        f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{tmp_path}/test.jsonl"\n'
        'metadata = ["tag"]\n[generate]\nmax_new_tokens = 4\n'
    )
    return file


def _write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@given(st.text(), st.integers(1, 9))
def test_it_answers_with_the_head_of_the_document(document, most):
    (done,) = Echo(most).generate([EchoRequest("x", document)])
    assert document.startswith(done.text)
    assert done.output_tokens == count_tokens(done.text) == min(most, count_tokens(document))
    assert (done.finish_reason == "length") == (count_tokens(document) > most)


def test_its_rows_are_like_those_of_a_model_and_scored_as_a_system(run_file):
    config = load(run_file)
    made = generate(config, "echo")
    first = {"id": "a", "text": "One two  three.\nFour", "document_tokens": 5, "document_kept": 5}
    first |= {"prompt_tokens": 5, "truncated": False, "truncation": "head"}
    first |= {"metadata": {"tag": {"n": 1}}, "output_tokens": 4, "finish_reason": "length"}
    rows = made.rows()
    seconds = [row.pop("seconds") for row in rows]
    assert rows[0] == first
    assert all(value >= 0 for value in seconds)
    assert [row["text"] for row in rows[1:]] == ["只有一句", "Six"]
    assert made.manifest["stopped_by_length"] == 2
    assert score(config)["systems"]["echo"]["rows"] == 3
    longer = generate(load(run_file, ["generate.max_new_tokens=5"]), "echo")
    assert longer.folder != made.folder


def test_another_file_is_a_generation_of_its_own_that_is_not_scored(run_file, tmp_path, capsys):
    config = load(run_file)
    test = generate(config, "echo")
    other = tmp_path / "other.jsonl"
    _write(other, [{"id": "z", "document": "Zed is last.", "tag": 1}])
    argv = [str(run_file), "--engine=echo", f"--input={other}"]
    assert main(["generate", *argv, "--shard=0/1"]) == 0
    assert main(["merge", *argv]) == 0
    assert "1 rows, 0 errors" in capsys.readouterr().out
    newest = finished_generations(RunFolder.of(config))
    assert newest["echo"].folder == test.folder
    # The same records from a file are not the test split either.
    same = generate(config, "echo", str(tmp_path / "test.jsonl"))
    assert same.folder != test.folder
    assert same.rows()[0].keys() == test.rows()[0].keys()
    assert finished_generations(RunFolder.of(config))["echo"].folder == test.folder
    assert score(config)["systems"]["echo"]["rows"] == 3


def test_a_file_needs_no_test_split_and_has_the_columns_of_the_training_data(tmp_path):
    _write(tmp_path / "other.jsonl", [{"id": "z", "body": "Zed is last."}])
    file = tmp_path / "run.toml"
    text = 'runs = "{0}/runs"\n[data.train]\npath = "none.jsonl"\ndocument = "body"\nlead = "top"\n'
    file.write_text(text.format(tmp_path))
    made = generate(load(file), "echo", str(tmp_path / "other.jsonl"))
    assert [row["text"] for row in made.rows()] == ["Zed is last."]


def test_a_table_has_the_same_rows(run_file, capsys):
    assert main(["generate", str(run_file), "--engine=echo", "--parquet"]) == 0
    table, merged = (line.partition(": ")[0] for line in capsys.readouterr().out.splitlines())
    rows = [json.loads(line) for line in Path(merged).read_text().splitlines()]
    found = pq.read_table(table).to_pylist()
    for row in found:
        row["metadata"] = json.loads(row["metadata"])
    assert found == rows


def test_a_table_has_nothing_where_a_row_has_no_such_value(run_file):
    made = generate(load(run_file), "echo")
    rows = [{"id": "a", "text": "x", "n": 1}, {"id": "b", "error": "why", "n": 1.5, "odd": [1]}]
    null = {"text": None, "odd": None, "gone": None}  # a server that does not say why it ended
    _write(made.folder / "merged.jsonl", [*rows, {"id": "c", "odd": "text"}, {"id": "d", **null}])
    found = pq.read_table(write_parquet(made)).to_pylist()
    nothing = dict.fromkeys(("text", "error", "n", "odd", "gone"))
    assert found == [
        {**nothing, "id": "a", "text": "x", "n": 1.0},
        {**nothing, "id": "b", "error": "why", "n": 1.5, "odd": "[1]"},
        {**nothing, "id": "c", "odd": '"text"'},
        {**nothing, "id": "d"},
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine=echo", "--system=lead1"], "--engine echo is a system of its own"),
        (["--engine=echo", "--shard=0/2", "--parquet"], "give it to `sumzero merge`"),
        (["--engine=echo", "--input=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--engine=echo", "--input=README"], "README: no such file"),
        (["--engine=echo", "data.test=[]"], "set data.test.path, or --input FILE"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(run_file, options, said, capsys):
    assert main(["generate", str(run_file), *options]) == 2
    assert said in capsys.readouterr().err
