"""Shards of a generation: every record in one, balanced; each row once, whatever happens."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sumzero.cli import main
from sumzero.config import Source
from sumzero.errors import RunError
from sumzero.infer.generate import generate, generate_shard, merge_shards
from sumzero.infer.generation import merge
from sumzero.infer.inputs import write_inputs
from sumzero.infer.rows import there
from sumzero.infer.shards import Shard, append
from sumzero.records import Record
from sumzero.runfile import load
from sumzero.train.scratch import train_tokenizer

DOCUMENTS = [f"Sentence {i}. " * (1 + i % 7) + "The end." for i in range(23)]


@pytest.fixture
def run_file(tmp_path):
    rows = [{"id": i, "document": text, "target": "x"} for i, text in enumerate(DOCUMENTS)]
    _write(tmp_path / "test.jsonl", rows)
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{tmp_path}/test.jsonl"\n')
    return file


def _write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


SOURCE = Source(path="test.jsonl")


def _dealt(texts, count, output):
    """The numbers of each shard's texts."""
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    hashes = np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)
    return [Shard(index, count).of(sizes, hashes, output).tolist() for index in range(count)]


def _inputs(folder, ids):
    records = [(Record(id=id_, document=f"Document {id_}."), SOURCE) for id_ in ids]
    return write_inputs(folder / "inputs" / "some.arrow", records, [SOURCE])


@given(
    st.lists(st.text(min_size=1, max_size=30), max_size=40),
    st.integers(1, 9),
    st.integers(1, 100),
)
def test_every_record_is_in_one_shard_and_those_of_a_document_in_the_same(texts, count, output):
    shards = _dealt(texts, count, output)
    assert sorted(number for shard in shards for number in shard) == list(range(len(texts)))
    home = {number: index for index, shard in enumerate(shards) for number in shard}
    for number, text in enumerate(texts):
        assert home[number] == home[texts.index(text)]


@given(st.lists(st.integers(1, 5000), min_size=200, max_size=400), st.integers(2, 8))
def test_shards_have_nearly_the_same_to_do_long_documents_first(lengths, count):
    texts = [f"{i:04d}" + "x" * length for i, length in enumerate(lengths)]
    loads = []
    for shard in _dealt(texts, count, 100):
        costs = [len(texts[number]) + 400 for number in shard]
        assert costs == sorted(costs, reverse=True)
        loads.append(sum(costs))
    # Graham's bound for longest first; at sizes like these it is a few percent.
    assert max(loads) - min(loads) <= max(lengths) + 404


@pytest.mark.parametrize("name", ["scitldr_train700", "csl_zh_600"])
def test_the_longest_shard_of_real_documents_has_3_percent_more_tokens_at_most(shared_data, name):
    """Though they are dealt out by bytes: English abstracts, and Chinese ones."""
    lines = (shared_data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["document"] for line in lines]
    tokenizer = train_tokenizer(iter(texts), 4000)
    tokens = np.array([len(ids) + 64 for ids in tokenizer(texts).input_ids])
    loads = [int(tokens[shard].sum()) for shard in _dealt(texts, 8, 64)]
    assert max(loads) <= 1.03 * np.mean(loads)


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "1/0", "a/b", "1/4 ", "١/٤x"])
def test_what_is_no_shard_is_refused(run_file, text, capsys):
    assert main(["generate", str(run_file), "--system=lead1", f"--shard={text}"]) == 2
    assert "INDEX/COUNT" in capsys.readouterr().err


