"""Paired tests on data with a known difference and with none."""

import numpy as np
import pytest

from sumzero.infer.paired import corpus_pair, differences, mean_pair

SIMULATIONS = 1000
# Of 1,000 simulations at 5% a right test alarms 50 times, standard deviation 6.9: within 3.3 of
# them in 999 of 1,000 seeds.
FEWEST, MOST = 50 - 23, 50 + 23
# Kolmogorov's distance of 1,000 uniform numbers from the uniform distribution, exceeded once in
# 1,000: 1.95 / sqrt(1000).
FARTHEST = 1.95 / np.sqrt(SIMULATIONS)


def precision(sums):
    return sums[:, 0] / sums[:, 1]


def outputs(rng, rows, shift=0.0):
    """Scores of two systems on rows that are easy or hard for both, as summaries' are."""
    hard = rng.beta(2, 5, size=rows)
    a, b = (np.clip(hard + rng.normal(0, 0.1, rows), 0, 1) for _ in range(2))
    return a, b + shift


def counts(rng, rows, better=0.0):
    """Of each row how many n-grams match and how many there are, long rows weighing more."""
    sizes = rng.integers(5, 60, size=rows)
    chance = rng.beta(4, 6, size=rows)
    a, b = (
        np.column_stack([rng.binomial(sizes, np.clip(chance + more, 0, 1)), sizes]).astype(float)
        for more in (0.0, better)
    )
    return corpus_pair(a, b, precision)


def simulated(draw, simulations):
    """The p-values of both tests in each simulation: (2, simulations, metrics)."""
    found = []
    for seed in range(simulations):
        one = differences(draw(np.random.default_rng(seed)), resamples=300, shuffles=300, seed=seed)
        found.append([(x.p_bootstrap, x.p_randomisation) for x in one.values()])
    return np.moveaxis(np.array(found), 2, 0)


def test_without_a_difference_alarms_are_as_many_as_allowed_and_p_is_uniform():
    def alike(rng):
        a, b = outputs(rng, 100)
        lacking = np.where(rng.random(100) < 0.2, np.nan, a)
        return {"mean": mean_pair(a, b), "some": mean_pair(lacking, b), "corpus": counts(rng, 100)}

    for of_test in simulated(alike, SIMULATIONS):
        for p in of_test.T:
            assert FEWEST <= (p <= 0.05).sum() <= MOST
            below = np.searchsorted(np.sort(p), np.linspace(0, 1, 301), side="right") / SIMULATIONS
            assert np.abs(below - np.linspace(0, 1, 301)).max() < FARTHEST


def test_a_difference_is_found_about_as_often_as_a_z_test_would():
    rows, shift = 100, 0.04
    # The difference of a row has standard deviation 0.1 * sqrt(2), but for what is cut at 0.
    power = 0.81  # of a z-test: P(|Z + 0.04 * 10 / 0.1414| > 1.96)

    def better(rng):
        a, b = outputs(rng, rows, shift)
        return {"mean": mean_pair(a, b), "corpus": counts(rng, rows, better=0.03)}

    for mean, corpus in (of_test.T for of_test in simulated(better, 300)):
        # Standard deviation of the share: sqrt(0.81 * 0.19 / 300) = 0.023.
        assert power - 0.07 <= (mean <= 0.05).mean() <= power + 0.07
        assert (corpus <= 0.05).mean() > 0.5


def test_intervals_of_the_difference_hold_it_about_as_often_as_they_say():
    held = 0
    for seed in range(400):
        pair = mean_pair(*outputs(np.random.default_rng(seed), 100, 0.02))
        found = differences({"m": pair}, resamples=300, shuffles=1, seed=seed)["m"]
        held += found.low <= 0.02 <= found.high
        assert found.low <= found.difference <= found.high
    assert 0.95 - 0.04 <= held / 400 <= 0.95 + 0.04


def test_randomisation_of_few_rows_is_the_exact_test():
    # 5 of 8 rows differ, all the same way: of the 32 exchanges 2 give a sum as far from 0.
    a = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    b = a + np.array([1 / 3, 0, 0.7 / 3, 0, 0, 0.11, 1e-3, 0.2])
    found = differences({"m": mean_pair(a, b)}, resamples=100, shuffles=100_000, seed=0)["m"]
    # Standard deviation of the share: sqrt(p (1 - p) / 100,000) = 0.00077.
    assert found.p_randomisation == pytest.approx(2 / 32, abs=4 * 0.00077)


