"""Requests in OpenAI's batch format, and rows from what was answered."""

import json

import pytest

from sumzero.cli import main
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.infer import batch_files
from sumzero.infer.batches import read_batch, write_batch
from sumzero.infer.chat import Remote
from sumzero.infer.generate import merge_shards
from sumzero.infer.generation import finished_generations
from sumzero.runfile import load
from sumzero.runfolder import RunFolder

from .chat_server import completion, failure

IDS = [f"r{i}" for i in range(7)]
REMOTE = Remote("m")


@pytest.fixture
def config(tmp_path):
    rows = [{"id": id_, "document": f"Text {id_}.", "target": "T.", "year": 1} for id_ in IDS]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run.toml"
    file.write_text(f"""
        runs = "{tmp_path}/runs"
        [data.test]
        path = "{tmp_path}/test.jsonl"
        metadata = ["year"]
    """)
    return load(file)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def answered(id_, status=200, body=None, error=None):
    body = completion(f"Sum {id_}.") if body is None and status == 200 else body
    response = {"status_code": status, "request_id": "q", "body": body}
    return {"id": "b", "custom_id": id_, "response": response, "error": error}


def unanswered(id_):
    return {
        "id": "b",
        "custom_id": id_,
        "response": None,
        "error": {"code": "batch_expired", "message": "late"},
    }


def written(tmp_path, *results, name="out.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(one) + "\n" for one in results))
    return file


def test_each_record_is_a_request_under_its_id(config, tmp_path):
    out = tmp_path / "batch.jsonl"
    assert write_batch(config, REMOTE, out) == {out: 7}
    requests = lines(out)
    assert [one["custom_id"] for one in requests] == IDS
    for one in requests:
        assert one["method"] == "POST"
        assert one["url"] == "/v1/chat/completions"
        assert one["body"]["model"] == "m"
        (message,) = one["body"]["messages"]
        assert message["content"].startswith(f"Text {one['custom_id']}.\n\n")


def test_what_is_above_a_files_limits_is_in_further_files(config, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "_MOST_REQUESTS", 3)
    files = write_batch(config, REMOTE, tmp_path / "a.jsonl")
    assert {file.name: n for file, n in files.items()} == {
        "a.jsonl": 3,
        "a-2.jsonl": 3,
        "a-3.jsonl": 1,
    }
    size = len((tmp_path / "a.jsonl").read_bytes()) * 2 // 3
    monkeypatch.setattr(batch_files, "_MOST_BYTES", size)
    files = write_batch(config, REMOTE, tmp_path / "b.jsonl")
    assert [*files.values()] == [2, 2, 2, 1]
    assert all(file.stat().st_size <= size for file in files)
    assert [one["custom_id"] for file in files for one in lines(file)] == IDS


def test_a_file_that_is_there_is_not_written_over(config, tmp_path):
    out = written(tmp_path)
    with pytest.raises(ConfigError, match=r"out\.jsonl is there already"):
        write_batch(config, REMOTE, out)
    assert out.read_text() == ""


def test_answers_in_any_order_are_rows_in_that_of_the_records(config, tmp_path):
    file = written(tmp_path, *map(answered, reversed(IDS)))
    where, there, total = read_batch(config, REMOTE, [file])
    assert (there, total) == (7, 7)
    made = merge_shards(config, REMOTE)
    assert made.folder == where
    assert made.manifest["system"] == "m"
    assert made.rows() == [
        {
            "id": id_,
            "metadata": {"year": 1},
            "text": f"Sum {id_}.",
            "prompt_tokens": 7,
            "output_tokens": 3,
            "finish_reason": "stop",
        }
        for id_ in IDS
    ]


def test_what_was_not_answered_is_asked_in_the_next_file(config, tmp_path, caplog):
    refused = answered("r1", 400, failure("too long"))
    busy = answered("r2", 429, failure("slow"))
    out = written(tmp_path, answered("r0"), name="o.jsonl")
    errors = written(tmp_path, refused, busy, unanswered("r3"), unanswered("r4"), name="e.jsonl")
    assert read_batch(config, REMOTE, [out, errors])[1:] == (2, 7)
    assert "2 requests were not answered: late" in caplog.text
    assert "1 requests were not answered: HTTP 429: slow" in caplog.text
    with pytest.raises(RunError, match="5 inputs have no row"):
        merge_shards(config, REMOTE)
    again = tmp_path / "again.jsonl"
    write_batch(config, REMOTE, again)
    assert [one["custom_id"] for one in lines(again)] == IDS[2:]
    more = written(tmp_path, *map(answered, IDS), name="more.jsonl")  # r0 and r1 have their rows
    read_batch(config, REMOTE, [more])
    rows = merge_shards(config, REMOTE).rows()
    assert rows[1]["error"] == "HTTP 400: too long"
    assert [row.get("text") for row in rows[2:]] == [f"Sum {id_}." for id_ in IDS[2:]]
    assert write_batch(config, REMOTE, tmp_path / "none.jsonl") == {}


def test_errors_as_vllm_writes_them_are_read(config, tmp_path):
    file = written(tmp_path, answered("r0", 400, error=failure("too long")))
    read_batch(config, REMOTE, [file])
    more = written(tmp_path, *map(answered, IDS[1:]), name="more.jsonl")
    read_batch(config, REMOTE, [more])
    assert merge_shards(config, REMOTE).rows()[0]["error"] == "HTTP 400: too long"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(answered("other")), "id 'other' is of no record asked"),
        (json.dumps(answered("r0")), "id 'r0' is answered twice"),
        ('{"custom_id": "r1", "resp', "no line of a batch's output"),
        ("[]", "there is no custom_id"),
        (json.dumps({"custom_id": 3, "response": None}), "there is no custom_id"),
        (json.dumps({"custom_id": "r1", "body": {}}), "neither response nor error"),
    ],
)
def test_a_file_of_something_else_is_refused_and_no_row_taken(config, tmp_path, line, said):
    file = written(tmp_path, answered("r0"))
    with file.open("a") as out:
        out.write("\n" + line + "\n")
    with pytest.raises(DataError, match=said) as caught:
        read_batch(config, REMOTE, [file])
    assert str(caught.value).startswith(f"{file}:3: ")
    assert write_batch(config, REMOTE, tmp_path / "all.jsonl") == {tmp_path / "all.jsonl": 7}


