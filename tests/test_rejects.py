import json

import pytest

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.records import Reject, Rejects, read, read_all

GOOD = {"id": "g", "document": "The cat sat.", "target": "A cat."}


@pytest.fixture
def source(tmp_path):
    """Writes rows (bytes as they are, anything else as JSON) and names their file."""

    def write(*rows, name="rows.jsonl", **columns):
        file = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        file.write_bytes(b"\n".join(lines))
        return Source(path=str(file), **columns)

    return write


def rows_of(*sources):
    """Records and rejects, each in order."""
    return read_all(sources, need_targets=True)


def test_of_the_rows_that_share_an_id_the_first_is_kept(source):
    where = source(GOOD, {**GOOD, "document": "Another."}, {**GOOD, "id": "h"})
    records, rejects = rows_of(where)
    assert [(record.id, record.line) for record in records] == [("g", 1), ("h", 3)]
    assert rejects == [Reject(where.path, 2, "duplicate id 'g'", "g")]


def test_ids_are_compared_across_sources(source):
    one = source(GOOD, name="one.jsonl")
    two = source({**GOOD, "id": "h"}, GOOD, name="two.jsonl")
    records, rejects = rows_of(one, two)
    assert [record.id for record in records] == ["g", "h"]
    assert rejects == [Reject(two.path, 2, "duplicate id 'g'", "g")]


def test_the_number_7_and_the_text_7_are_one_id(source):
    records, rejects = rows_of(source({**GOOD, "id": 7}, {**GOOD, "id": "7"}))
    assert [record.id for record in records] == ["7"]
    assert [reject.reason for reject in rejects] == ["duplicate id '7'"]


def test_an_id_means_the_same_row_whether_targets_are_needed_or_not(source):
    where = source({**GOOD, "target": ""}, {**GOOD, "document": "Another."}, {**GOOD, "id": "h"})
    for need_targets, kept in ((True, []), (False, ["The cat sat."])):
        records, rejects = read_all([where], need_targets=need_targets)
        assert [record.document for record in records if record.id == "g"] == kept
        assert rejects[-1] == Reject(where.path, 2, "duplicate id 'g'", "g")


def test_a_source_without_a_usable_row_is_named_even_beside_a_good_one(source):
    good, bad = source(GOOD, name="good.jsonl"), source(b"{", name="bad.jsonl")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: not valid JSON"):
        rows_of(good, bad)


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_an_empty_file_has_no_records(source, content):
    where = source(content)
    with pytest.raises(DataError) as caught:
        rows_of(where)
    assert str(caught.value) == f"{where.path}: has no rows"


def test_a_file_without_a_usable_row_says_why_with_the_first_line_and_all_reasons(source):
    where = source(b"{", {"text": "a"}, {"text": "b"}, {**GOOD, "target": ""})
    with pytest.raises(DataError) as caught:
        rows_of(where)
    message = str(caught.value)
    assert message.startswith(f"{where.path}:1: not valid JSON")
    assert message.endswith(
        f"no row of {where.path} can be used (2 x no column, 1 x not valid JSON, 1 x empty target)"
    )


def test_reasons_are_counted_by_kind_not_by_row(source):
    bad = [
        b"\xff{}",
        b"{\xff}",
        GOOD | {"id": 1, "document": 1},
        GOOD | {"id": 2, "document": None},
    ]
    rejects = Rejects()
    records = list(rejects.sift(read(source(*bad, GOOD), need_targets=True)))
    assert [record.id for record in records] == ["g"]
    assert rejects.reasons() == {
        "not UTF-8": 2,
        "not text but a number": 1,
        "not text but null": 1,
    }
    assert Reject("f", 1, "duplicate id 'a'").kind == Reject("f", 2, "duplicate id 'b'").kind


def test_a_few_rejects_are_logged_each_and_many_are_summed_up(source, caplog):
    bad = [b"{"] * 40
    records, rejects = rows_of(source(*bad, GOOD))
    assert (len(records), len(rejects)) == (1, 40)
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == 6
    assert lines[0].endswith("row rejected")
    assert ":1: " in lines[0]
    assert lines[-1].endswith("40 rows rejected: 40 x not valid JSON")