def test_equal_systems_have_p_1_and_no_p_is_0():
    rng = np.random.default_rng(0)
    values, sizes = rng.random(50), rng.integers(1, 9, size=(50, 2)).astype(float)
    pairs = {"mean": mean_pair(values, values), "corpus": corpus_pair(sizes, sizes, precision)}
    for found in differences(pairs, resamples=200, shuffles=200, seed=0).values():
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert found.p_bootstrap == found.p_randomisation == 1
    pairs = {"m": mean_pair(values, values + 0.5)}
    found = differences(pairs, resamples=200, shuffles=200, seed=0)["m"]
    assert found.p_bootstrap == found.p_randomisation == 1 / 201


def test_exchanging_the_systems_changes_the_sign_alone_and_a_seed_decides_all():
    a, b = outputs(np.random.default_rng(3), 300, 0.01)
    settings = {"resamples": 500, "shuffles": 500}
    there = differences({"m": mean_pair(a, b)}, **settings, seed=1)["m"]
    assert there == differences({"m": mean_pair(a, b)}, **settings, seed=1)["m"]
    assert there != differences({"m": mean_pair(a, b)}, **settings, seed=2)["m"]
    back = differences({"m": mean_pair(b, a)}, **settings, seed=1)["m"]
    assert back.difference == -there.difference
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-7)
    assert (back.p_bootstrap, back.p_randomisation) == (there.p_bootstrap, there.p_randomisation)


def test_rows_of_which_a_metric_says_nothing_do_not_count():
    a, b = outputs(np.random.default_rng(4), 200, 0.01)
    lacking = np.arange(200) % 4 == 0
    some = mean_pair(np.where(lacking, np.nan, a), b)
    found = differences({"m": some}, resamples=2000, shuffles=2000, seed=0)["m"]
    assert found.a == pytest.approx(a[~lacking].mean(), abs=1e-12)
    assert found.b == pytest.approx(b[~lacking].mean(), abs=1e-12)
    alone = mean_pair(a[~lacking], b[~lacking])
    fewer = differences({"m": alone}, resamples=2000, shuffles=2000, seed=0)["m"]
    assert found.p_randomisation == pytest.approx(fewer.p_randomisation, abs=0.05)
    assert found.high - found.low == pytest.approx(fewer.high - fewer.low, rel=0.1)


def test_a_single_row_tells_nothing():
    lacking = np.where(np.arange(30) == 7, 0.2, np.nan)
    for a in (np.array([0.2]), lacking):
        found = differences({"m": mean_pair(a, a + 0.5)}, resamples=200, shuffles=200, seed=0)["m"]
        assert found.difference == pytest.approx(0.5)
        assert found.p_bootstrap == found.p_randomisation == 1


def test_draws_without_a_row_that_counts_are_no_draws():
    sizes = np.full((30, 2), np.nan)
    sizes[7] = 3, 4
    pair = corpus_pair(sizes, np.where(np.isnan(sizes), sizes, [4, 4]), lambda sums: sums[:, 0])
    found = differences({"m": pair}, resamples=400, shuffles=200, seed=0)["m"]
    assert 1 <= found.low <= found.high
    pair = mean_pair(sizes[:, 0], sizes[:, 0] + 1)
    found = differences({"m": pair}, resamples=400, shuffles=200, seed=0)["m"]
    assert (found.low, found.high) == (1, 1)


def test_more_rows_than_a_tile_are_summed_whole():
    """Against the same draws made in one piece, in float64."""
    rows = 10_000
    a, b = outputs(np.random.default_rng(5), rows, 0.0005)
    pair = counts(np.random.default_rng(6), rows, better=0.002)
    found = differences({"m": mean_pair(a, b), "c": pair}, resamples=400, shuffles=1, seed=7)
    draws = np.random.default_rng(7).integers(rows, size=(400, rows))
    for name, drawn in {
        "m": (b[draws] - a[draws]).mean(axis=1),
        "c": precision(pair.b[draws].sum(axis=1)) - precision(pair.a[draws].sum(axis=1)),
    }.items():
        bounds = np.quantile(drawn, [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx(bounds, abs=1e-7)


def test_rows_must_be_the_same_and_some():
    pair = mean_pair(np.zeros(2), np.ones(2))
    other = mean_pair(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="same rows"):
        differences({"m": pair, "n": other}, resamples=9, shuffles=9, seed=0)
    none = mean_pair(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="n: no row counts"):
        differences({"m": pair, "n": none}, resamples=9, shuffles=9, seed=0)


def test_rows_have_scores_of_their_own():
    lacking = np.array([[1.0, np.nan], [1, 2], [0, 4]]), np.array([[1.0, 2], [2, 2], [3, 4]])
    a, b = corpus_pair(*lacking, precision).by_row()
    np.testing.assert_array_equal(a, [np.nan, 0.5, 0])
    np.testing.assert_array_equal(b, [np.nan, 1, 0.75])
