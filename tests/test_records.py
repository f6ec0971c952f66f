import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.records import Record, Reject, Rejects, read, read_all

GOOD = {"id": "g", "document": "The cat sat.", "target": "A cat."}


@pytest.fixture
def source(tmp_path):
    """Writes rows (bytes as they are, anything else as JSON) and names their file."""

    def write(*rows, **columns):
        file = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        file.write_bytes(b"\n".join(lines))
        return Source(path=str(file), **columns)

    return write


def rows_of(source, need_targets=True):
    return list(read(source, need_targets=need_targets))


BAD = {
    "broken JSON": (b'{"document": "a", ', "not valid JSON"),
    "two objects on a line": (b'{"document": "a"} {"document": "b"}', "not valid JSON"),
    "no JSON": (b"hello", "not valid JSON"),
    "nested beyond reason": (b"[" * 100_000, "not valid JSON"),
    "a number of 5,000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "Latin-1": ('{"document": "café", "target": "b"}'.encode("latin-1"), "not UTF-8 (at byte 17)"),
    "a list": (b'["a", "b"]', "not a JSON object but a list"),
    "a number": (b"3.5", "not a JSON object but a number"),
    "null": (b"null", "not a JSON object but null"),
    "text": (b'"document"', "not a JSON object but text"),
    "other column": ({"text": "a", "target": "b"}, "no column 'document' (columns: 'target', 't"),
    "no column": ({}, "no column 'target' (columns: none); set data.SPLIT.targets"),
    "no target": ({"document": "a"}, "no column 'target' (columns: 'document')"),
    "empty document": ({"document": "", "target": "b"}, "empty text (column 'document')"),
    "blank document": ({"document": " \n\t", "target": "b"}, "empty text (column 'document')"),
    "document null": ({"document": None, "target": "b"}, "not text but null (column 'document')"),
    "document number": (
        {"document": 1, "target": "b"},
        "not text but a number (column 'document')",
    ),
    "document list": ({"document": ["a"], "target": "b"}, "not text but a list"),
    "empty target": ({"document": "a", "target": ""}, "empty target (column 'target')"),
    "blank target": ({"document": "a", "target": " \n"}, "empty target (column 'target')"),
    "no references": ({"document": "a", "target": []}, "empty target (column 'target')"),
    "blank references": ({"document": "a", "target": ["", " "]}, "empty target"),
    "target null": ({"document": "a", "target": None}, "not text but null (column 'target')"),
    "target object": ({"document": "a", "target": {"b": 1}}, "not text but an object"),
    "target true": ({"document": "a", "target": True}, "not text but true/false"),
    "reference number": ({"document": "a", "target": ["b", 3]}, "not text but a number"),
    "reference list": ({"document": "a", "target": [["b"]]}, "not text but a list"),
    "surrogate in document": (b'{"document": "a\\ud800", "target": "b"}', "half a surrogate pair"),
    "surrogate in target": (b'{"document": "a", "target": "\\udc00b"}', "half a surrogate pair"),
    "surrogate in id": (b'{"id": "\\ud8ff", "document": "a", "target": "b"}', "half a surrogate"),
    "surrogate in column": (b'{"\\ud800": "a", "target": "b"}', "(columns: 'target', '\\ud800')"),
    "id true": ({**GOOD, "id": True}, "the id is no string or whole number (column 'id')"),
    "id fraction": ({**GOOD, "id": 1.5}, "the id is no string or whole number (column 'id')"),
    "id list": ({**GOOD, "id": ["a"]}, "the id is no string or whole number (column 'id')"),
    "id empty": ({**GOOD, "id": ""}, "the id is no string or whole number (column 'id')"),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_a_bad_row_is_rejected_with_file_line_and_reason_and_the_next_is_read(source, row, reason):
    where = source(b"", row, GOOD)
    reject, record = rows_of(where)
    assert isinstance(reject, Reject)
    assert (reject.file, reject.line) == (where.path, 2)
    assert reason in reject.reason
    assert "\n" not in reject.reason
    assert record == Record("g", "The cat sat.", ("A cat.",))


def test_rows_that_share_an_id_are_rejected_after_the_first(source):
    rows = rows_of(source(GOOD, {**GOOD, "document": "Another."}, {**GOOD, "id": "h"}))
    assert [type(row) for row in rows] == [Record, Reject, Record]
    assert rows[1] == Reject(rows[1].file, 2, "duplicate id 'g'", "g")


def test_a_rejected_row_does_not_claim_its_id(source):
    reject, record = rows_of(source({**GOOD, "target": ""}, GOOD))
    assert isinstance(reject, Reject)
    assert reject.id == "g"
    assert record.id == "g"


def test_the_number_7_and_the_text_7_are_one_id(source):
    record, reject = rows_of(source({**GOOD, "id": 7}, {**GOOD, "id": "7"}))
    assert record.id == "7"
    assert reject.reason == "duplicate id '7'"


def test_a_row_without_an_id_is_called_by_file_and_line(source):
    row = {"document": "a", "target": "b"}
    assert [record.id for record in rows_of(source(row, b"", {**row, "id": None}))] == [
        "rows.jsonl:1",
        "rows.jsonl:3",
    ]


def test_columns_are_mapped(source):
    row = {"key": 3, "text": " d ", "refs": ["r", " s "], "ask": "How?", "head": "First."}
    (record,) = rows_of(
        source(row, id="key", document="text", targets="refs", instruction="ask", lead="head")
    )
    assert record == Record("3", "d", ("r", "s"), "How?", "First.")


@pytest.mark.parametrize("column", ["instruction", "lead"])
def test_a_column_that_is_asked_for_must_be_there(source, column):
    (reject,) = rows_of(source(GOOD, **{column: "extra"}))
    assert f"no column 'extra' (columns: 'document', 'id', 'target'); set data.SPLIT.{column}" == (
        reject.reason
    )


def test_several_references_stay_in_order_and_empty_ones_are_left_out(source):
    (record,) = rows_of(source({**GOOD, "target": ["two", "", " one ", "  "]}))
    assert record.targets == ("two", "one")


@pytest.mark.parametrize("target", [None, "", "  ", [], [""]])
def test_no_target_is_needed_to_generate(source, target):
    (record,) = rows_of(source({**GOOD, "target": target}), need_targets=False)
    assert record == Record("g", "The cat sat.")


def test_no_target_column_is_needed_to_generate(source):
    (record,) = rows_of(source({"document": "a"}), need_targets=False)
    assert record.targets == ()


def test_a_target_of_the_wrong_type_is_told_even_where_none_is_needed(source):
    (reject,) = rows_of(source({**GOOD, "target": 3}), need_targets=False)
    assert reject.reason == "not text but a number (column 'target')"


def test_a_byte_order_mark_and_windows_line_ends_are_no_faults(source):
    where = source(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"\r", {**GOOD, "id": 2})
    assert [row.id for row in rows_of(where)] == ["g", "2"]


def test_characters_of_every_kind_come_through_as_they_are(source):
    text = "NUL\0 tab\t “quotes” 漢字 \U0001f600 e\u0301 \u202e <|im_end|> \\ \u2028 end"
    (record,) = rows_of(source({**GOOD, "document": text, "target": text}))
    assert record.document == text
    assert record.targets == (text,)


def test_a_document_of_five_megabytes_is_read_whole(source):
    text = "x" * 5_000_000 + "the end"
    (record,) = rows_of(source({**GOOD, "document": text}))
    assert record.document == text


def test_the_last_line_needs_no_line_end_and_blank_lines_count(source):
    where = source(b"", b"  ", GOOD, b"", b"{")
    assert [row.line for row in rows_of(where)] == [3, 5]


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows", "rows.jsonl.gz", "rows.parquet"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(GOOD))
    with pytest.raises(DataError, match=r"rows.*: only \.jsonl files can be read"):
        rows_of(Source(path=str(tmp_path / name)))


@pytest.mark.parametrize("make", [lambda file: None, lambda file: file.mkdir()])
def test_a_missing_file_is_named(tmp_path, make):
    file = tmp_path / "rows.jsonl"
    make(file)
    with pytest.raises(DataError) as caught:
        rows_of(Source(path=str(file)))
    assert str(caught.value) == f"{file}: no such file"


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_an_empty_file_has_no_records(source, content):
    where = source(content)
    with pytest.raises(DataError) as caught:
        read_all(where, need_targets=True)
    assert str(caught.value) == f"{where.path}: no records: the file is empty"


def test_a_file_without_a_usable_row_says_why_with_the_first_line_and_all_reasons(source):
    where = source(b"{", {"text": "a"}, {"text": "b"}, {**GOOD, "target": ""})
    with pytest.raises(DataError) as caught:
        read_all(where, need_targets=True)
    message = str(caught.value)
    assert message.startswith(f"{where.path}:1: not valid JSON")
    assert message.endswith(
        "no row of the file can be used (2 x no column, 1 x not valid JSON, 1 x empty target)"
    )


def test_reasons_are_counted_by_kind_not_by_row(source):
    rejects = Rejects()
    bad = [
        b"\xff{}",
        b"{\xff}",
        GOOD | {"id": 1, "document": 1},
        GOOD | {"id": 2, "document": None},
    ]
    repeated = [GOOD, GOOD, {**GOOD, "id": "h"}, {**GOOD, "id": "h"}]
    records = list(rejects.sift(read(source(*bad, *repeated), need_targets=True)))
    assert [record.id for record in records] == ["g", "h"]
    assert rejects.reasons() == {
        "not UTF-8": 2,
        "duplicate id": 2,
        "not text but a number": 1,
        "not text but null": 1,
    }


def test_the_first_row_of_an_id_counts_whether_targets_are_needed_or_not(source):
    where = source({**GOOD, "target": ""}, {**GOOD, "document": "Another."})
    for need_targets in (True, False):
        rows = list(read(where, need_targets=need_targets))
        assert isinstance(rows[1], Reject)
        assert "duplicate id" in rows[1].reason


def test_a_few_rejects_are_logged_each_and_many_are_summed_up(source, caplog):
    bad = [b"{"] * 40
    records, rejects = read_all(source(*bad, GOOD), need_targets=True)
    assert (len(records), len(rejects)) == (1, 40)
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == 6
    assert lines[0].endswith("row rejected")
    assert ":1: " in lines[0]
    assert lines[-1].endswith("40 rows rejected: 40 x not valid JSON")


def test_rejects_are_listed_as_json_lines(source, tmp_path):
    where = source(b'{"\\ud800": 1}', {**GOOD, "id": "“é”", "target": ""}, GOOD)
    rejects = Rejects()
    list(rejects.sift(read(where, need_targets=True)))
    rejects.write(tmp_path / "out" / "rejected.jsonl")
    text = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8")
    assert "“é”" in text
    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "file": where.path,
            "line": 1,
            "reason": "no column 'target' (columns: '\\ud800'); set data.SPLIT.targets",
            "id": "rows.jsonl:1",
        },
        {
            "file": where.path,
            "line": 2,
            "reason": "empty target (column 'target')",
            "id": "“é”",
        },
    ]


