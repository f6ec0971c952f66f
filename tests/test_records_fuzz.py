"""Over ten thousand files and rows that nobody meant to write: no traceback, no row lost.

A file ends in one DataError that names it, or every row of it is a Record or a Reject.
"""

import csv
import gzip
import io
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.log import logger
from sumzero.records import Record, read, read_all

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
PACKINGS = ("", ".gz", ".zst")


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


PACK = {"": bytes, ".gz": lambda content: gzip.compress(content, mtime=0), ".zst": zstd}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Writes a file and reads it: its rows, or None where the file was refused as a whole."""
    folder = tmp_path_factory.mktemp("fuzz")

    def check(name, content, need_targets=True, **columns):
        logger.setLevel(logging.ERROR)  # pytest would hold every warning
        file = folder / name
        file.write_bytes(content)
        source = Source(path=str(file), **columns)
        try:
            rows = list(read(source, need_targets=need_targets))
        except DataError as error:
            fault = str(error)
            assert fault.startswith(str(file))
            assert "\n" not in fault
            return None
        lines = [row.line for row in rows]
        assert lines == sorted(set(lines))
        assert all(line >= 1 for line in lines)
        for row in rows:
            if isinstance(row, Record):
                assert row.document == row.document.strip() != ""
                assert all(target == target.strip() != "" for target in row.targets)
                assert row.targets or not need_targets
                json.dumps(row.metadata, allow_nan=False, ensure_ascii=False).encode()
            else:
                assert row.file == str(file)
                assert row.reason
                assert "\n" not in row.reason
        firsts = {row.id: row for row in reversed(rows)}
        kept = [row for row in rows if isinstance(row, Record) and firsts[row.id] is row]
        try:
            records, rejects = read_all([source], need_targets=need_targets)
        except DataError:
            assert not kept
        else:
            assert records == kept
            assert len(records) + len(rejects) == len(rows)
        return rows

    return check


# Pieces of all formats, so that chance gets further than the first byte.
PIECES = st.sampled_from(
    [
        *(b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf", b"document,target\n"),
        *(b'{"document":', b'"target"', b"{}", b"[{", b"}]", b"1", b",", b'"', b"\t", b"\n"),
        *(b"\r\n", b"\0", b"\xff"),
    ]
)
BYTES = st.lists(PIECES | st.binary(max_size=8), max_size=12).map(b"".join)


@settings(max_examples=2500)
@given(BYTES, st.sampled_from(FORMATS), st.sampled_from(PACKINGS), st.booleans())
def test_bytes_of_any_kind_under_any_name(checked, content, kind, packing, is_packed):
    rows = checked(f"bytes.{kind}{packing}", PACK[packing if is_packed else ""](content))
    if kind == "jsonl" and (is_packed or not packing):
        assert len(rows) == sum(bool(line.strip()) for line in content.split(b"\n"))


ROWS = [
    {"id": f"r{index}", "document": f'Text "{index}",\nof two lines.', "target": "“é” 漢字\t."}
    for index in range(20)
]


def _written(kind, rows):
    if kind == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    if kind == "json":
        return json.dumps(rows, indent=1).encode()
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=8)
        return sink.getvalue()
    text = io.StringIO()
    out = csv.DictWriter(text, list(rows[0]), delimiter="," if kind == "csv" else "\t")
    out.writeheader()
    out.writerows(rows)
    return text.getvalue().encode()


VALID = {
    (kind, packing): PACK[packing](_written(kind, ROWS)) for kind in FORMATS for packing in PACKINGS
}


@pytest.mark.parametrize(("kind", "packing"), VALID)
def test_the_file_that_is_damaged_below_is_whole(checked, kind, packing):
    rows = checked(f"whole.{kind}{packing}", VALID[kind, packing])
    assert [row.id for row in rows] == [row["id"] for row in ROWS]
    assert [row.document for row in rows] == [row["document"] for row in ROWS]


@settings(max_examples=2500)
@given(
    st.sampled_from(list(VALID)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
    st.booleans(),
)
def test_damaged_files(checked, which, flips, end, is_cut):
    content = bytearray(VALID[which])
    for where, value in flips:
        content[min(int(where * len(content)), len(content) - 1)] = value
    whole = len(content)
    if is_cut:
        del content[int(end * whole) :]
    rows = checked("damaged.{}{}".format(*which), bytes(content))
    if which == ("jsonl", ""):
        assert len(rows) == sum(bool(line.strip()) for line in bytes(content).split(b"\n"))
    if which[1] and 0 < len(content) < whole:
        assert rows is None


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
SURROGATES = st.text(st.characters(codec=None, categories=["Cs", "L"]), max_size=3)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUE | st.sampled_from(["a", "b", 1, 2]),
        "document": VALUE | st.just("d") | SURROGATES,
        "target": VALUE | st.just("t") | st.lists(st.just("t") | VALUE),
        "answers": VALUE
        | st.lists(st.fixed_dictionaries({"text": VALUE | st.just("x")}), max_size=3)
        | st.fixed_dictionaries({"text": st.lists(VALUE | st.just("x"))}),
        "extra": VALUE | SURROGATES,
    },
)
COLUMNS = st.sampled_from(
    [
        {},
        {"targets": "answers.text"},
        {"targets": "answers.text", "task": "answer", "instruction": "document"},
        {"metadata": ("extra",)},
        {"document": "extra.a", "language_column": "extra", "lead": "document"},
    ]
)


@settings(max_examples=400)
@given(st.lists(ROW | VALUE, min_size=6, max_size=12), COLUMNS, st.booleans())
def test_json_values_of_any_kind(checked, rows, columns, need_targets):
    lines = "\n".join(map(json.dumps, rows)).encode()
    need_targets = need_targets and "task" not in columns  # whose targets may be ()
    of_lines = checked("values.jsonl", lines, need_targets, **columns)
    assert len(of_lines) == len(rows)
    of_array = checked("values.json", json.dumps(rows).encode(), need_targets, **columns)
    assert [type(row) for row in of_array] == [type(row) for row in of_lines]


CELL = st.text(max_size=6) | st.sampled_from(["d", "t", '"', "\n", "\r", "\0", "a,b", "\ufeff"])


@settings(max_examples=300)
@given(
    st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=6, max_size=12),
    st.sampled_from(",\t"),
)
def test_cells_of_any_text(checked, table, delimiter):
    text = io.StringIO()
    out = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    out.writerows([["id", "document", "target"], *table])
    rows = checked("cells.csv" if delimiter == "," else "cells.tsv", text.getvalue().encode())
    assert len(rows) == len(table)
    for row, cells in zip(rows, table, strict=True):
        if len(cells) != 3:
            assert "wrong number of fields" in row.reason
        elif all(cell.strip() for cell in cells):
            assert row.document == cells[1].strip()


TYPES = [
    *(pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.float16(), pa.date32(), pa.null()),
    *(pa.timestamp("ns", "UTC"), pa.time64("us"), pa.decimal128(9, 2), pa.list_(pa.string())),
    *(pa.dictionary(pa.int8(), pa.string()), pa.struct([("text", pa.list_(pa.string()))])),
    *(pa.map_(pa.string(), pa.int32()), pa.list_(pa.struct([("text", pa.string())])), pa.bool_()),
]
RAW = st.none() | st.integers(-128, 127) | st.text(max_size=3) | st.binary(max_size=3)


@st.composite
def _columns(draw):
    length = draw(st.integers(6, 12))
    columns = {}
    for name in ("id", "document", "target", "answers"):
        kind = draw(st.sampled_from(TYPES))
        column = []
        for value in draw(st.lists(RAW, min_size=length, max_size=length)):
            for made in (value, [value], [[value]], {"text": [value]}, [{"text": value}]):
                try:
                    column.append(pa.scalar(made, kind))
                    break
                except (pa.ArrowException, ValueError, TypeError, OverflowError):
                    continue
            else:
                column.append(pa.scalar(None, kind))
        columns[name] = pa.array([value.as_py() for value in column], kind)
    return pa.table(columns)


@settings(max_examples=250)
@given(_columns(), COLUMNS)
def test_parquet_columns_of_any_type(checked, table, columns):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    columns = {"metadata": ("id",), **columns} if "extra" not in str(columns) else {}
    rows = checked("columns.parquet", sink.getvalue(), need_targets=False, **columns)
    assert len(rows) == table.num_rows
