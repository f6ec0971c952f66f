import numpy as np
import pytest

from sumzero.infer import bleu
from sumzero.infer.bootstrap import intervals, resampled_sums
from sumzero.infer.significance import bootstrap_interval


def _drawn(num, resamples, seed):
    """The rows of each resample, one after the other."""
    rng = np.random.default_rng(seed)
    return [rng.integers(num, size=num) for _ in range(resamples)]


@pytest.mark.parametrize("num", [1, 7, 40_000])  # several, and less than one, of a counted block
def test_sums_are_those_of_rows_drawn_with_replacement(num):
    values = np.random.default_rng(0).integers(0, 9, (num, 3)).astype(float)
    sums = resampled_sums(values, resamples=150, seed=5)
    expected = [values[drawn].sum(axis=0) for drawn in _drawn(num, 150, 5)]
    np.testing.assert_array_equal(sums, expected)


def test_metrics_together_have_the_intervals_that_they_have_alone():
    rng = np.random.default_rng(1)
    values = {name: rng.random(60) for name in "abc"}
    values["b"][::3] = np.nan
    values["none"] = np.full(60, np.nan)
    found = intervals(values, {}, resamples=300, seed=2)
    assert list(found) == ["a", "b", "c"]
    for name, interval in found.items():
        there = values[name][~np.isnan(values[name])]
        assert interval.value == pytest.approx(there.mean(), rel=1e-14)
        alone = bootstrap_interval(there, resamples=300, seed=2)
        assert (interval.low, interval.high) == pytest.approx(alone, rel=1e-12)
    assert found == intervals(values, {}, resamples=300, seed=2)
    assert found["a"] != intervals(values, {}, resamples=300, seed=3)["a"]


def test_a_corpus_metric_is_taken_of_each_resample():
    targets = ["Der Hund lief nach Hause.", "Es regnet sehr.", "Ja, das ist wahr.", "Eine Katze."]
    texts = ["Der Hund lief heim.", "Es regnet sehr.", "Nein, das ist so.", "Ein Hund."]
    rows = [bleu.statistics([t], x, "de") for t, x in zip(targets, texts, strict=True)]
    counts = {name: np.array([row[name] for row in rows]) for name in bleu.METRICS}
    found = intervals({"x": np.ones(4)}, counts, resamples=100, seed=0)
    for name, of in counts.items():
        assert found[name].value == bleu.corpus_score(name, of.sum(axis=0))
        scores = [bleu.corpus_score(name, of[drawn].sum(axis=0)) for drawn in _drawn(4, 100, 0)]
        low, high = np.quantile(scores, [0.025, 0.975])
        assert (found[name].low, found[name].high) == (low, high)


def test_what_is_the_same_in_every_row_has_no_width():
    assert intervals({"x": np.full(9, 0.1)}, {}, resamples=200, seed=0)["x"][1:] == (0.1, 0.1)
