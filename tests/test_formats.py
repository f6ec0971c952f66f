import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sumzero.errors import DataError
from sumzero.formats import of_file, rows

ROWS = [
    {"id": "a", "document": 'Two\nlines, "quoted"', "target": "é 漢"},
    {"id": "b", "target": ""},
]


def _table(delimiter, *lines):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    return text.getvalue().encode()


def _parquet(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads its rows, each with its number."""

    def write_and_read(name, content):
        file = tmp_path / name
        file.write_bytes(content)
        return [row for block in of_file(file) for row in rows(block)]

    return write_and_read


LINES = b"\n".join(json.dumps(row).encode() for row in ROWS)
ARRAY = json.dumps(ROWS, indent=2).encode()
CELLS = [list(row.get(name, "") for name in ROWS[0]) for row in ROWS]
WHOLE = [dict(zip(ROWS[0], cells, strict=True)) for cells in CELLS]
FILES = {
    "rows.jsonl": (LINES, ROWS, (1, 2)),
    "rows.NDJSON": (LINES, ROWS, (1, 2)),
    "array.json": (ARRAY, ROWS, (1, 2)),
    "lines.json": (LINES, ROWS, (1, 2)),
    "under a key.json": (b'{"version": "1", "data": %b, "n": [1]}' % ARRAY, ROWS, (1, 2)),
    "columns.json": (
        b'{"a": [1, 2], "b": ["x", []]}',
        [{"a": 1, "b": "x"}, {"a": 2, "b": []}],
        (1, 2),
    ),
    "one row.json": (
        b'{"document": "d", "target": ["t"]}',
        [{"document": "d", "target": ["t"]}],
        (1,),
    ),
    "rows.csv": (_table(",", list(ROWS[0]), *CELLS), WHOLE, (2, 4)),
    "rows.tsv": (_table("\t", list(ROWS[0]), *CELLS), WHOLE, (2, 4)),
    "rows.parquet": (_parquet(pa.Table.from_pylist(WHOLE)), WHOLE, (1, 2)),
}


@pytest.mark.parametrize("pack", [("", bytes), (".gz", gzip.compress), (".zst", _zstd)])
@pytest.mark.parametrize(("name", "file"), FILES.items(), ids=FILES)
def test_the_same_rows_come_from_every_format(read, name, file, pack):
    content, want, numbers = file
    assert read(name + pack[0], pack[1](content)) == list(zip(numbers, want, strict=True))


@pytest.mark.parametrize("pack", [gzip.compress, _zstd])
def test_compressed_files_may_be_joined(read, pack):
    name = "rows.jsonl.gz" if pack is gzip.compress else "rows.jsonl.zst"
    assert len(read(name, pack(LINES + b"\n") + pack(LINES))) == 4


@pytest.mark.parametrize("name", [*FILES, "rows.csv.gz", "rows.json.zst"])
def test_an_empty_file_has_no_rows_or_is_damaged(read, name):
    if name == "rows.parquet":
        with pytest.raises(DataError, match="damaged"):
            read(name, b"")
    else:
        assert read(name, b"") == []


BAD = {
    "no known ending": ("rows.txt", b"", "cannot be read; .jsonl, .ndjson, .json,"),
    "no ending": ("rows.gz", b"", "cannot be read; .jsonl"),
    "not gzip": ("rows.jsonl.gz", LINES, "damaged, or not what its name says (Not a gzipped file"),
    "cut gzip": ("rows.csv.gz", gzip.compress(LINES)[:-9], "damaged, or not what its name says ("),
    "not zstd": ("rows.jsonl.zst", LINES, "damaged, or not what its name says (ZSTD"),
    "cut zstd": ("rows.jsonl.zst", _zstd(LINES)[:-1], "(Truncated compressed stream)"),
    "not Parquet": ("rows.parquet", LINES * 9, "damaged, or not what its name says (Parquet"),
    "not JSON": ("rows.json", b"hello", "not valid JSON (Expecting value"),
    "cut JSON": ("rows.json", ARRAY[:-1], "not valid JSON (Expecting"),
    "UTF-16 JSON": ("rows.json", ARRAY.decode().encode("utf-16"), "not UTF-8 (at byte 0)"),
    "no array in JSON": ("rows.json", b'{"a": {\n"b": 1}}', "holds no array of objects"),
    "a number in JSON": ("rows.json", b"3", "holds no array of objects"),
    "column twice": ("rows.csv", b"a,b,a\n1,2,3\n", "two columns are called 'a'; rename one"),
    "no UTF-8 header": ("rows.csv", b"\xff,b\n1,2\n", ":1: not UTF-8; the first row must name"),
    "open quote": ("rows.csv", b'a,b\n1,2\n1,"2\n3,4\n', ":3: a quote of this row is never closed"),
    "column twice in Parquet": (
        "rows.parquet",
        _parquet(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])),
        "two columns are called 'a'",
    ),
}


@pytest.mark.parametrize(("name", "content", "fault"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_read_is_one_line_with_its_name(read, tmp_path, name, content, fault):
    with pytest.raises(DataError) as caught:
        read(name, content)
    assert str(caught.value).startswith(f"{tmp_path / name}:")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_inside_a_parquet_file_is_told(read):
    content = bytearray(_parquet(pa.table({"document": ["some text " * 50] * 300})))
    content[40:60] = bytes(20)
    with pytest.raises(DataError, match=r"rows\.parquet: damaged"):
        read("rows.parquet", bytes(content))


def test_rows_of_csv_that_do_not_fit_are_told_and_the_rest_is_read(read):
    content = b'\xef\xbb\xbfa,b\r\n1,2\r\n\r\n1\r\n1,2,3\r\n"x\r\ny",\xff\r\n"1"2,3\r\n\0,"5\r\n6"'
    assert read("rows.csv", content) == [
        (2, {"a": "1", "b": "2"}),
        (4, "wrong number of fields (1, the header has 2)"),
        (5, "wrong number of fields (3, the header has 2)"),
        (6, "not UTF-8"),
        (8, "not valid CSV (',' expected after '\"')"),
        (9, {"a": "\0", "b": "5\r\n6"}),
    ]


def test_a_csv_field_of_a_megabyte_is_read_whole(read):
    ((_, row),) = read("rows.csv", b'a,b\n"%b",2\n' % (b"x,\n" * 400_000))
    assert row == {"a": "x,\n" * 400_000, "b": "2"}


def test_values_of_a_json_array_that_are_no_objects_are_told(read):
    assert read("rows.json", b'[{"a": 1}, 2, null, ["b"], {}]') == [
        (1, {"a": 1}),
        (2, "not a JSON object but a number"),
        (3, "not a JSON object but null"),
        (4, "not a JSON object but a list"),
        (5, {}),
    ]


def test_a_row_that_is_nested_deeply_can_be_sent_to_a_worker(read):
    deep = b'{"a": ' * 300 + b"1" + b"}" * 300
    ((_, row),) = read("rows.json", b"[" + deep + b"]")
    assert row == json.loads(deep)


def test_values_of_parquet_keep_their_types_and_one_that_python_lacks_costs_its_row(read):
    table = pa.table(
        {
            "text": pa.array(["a", "b", "a"]).dictionary_encode(),
            "refs": [[{"t": "x"}], [], None],
            "when": pa.array([0, 2**60, None], pa.timestamp("ms")),
        }
    )
    first, second, third = read("rows.parquet", _parquet(table, row_group_size=2))
    assert first[1]["refs"] == [{"t": "x"}]
    assert second[1].startswith("a value that Python cannot hold (")
    assert third == (3, {"text": "a", "refs": None, "when": None})
