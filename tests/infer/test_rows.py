"""Rows on disk: found, proven and copied in input order, whatever files they are in."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.config import Source
from sumzero.errors import RunError
from sumzero.infer.generation import merge
from sumzero.infer.inputs import write_inputs
from sumzero.infer.rows import there, whole_bytes
from sumzero.records import Record

SOURCE = Source(path="test.jsonl")


def inputs_of(folder, ids):
    records = [(Record(id=id_, document=f"Document {id_}."), SOURCE) for id_ in ids]
    return write_inputs(folder / "inputs" / "some.arrow", records, [SOURCE])


def write(file, rows, torn=b""):
    content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    file.write_bytes(content + torn)


@given(st.data(), st.sets(st.text(min_size=1), min_size=1, max_size=30), st.integers(1, 4))
def test_whatever_order_and_files_rows_have_they_are_merged_in_that_of_the_input(data, ids, files):
    ids = sorted(ids)
    rows = [{"id": id_, "text": f"of\n{id_}"} for id_ in ids]
    places = data.draw(st.lists(st.integers(0, files - 1), min_size=len(ids), max_size=len(ids)))
    order = data.draw(st.permutations(range(len(ids))))
    lost = data.draw(st.sets(st.sampled_from(ids), max_size=1))
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        for number in range(files):
            mine = [rows[i] for i in order if places[i] == number and rows[i]["id"] not in lost]
            torn = b'{"id": "' if data.draw(st.booleans()) else b""
            write(where / f"shard-{number:05d}-of-{files:05d}.jsonl", mine, torn)
        inputs = inputs_of(where, ids)
        assert there(where, inputs).has.tolist() == [id_ not in lost for id_ in ids]
        if lost:
            with pytest.raises(RunError, match="1 inputs have no row, 0 rows have no input"):
                merge(where, inputs, {})
            assert not (where / "merged.jsonl").exists()
        else:
            assert merge(where, inputs, {}).rows() == rows


def test_more_shards_than_files_that_may_be_open_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr("sumzero.infer.rows._OPEN_FILES", 3)
    ids = [str(i) for i in range(20)]
    for i in range(10):
        file = tmp_path / f"shard-{i:05d}-of-00010.jsonl"
        write(file, [{"id": id_} for id_ in ids if int(id_) % 10 == i])
    made = merge(tmp_path, inputs_of(tmp_path, ids), {})
    assert [row["id"] for row in made.rows()] == ids


def test_a_line_that_was_changed_after_it_was_found_is_refused(tmp_path):
    file = tmp_path / "shard-00000-of-00001.jsonl"
    write(file, [{"id": "a"}, {"id": "b"}])
    inputs = inputs_of(tmp_path, "ab")
    rows = there(tmp_path, inputs)
    write(file, [{"id": "b"}, {"id": "a"}])
    with pytest.raises(RunError, match="changed while it was read"):
        list(rows.in_order(inputs))


@given(st.lists(st.sampled_from([b"\n", b"a", b"b" * 70_000]), max_size=5))
def test_whole_lines_are_found_from_the_end(parts):
    content = b"".join(parts)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        assert whole_bytes(file) == content.rfind(b"\n") + 1


def test_rows_of_parts_are_kept_until_their_input_has_its_own(tmp_path):
    inputs = inputs_of(tmp_path, "ab")
    parts = [{"id": f"{of}#0.{i}", "of": of, "text": str(i)} for of in "ab" for i in range(2)]
    twice = {"id": "b#0.1", "of": "b", "text": "made again"}
    write(tmp_path / "shard-00000-of-00002.jsonl", [*parts[:2], {"id": "a", "text": "A"}])
    write(tmp_path / "shard-00001-of-00002.jsonl", [parts[0], *parts[2:], twice], b'{"id": "b')
    rows = there(tmp_path, inputs)
    assert rows.has.tolist() == [True, False]
    assert rows.nodes.of("a") == {}
    assert rows.nodes.of("b") == {part["id"]: part for part in parts[2:]}
    with pytest.raises(RunError, match="1 inputs have no row, 0 rows have no input, 'b' first"):
        merge(tmp_path, inputs, {})
    write(tmp_path / "shard-00000-of-00001.jsonl", [{"id": "b", "text": "B"}])
    assert [row["text"] for row in merge(tmp_path, inputs, {}).rows()] == ["A", "B"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "c#0.0", "of": "c", "text": "x"}, "1 rows have no input, 'c#0.0' first"),
        ({"id": "a#0.0", "of": 5}, "damaged; remove the file"),
        ("a", "damaged; remove the file"),
    ],
)
def test_parts_of_no_input_and_damaged_rows_are_refused(tmp_path, row, message):
    write(tmp_path / "shard-00000-of-00001.jsonl", [{"id": "a"}, row])
    with pytest.raises(RunError, match=message):
        merge(tmp_path, inputs_of(tmp_path, "a"), {})
