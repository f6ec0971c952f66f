import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.infer.examples import LIMITS, chosen, embedded, fitted, flags, size
from sumzero.infer.row_scores import RowScores

TEXTS = st.text(st.sampled_from("ab<>&/!-\u2028\u2029'\"`\\🙂\0é"), max_size=40)


def rows_of(quality, **columns):
    """Row scores with a ROUGE-L each, and columns in place of the usual ones."""
    num = len(quality)
    usual = {
        "failed": np.zeros(num, bool),
        "truncated": np.zeros(num, bool),
        "finish_reason": np.array(["stop"] * num),
        "rougeL": np.array(quality, float),
    }
    return RowScores([f"r{number}" for number in range(num)], {**usual, **columns}, {})


def example(row, length, more=10):
    return {"row": row, "document": "x" * length, "left_out": 0, "outputs": ["y" * more]}


@settings(max_examples=40)
@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_embedded_json_reads_back_and_has_nothing_that_markup_knows(value):
    text = embedded(value)
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)


def test_all_rows_are_chosen_where_they_are_few():
    rows = rows_of([5, 1, np.nan, 9])
    assert sorted(chosen(rows, [], seed=0)) == [0, 1, 2, 3]


def test_the_most_telling_rows_are_chosen_first():
    quality = np.linspace(10, 90, 100)
    quality[[17, 44]] = [1, 99]
    marked = np.arange(100) == 60
    change = np.zeros(100)
    change[70], change[71] = -30, 2
    rows = rows_of(
        quality,
        failed=np.arange(100) == 5,
        truncated=marked,
        finish_reason=np.where(np.arange(100) == 61, "length", "stop"),
        nli=np.where(np.arange(100) == 62, 10.0, np.where(np.arange(100) == 63, np.nan, 90.0)),
    )
    first = chosen(rows, [change], seed=0, most=9)
    assert {17, 44, 60, 61, 62, 5, 70} <= set(first)
    assert len(set(first)) == 9


@given(st.lists(st.floats(0, 100) | st.just(np.nan), max_size=30), st.integers(1, 40))
def test_each_row_is_chosen_once_at_most(quality, most):
    found = chosen(rows_of(quality), [], seed=1, most=most)
    assert len(found) == len(set(found)) == min(most, len(quality))
    assert set(found) <= set(range(len(quality)))


def test_the_same_seed_chooses_the_same():
    rows = rows_of(np.full(500, 50.0))
    assert chosen(rows, [], seed=3, most=20) == chosen(rows, [], seed=3, most=20)
    assert chosen(rows, [], seed=3, most=20) != chosen(rows, [], seed=4, most=20)


def test_a_row_may_be_flagged_for_several_reasons():
    rows = rows_of(
        [1, 2],
        empty=np.array([0.0, 100.0]),
        judge=np.array([49.9, 50.0]),
        finish_reason=np.array(["length", "stop"]),
    )
    found = {name: marked.tolist() for name, marked in flags(rows).items()}
    assert found["unfaithful"] == [True, False]
    assert found["length"] == [True, False]
    assert found["empty"] == [False, True]


def test_documents_stay_whole_where_there_is_room():
    shown = fitted([example(1, 3000), example(0, 30)], rows=2, room=10_000)
    assert [len(e["document"]) for e in shown.examples] == [30, 3000]
    assert (shown.cut, shown.limit) == (0, LIMITS[0])


def test_documents_are_cut_before_any_is_left_out():
    shown = fitted([example(n, 6000) for n in range(10)], rows=10, room=45_000)
    assert len(shown.examples) == 10
    assert (shown.limit, shown.cut) == (4000, 10)
    assert all(e["left_out"] == 2000 for e in shown.examples)


def test_what_does_not_fit_is_left_out_the_last_first():
    shown = fitted([example(n, 5000) for n in (7, 3, 9, 1)], rows=50, room=4500)
    assert [e["row"] for e in shown.examples] == [3, 7]
    assert shown.limit == LIMITS[-1]


@given(st.lists(st.integers(0, 9000), max_size=12), st.integers(0, 30_000))
def test_what_is_shown_fits(lengths, room):
    ranked = [example(number, length) for number, length in enumerate(lengths)]
    shown = fitted(ranked, rows=len(lengths), room=room)
    assert sum(map(size, shown.examples)) <= room


@pytest.mark.parametrize("text", ["é" * 10, "🙂", "<", "\ud800"])
def test_a_size_is_in_bytes_as_written(text):
    written = embedded({"document": text}).encode("utf-8", "replace")
    assert size({"document": text}) == len(written) + 1
