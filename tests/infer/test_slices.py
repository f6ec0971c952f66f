import numpy as np

from sumzero.infer.slices import slices


def _columns(**changed):
    num = len(next(iter(changed.values())))
    columns = {
        "task": ["summarize"] * num,
        "language": ["en"] * num,
        "document_words": np.full(num, 50),
        "truncated": np.zeros(num, bool),
        "failed": np.zeros(num, bool),
        "finish_reason": ["stop"] * num,
    }
    return columns | changed


def _found(**changed):
    return {(x.by, x.label): x.rows.tolist() for x in slices(_columns(**changed))}


def test_rows_that_are_alike_in_all_have_no_slices():
    assert _found(task=["answer"] * 3) == {}


def test_what_was_cut_is_told_from_what_is_whole():
    found = _found(
        truncated=[True, False, False, False, True],
        finish_reason=["stop", "length", "stop", "", "length"],
        failed=np.array([False, False, False, True, False]),
    )
    assert found == {
        ("cut", "whole"): [False, False, True, False, False],
        ("cut", "document"): [True, False, False, False, True],
        ("cut", "summary"): [False, True, False, False, True],
    }


def test_every_row_is_in_one_bucket_of_lengths():
    found = _found(document_words=np.array([0, 99, 100, 299, 300, 10_000, 10**7]))
    assert np.sum(list(found.values()), axis=0).tolist() == [1] * 7
    assert found["document_words", "0-99"] == [True, True] + [False] * 5
    assert found["document_words", "10000 or more"] == [False] * 5 + [True, True]


def test_tasks_do_not_mix():
    found = _found(
        task=["summarize", "summarize", "translate", "translate"], language=["en", "zh", "zh", "zh"]
    )
    assert found == {
        ("task", "summarize"): [True, True, False, False],
        ("task", "translate"): [False, False, True, True],
        ("language", "summarize, en"): [True, False, False, False],
        ("language", "summarize, zh"): [False, True, False, False],
    }
