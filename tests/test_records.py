import json
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sumzero.config import Source
from sumzero.records import Record, Reject, read, read_all

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
    assert record == Record("3", "d", ("r", "s"), "How?", lead="First.")


@pytest.mark.parametrize("column", ["instruction", "lead"])
def test_a_column_that_is_asked_for_must_be_there(source, column):
    (reject,) = rows_of(source(GOOD, **{column: "extra"}))
    assert f"no column 'extra' (columns: 'document', 'id', 'target'); set data.SPLIT.{column}" == (
        reject.reason
    )


def test_several_references_stay_in_order_and_empty_or_repeated_ones_are_left_out(source):
    (record,) = rows_of(source({**GOOD, "target": ["two", "", " one ", "  ", "one", "two"]}))
    assert record.targets == ("two", "one")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"answers": [{"text": "A cat.", "start": 4}, {"text": "Cats."}]}, "answers.text"),
        ({"answers": {"text": ["A cat.", "Cats."], "start": [4, 0]}}, "answers.text"),
        ({"meta": {"refs": {"gold": ["A cat.", "Cats."]}}}, "meta.refs.gold"),
        ({"meta": {"refs.gold": ["A cat.", "Cats."]}}, "meta.refs.gold"),
        ({"answers.text": ["A cat.", "Cats."], "answers": {"text": "no"}}, "answers.text"),
    ],
)
def test_a_dotted_column_is_one_within_another_unless_one_is_called_so(source, row, column):
    (record,) = rows_of(source({"document": "The cat sat.", **row}, targets=column))
    assert record.targets == ("A cat.", "Cats.")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([{"start": 4}], "no column 'answers.text' (columns: 'answers', 'document')"),
        ([{"text": "a"}, {}], "no column 'answers.text'"),
        ({}, "no column 'answers.text'"),
        ("text", "no column 'answers.text'"),
        ([["text"]], "no column 'answers.text'"),
        (None, "not text but null (column 'answers.text')"),
        ([None], "not text but null (column 'answers.text')"),
        ({"text": [1]}, "not text but a number (column 'answers.text')"),
        ([], "empty target (column 'answers.text')"),
        ({"text": ""}, "empty target (column 'answers.text')"),
    ],
)
def test_a_dotted_column_that_is_not_there_is_told(source, answers, reason):
    (reject,) = rows_of(source({"document": "d", "answers": answers}, targets="answers.text"))
    assert reason in reject.reason


@pytest.mark.parametrize("answers", [[], {"text": []}])
def test_a_question_may_have_no_answer_if_the_row_says_so(source, answers):
    row = {"document": "The cat sat.", "question": "When?", "answers": answers}
    columns = {"targets": "answers.text", "instruction": "question", "task": "answer"}
    assert rows_of(source(row, **columns)) == [
        Record("rows.jsonl:1", "The cat sat.", (), instruction="When?")
    ]


@pytest.mark.parametrize("answers", ["", None, [""], [None]])
def test_an_empty_or_missing_answer_is_a_fault_all_the_same(source, answers):
    row = {"document": "The cat sat.", "question": "When?", "answers": answers}
    columns = {"targets": "answers", "instruction": "question", "task": "answer"}
    (reject,) = rows_of(source(row, **columns))
    assert isinstance(reject, Reject)


def test_the_language_is_the_sources_or_the_rows_own(source):
    row = {**GOOD, "lang": " zh "}
    assert rows_of(source(row))[0].language == "en"
    assert rows_of(source(row, language="cs"))[0].language == "cs"
    assert rows_of(source(row, language="cs", language_column="lang"))[0].language == "zh"
    (reject,) = rows_of(source({**GOOD, "lang": " "}, language_column="lang"))
    assert reject.reason == "empty text (column 'lang')"


def test_metadata_stay_as_they_are(source):
    more = {"year": 2019, "tags": ["a", {"b": None}], "score": 0.5, "title": " é "}
    columns = ("year", "tags", "score", "title", "tags.b")
    (record,) = rows_of(source({**GOOD, **more, "tags.b": 1}, metadata=columns))
    assert record.metadata == {**more, "tags.b": 1}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"NaN", "not a value of JSON (Out of range float values"),
        (b'["\\ud800"]', "half a surrogate pair (column 'year')"),
    ],
)
def test_metadata_that_no_json_file_can_hold_are_told(source, value, reason):
    row = json.dumps(GOOD).encode()[:-1] + b', "year": ' + value + b"}"
    (reject,) = rows_of(source(row, metadata=("year",)))
    assert reason in reject.reason
    (reject,) = rows_of(source(GOOD, metadata=("year",)))
    assert "no column 'year'" in reject.reason
    assert "data.SPLIT.metadata" in reject.reason


def test_values_of_parquet_that_are_no_text_are_told(tmp_path):
    table = pa.table(
        {
            "document": pa.array([date(2020, 1, 1)]),
            "binary": pa.array([b"bytes"]),
            "map": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
            "far": pa.array([2**60], pa.timestamp("ms")),
            "target": pa.array(["t"]),
        }
    )
    for column, reason in [
        ("document", "not text but a date (column 'document')"),
        ("binary", "not text but bytes (column 'binary')"),
        ("map", "not text but a list (column 'map')"),
    ]:
        pq.write_table(table.drop(["far"]), tmp_path / "rows.parquet")
        where = Source(path=str(tmp_path / "rows.parquet"), document=column)
        assert [row.reason for row in rows_of(where)] == [reason]
        (reject,) = rows_of(replace(where, document="target", metadata=("document",)))
        assert "not a value of JSON (Object of type date" in reject.reason
    pq.write_table(table, tmp_path / "rows.parquet")
    (reject,) = rows_of(where)
    assert reject.reason.startswith("a value that Python cannot hold (")


def test_rows_of_a_glob_without_ids_are_told_apart(tmp_path):
    for name in ("a/rows.jsonl", "b/rows.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text('{"document": "a", "target": "b"}')
    rows = rows_of(Source(path=str(tmp_path / "*" / "rows.jsonl")))
    assert [row.id for row in rows] == ["a/rows.jsonl:1", "b/rows.jsonl:1"]


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


@pytest.mark.parametrize(
    ("name", "number", "columns"),
    [
        ("scitldr_train700", 700, {"targets": "summary"}),
        ("scitldr_dev150", 150, {"targets": "references"}),
        ("csl_zh_600", 600, {"targets": "summary"}),
        ("qmsum_train120", 120, {"targets": "summary", "instruction": "query"}),
        (
            "xquad_en250",
            250,
            {
                "task": "answer",
                "document": "context",
                "instruction": "question",
                "targets": "answers.text",
                "metadata": ("title",),
            },
        ),
    ],
)
def test_the_shared_records_are_read_without_a_reject(shared_data, name, number, columns):
    where = Source(path=str(shared_data / f"{name}.jsonl"), **columns)
    records, rejects = read_all([where], need_targets=True)
    assert (len(records), rejects) == (number, [])