def test_an_earlier_list_of_rejects_is_replaced(tmp_path):
    file = tmp_path / "rejected.jsonl"
    file.write_text("old\n")
    Rejects().write(file)
    assert file.read_text() == ""
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "number", "columns"),
    [
        ("scitldr_train700", 700, {"targets": "summary"}),
        ("scitldr_dev150", 150, {"targets": "references"}),
        ("csl_zh_600", 600, {"targets": "summary"}),
        ("qmsum_train120", 120, {"targets": "summary", "instruction": "query"}),
    ],
)
def test_the_shared_records_are_read_without_a_reject(shared_data, name, number, columns):
    where = Source(path=str(shared_data / f"{name}.jsonl"), **columns)
    records, rejects = read_all(where, need_targets=True)
    assert (len(records), rejects) == (number, [])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
_ROW = st.fixed_dictionaries(
    {}, optional={"id": _JSON, "document": _JSON | st.just("d"), "target": _JSON | st.just("t")}
).map(lambda row: json.dumps(row).encode())
_LINE = st.binary(max_size=30) | _ROW | _ROW.map(lambda line: line[: len(line) // 2])


@given(lines=st.lists(_LINE, max_size=6), need_targets=st.booleans())
def test_every_line_is_a_record_or_a_reject_whatever_its_bytes(
    tmp_path_factory, lines, need_targets
):
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    content = b"\n".join(lines)
    file.write_bytes(content)
    rows = rows_of(Source(path=str(file)), need_targets)
    assert len(rows) == sum(bool(line.strip()) for line in content.split(b"\n"))
    kept = [row for row in rows if isinstance(row, Record)]
    for record in kept:
        assert record.document == record.document.strip() != ""
        assert all(target == target.strip() != "" for target in record.targets)
        assert record.targets or not need_targets
    assert len({record.id for record in kept}) == len(kept)
    for reject in rows:
        assert isinstance(reject, Record) or reject.reason
    rejects = Rejects()
    list(rejects.sift(rows))
    rejects.write(file.with_suffix(".rejected"))
    assert file.with_suffix(".rejected").read_bytes().count(b"\n") == len(rows) - len(kept)
