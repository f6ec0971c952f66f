import numpy as np
import pytest

from sumzero.infer.bleu import statistics
from sumzero.infer.row_scores import RowScores
from sumzero.infer.scored import Scored, quality, ranked_by

NAN = float("nan")


def rows(**columns):
    """Row scores with these columns."""
    num = len(next(iter(columns.values())))
    return RowScores([str(n) for n in range(num)], columns, {})


def test_each_row_is_as_good_as_its_tasks_metric_says():
    found = rows(rougeL=np.array([30.0, 40.0, NAN]), f1=np.array([NAN, 80.0, NAN]))
    assert ranked_by(found) == ["f1", "rougeL"]
    np.testing.assert_array_equal(quality(found), [30.0, 80.0, NAN])


def test_a_translation_is_as_good_as_its_own_chrf():
    counts = [statistics([text], "A cat sat.", "en")["chrf"] for text in ("A cat sat.", "Dogs.")]
    found = rows(rougeL=np.array([100.0, 50.0]), chrf_statistics=np.array(counts))
    assert ranked_by(found) == ["chrf"]
    assert quality(found)[0] == 100
    assert quality(found)[1] < 30


def test_without_metrics_no_row_is_better():
    found = rows(failed=np.array([True, False]))
    assert ranked_by(found) == []
    assert np.isnan(quality(found)).all()


@pytest.mark.parametrize(
    ("systems", "main"),
    [
        (["lead1", "untrained", "finetuned", "gpt"], "finetuned"),
        (["lead1", "lead3", "adapter", "gpt"], "gpt"),
        (["lead1", "untrained"], "untrained"),
    ],
)
def test_a_run_is_about_its_model(systems, main):
    assert Scored(None, {name: {} for name in systems}).main == main