def test_an_answer_by_another_model_is_told(config, tmp_path, caplog):
    body = completion("S.")
    read_batch(config, REMOTE, [written(tmp_path, answered("r0", body=body | {"model": "m-2026"}))])
    assert "answers are by" not in caplog.text
    more = written(tmp_path, answered("r1", body=body | {"model": "else"}))
    read_batch(config, REMOTE, [more])
    assert "some answers are by 'else', not 'm'" in caplog.text


def test_the_command_writes_reads_and_merges(config, tmp_path, capsys):
    run, out = str(tmp_path / "run.toml"), tmp_path / "batch.jsonl"
    assert main(["generate", run, "--model", "m", "--batch-out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 7 requests\n"
    first = written(tmp_path, *map(answered, IDS[:3]))
    second = written(tmp_path, *map(answered, IDS[3:]), name="second.jsonl")
    words = ["generate", run, "--model", "m", "--batch-in"]
    assert main([*words, str(first)]) == 0
    assert "3 of all 7 rows are there" in capsys.readouterr().out
    assert main([*words, str(second), "--batch-in", str(first), "--parquet"]) == 0
    assert "merged.jsonl: 7 rows, 0 errors" in capsys.readouterr().out
    assert list(finished_generations(RunFolder.of(config))) == ["m"]
    assert main([*words, str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=m"], "--model: say where it is"),
        (["--endpoint=http://h"], "--endpoint: name the model there"),
        (["--batch-out=o"], "--batch-out: name the model there"),
        (["--model=m", "--endpoint=http://h", "--batch-in=o"], "--endpoint and --batch-in: one"),
        (["--model=m", "--endpoint=http://h", "--system=lead1"], "leave --system and --engine"),
        (["--model=m", "--endpoint=http://h", "--engine=echo"], "leave --system and --engine"),
        (
            ["--model=m", "--endpoint=http://h", "--adapter=a=b"],
            "--adapter names systems of its own",
        ),
        (["--model=m", "--batch-out=o", "--shard=0/2"], "--batch-out: has no --shard"),
        (["--model=m", "--batch-out=o", "--parquet"], "--batch-out: has no --parquet"),
        (["--model=lead1", "--endpoint=http://h"], "--model 'lead1'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(config, tmp_path, capsys, words, said):
    assert main(["generate", str(tmp_path / "run.toml"), *words]) == 2
    assert said in capsys.readouterr().err
