"""The records of a generation on disk."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.infer import inputs as module
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.inputs import open_inputs, write_inputs
from sumzero.records import Record

SOURCES = [Source(path="one.jsonl"), Source(path="two.jsonl")]
RECORDS = [
    (
        Record(
            id=f"id {number}",
            document=f"Document {number % 7}. " * (1 + number % 5),
            instruction="Why?" if number % 2 else None,
            language="zh" if number % 3 else "en",
            lead="Lead." if number % 4 else None,
            metadata={"n": [number, None, "ü"]} if number % 5 else {},
            line=number + 1,
        ),
        SOURCES[number % 2],
    )
    for number in range(100)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_ROWS", 16)
        return write_inputs(tmp_path_factory.mktemp("inputs") / "a.arrow", RECORDS, SOURCES)


@given(st.lists(st.integers(0, 99)))
def test_records_come_back_as_they_were_in_any_order(made, numbers):
    found = list(made.of(np.array(numbers, np.int64)))
    assert found == [RECORDS[number] for number in numbers]
    assert [record.line for record, _ in found] == [number + 1 for number in numbers]
    assert made.ids(np.array(numbers, np.int64)) == [f"id {number}" for number in numbers]


def test_columns_and_digest_are_those_of_the_records(made):
    assert len(made) == 100
    assert list(made) == RECORDS
    assert made.sizes.tolist() == [len(record.document.encode()) for record, _ in RECORDS]
    hashes = made.document_hashes.tolist()
    assert len(set(hashes)) == len({record.document for record, _ in RECORDS})
    assert made.documents == input_digest((record, "") for record, _ in RECORDS)


@given(st.lists(st.integers(-20, 120)))
def test_ids_are_found_and_others_are_not(made, numbers):
    found = made.find([f"id {number}" for number in numbers])
    assert found == [number if 0 <= number < 100 else -1 for number in numbers]


def test_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_hash", lambda id_: len(id_))
    records = [(Record(id=id_, document="x"), SOURCES[0]) for id_ in ("a", "b", "cc", "d")]
    made = write_inputs(tmp_path / "a.arrow", records, SOURCES)
    assert made.find(["d", "cc", "b", "e", "a", "ff"]) == [3, 2, 1, -1, 0, -1]


def _write(file, ids):
    file.write_text("".join(json.dumps({"id": i, "document": f"Of {i}."}) + "\n" for i in ids))
    return Source(path=str(file))


def test_sources_are_read_once_and_again_when_they_change(tmp_path):
    source = _write(tmp_path / "a.jsonl", "abc")
    first = open_inputs(tmp_path / "inputs", [source])
    file = next((tmp_path / "inputs").glob("*.arrow"))
    made_at = file.stat().st_mtime_ns
    again = open_inputs(tmp_path / "inputs", [source])
    assert file.stat().st_mtime_ns == made_at
    assert list(again) == list(first)
    assert again.documents == first.documents
    _write(tmp_path / "a.jsonl", "abd")
    assert [record.id for record, _ in open_inputs(tmp_path / "inputs", [source])] == list("abd")


def test_what_a_kill_has_left_is_no_input(tmp_path):
    source = _write(tmp_path / "a.jsonl", "abc")
    open_inputs(tmp_path / "inputs", [source])
    file = next((tmp_path / "inputs").glob("*.arrow"))
    whole = file.read_bytes()
    file.with_suffix(".json").unlink()
    file.write_bytes(whole[:100])
    assert len(open_inputs(tmp_path / "inputs", [source])) == 3
    assert file.read_bytes() == whole


def test_a_refused_source_leaves_nothing(tmp_path):
    one, two = _write(tmp_path / "a.jsonl", "ab"), _write(tmp_path / "b.jsonl", "cb")
    with pytest.raises(DataError, match=r"b\.jsonl:2: id 'b' is also in .*a\.jsonl"):
        open_inputs(tmp_path / "inputs", [one, two])
    assert not [file for file in (tmp_path / "inputs").iterdir() if file.suffix != ".lock"]


def test_rows_that_are_no_records_are_listed_with_their_reasons_each_time(tmp_path, caplog):
    rows = ['{"id": "a", "document": "Text."}', '{"id": "b", "document": " "}', "{", "[1]"]
    rows += ['{"id": "a", "document": "Other."}', '{"id": "c", "document": "<|im_end|>"}']
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(rows) + "\n")
    for _ in range(2):
        caplog.clear()
        found = open_inputs(tmp_path / "inputs", [Source(path=str(file))])
        assert [record.id for record, _ in found] == ["a", "c"]
        assert found.rejected == 4
        (listed,) = (tmp_path / "inputs").glob("*.rejected.jsonl")
        assert f"{listed}: lists the rows that are rejected, 4" in caplog.text
    rejected = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(row["file"], row["line"], row["id"]) for row in rejected] == [
        (str(file), line, id_) for line, id_ in ((2, "b"), (3, None), (4, None), (5, "a"))
    ]
    assert "empty text" in rejected[0]["reason"]
    assert "duplicate id" in rejected[3]["reason"]