def test_shards_merge_to_what_one_generation_would_have_been(run_file, capsys):
    whole = generate(load(run_file, ["name=whole"]), "lead1").rows()
    for index in (2, 0, 3):
        assert main(["generate", str(run_file), "--system=lead1", f"--shard={index}/4"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].endswith("of all 23 rows are there")
    with pytest.raises(RunError, match="inputs have no row"):
        merge_shards(load(run_file), "lead1")
    generate_shard(load(run_file), "lead1", Shard(1, 4))
    assert main(["merge", str(run_file), "--system=lead1"]) == 0
    made = merge_shards(load(run_file), "lead1")
    assert made.rows() == whole
    assert made.manifest["rows_made_now"] == 23
    assert len(list(made.folder.glob("shard-*.jsonl"))) == 4


def test_a_generation_can_be_finished_in_another_number_of_shards(run_file):
    config = load(run_file)
    where, had, total = generate_shard(config, "lead1", Shard(0, 2))
    assert 0 < had < total
    torn = Shard(0, 2).file(where)
    torn.write_bytes(torn.read_bytes()[:-5])  # what a kill in mid-write leaves
    for index in range(3):
        generate_shard(config, "lead1", Shard(index, 3))
    rows = [
        json.loads(x)
        for f in where.glob("shard-*.jsonl")
        for x in f.read_text().split("\n")
        if x.endswith("}")
    ]
    assert sorted(row["id"] for row in rows) == sorted(str(i) for i in range(23))
    assert [row["id"] for row in merge_shards(config, "lead1").rows()] == [
        str(i) for i in range(23)
    ]


HOLD = """
import sys
from pathlib import Path
from sumzero.infer.shards import Shard
with Shard(int(sys.argv[2]), int(sys.argv[3])).held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_are_never_at_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr("sumzero.infer.shards._PATIENCE", 0.2)
    argv = [sys.executable, "-c", HOLD, str(tmp_path), "1", "4"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with Shard(2, 4).held(tmp_path):
            pass
        with pytest.raises(RunError, match="shard 1/4"), Shard(1, 4).held(tmp_path):
            pass
        with pytest.raises(RunError, match="in 4 shards"), Shard(0, 1).held(tmp_path):
            pass
        other.stdin.close()
        assert other.wait(timeout=30) == 0
    with Shard(0, 1).held(tmp_path):
        pass


def test_a_torn_line_is_cut_off_and_its_row_made_again(run_file):
    made = generate(load(run_file), "lead1")
    shard = Shard(0, 1).file(made.folder)
    whole = shard.read_bytes()
    for size in range(0, len(whole), 7):
        shard.write_bytes(whole[:size])
        (made.folder / "manifest.json").unlink(missing_ok=True)
        again = generate(load(run_file), "lead1")
        assert sorted(shard.read_bytes().splitlines()) == sorted(whole.splitlines())
        assert again.rows() == made.rows()


def test_a_damaged_shard_is_refused(tmp_path):
    file = Shard(0, 1).file(tmp_path)
    file.write_text('{"id": "a"}\nnot json\n')
    with pytest.raises(RunError, match=r"shard-00000-of-00001\.jsonl:2: damaged"):
        there(tmp_path, _inputs(tmp_path, "ab"))


def test_rows_are_there_as_soon_as_they_are_made(tmp_path):
    file = Shard(0, 1).file(tmp_path)
    inputs = _inputs(tmp_path, "012")

    def rows():
        for index in range(3):
            assert there(tmp_path, inputs).has.tolist() == [i < index for i in range(3)]
            yield {"id": str(index)}

    append(file, rows())
    assert len(there(tmp_path, inputs)) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a", "b"], "1 inputs have no row, 0 rows have no input, 'c' first"),
        (["a", "b", "c", "d"], "0 inputs have no row, 1 rows have no input, 'd' first"),
        (["a", "b", "c", "b"], r":4: id 'b' stands there twice"),
    ],
)
def test_merge_refuses_what_is_not_each_id_once(tmp_path, rows, message):
    _write(tmp_path / "shard-00000-of-00001.jsonl", [{"id": row, "text": ""} for row in rows])
    with pytest.raises(RunError, match=message):
        merge(tmp_path, _inputs(tmp_path, "abc"), {})
    assert not (tmp_path / "merged.jsonl").exists()
