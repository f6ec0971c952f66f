import numpy as np
import pytest

from sumzero.errors import RunError
from sumzero.infer.generation import Generation
from sumzero.infer.row_scores import ABOUT, ROW_SCORES, read_row_scores, write_row_scores

IDS = ["a", "Zürich", "三"]


@pytest.fixture
def generation(tmp_path):
    (tmp_path / "merged.jsonl").write_text('{"id": "a"}\n')
    return Generation(tmp_path, {})


def _columns():
    return {
        "id": IDS,
        "task": ["summarize", "answer", "translate"],
        "language": ["en", "de", "zh"],
        "document_words": [100, 20, 3],
        "summary_words": np.array([10, 0, 2]),
        "truncated": [True, False, False],
        "failed": [False, True, False],
        "finish_reason": ["stop", "", "length"],
        "rougeL": [0.1 + 0.2, np.nan, 1.0],
        "bleu_statistics": [[3, 4, 1, 0, 0], [np.nan] * 5, [1, 2, 0, 0, 7.5]],
    }


def test_a_table_is_read_as_it_was_written(generation):
    columns = _columns()
    write_row_scores(generation, columns, signatures={"rougeL": "stem:porter"}, references="abc")
    found = read_row_scores(generation)
    assert found.ids == IDS
    assert list(found.columns) == [name for name in columns if name != "id"]
    for name, values in found.columns.items():
        np.testing.assert_array_equal(values, np.asarray(columns[name]))
    assert found.columns["truncated"].dtype == bool
    assert found.columns["document_words"].dtype == np.int64
    assert found.metrics == ["rougeL"]
    assert found.signatures == {"rougeL": "stem:porter"}
    assert found.references == "abc"


def test_no_statistics_at_all_are_read_too(generation):
    columns = _columns() | {"bleu_statistics": np.full((3, 5), np.nan)}
    write_row_scores(generation, columns, signatures={}, references="")
    assert np.isnan(read_row_scores(generation).columns["bleu_statistics"]).all()


def test_what_is_missing_or_damaged_or_of_other_rows_is_said(generation):
    with pytest.raises(RunError, match="is missing; run `sumzero score RUN` first"):
        read_row_scores(generation)
    (generation.folder / ROW_SCORES).write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match="damaged"):
        read_row_scores(generation)
    write_row_scores(generation, _columns(), signatures={}, references="")
    whole = (generation.folder / ROW_SCORES).read_bytes()
    for place in (4, len(whole) - 40):  # in a column, and in the footer
        damaged = whole[:place] + b"\xff" * 30 + whole[place + 30 :]
        (generation.folder / ROW_SCORES).write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            read_row_scores(generation)
    (generation.folder / ROW_SCORES).write_bytes(whole)
    (generation.folder / "merged.jsonl").write_text('{"id": "b"}\n')
    with pytest.raises(RunError, match="other rows than"):
        read_row_scores(generation)


def test_columns_that_do_not_fit_are_refused_and_leave_nothing(generation):
    for fault in ({"document_words": [1]}, {"rougeL": [0.5]}):
        with pytest.raises(ValueError, match="different lengths"):
            write_row_scores(generation, _columns() | fault, signatures={}, references="")
    for name in ABOUT:
        columns = _columns()
        del columns[name]
        with pytest.raises(ValueError, match=name):
            write_row_scores(generation, columns, signatures={}, references="")
    assert [file.name for file in generation.folder.iterdir()] == ["merged.jsonl"]
