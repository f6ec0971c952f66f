"""The fit is Lasso's optimum, and finds the sentences that a scripted score depends on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.attribution import (
    SURE,
    ablations,
    apart,
    datamodelling_score,
    fit,
    lasso,
    log_odds,
    rank_correlation,
    without_top,
)


@st.composite
def regressions(draw):
    sources = draw(st.integers(1, 30))
    count = draw(st.integers(2, 64))
    sentences = draw(st.integers(1, 3))
    draws = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept = draws.random((count, sources)) < 0.5
    scores = draws.normal(size=(count, sentences)) * 10.0 ** draw(st.integers(-3, 3))
    penalty = scores.std(axis=0) * draw(st.sampled_from([1e-3, 0.01, 0.1, 1.0]))
    return kept, scores, penalty


@given(regressions())
def test_the_fit_keeps_the_conditions_of_an_optimum(regression):
    """Karush-Kuhn-Tucker: the covariance with what is left is the penalty where a weight is not 0,
    with its sign, and at most the penalty elsewhere."""
    kept, scores, penalty = regression
    weights, intercepts = fit(kept, scores, penalty)
    spread = kept.std(axis=0)
    assert not weights[:, spread == 0].any()
    rest = scores - intercepts - kept @ weights.T
    scale = np.abs(scores).max()
    assert np.abs(rest.mean(axis=0)).max() < 1e-9 * scale
    varies = spread > 0
    scaled = (kept - kept.mean(axis=0))[:, varies] / spread[varies]
    pull = (scaled.T @ rest / len(kept)).T
    chosen = weights[:, varies] != 0
    wanted = np.sign(weights[:, varies]) * penalty[:, None]
    assert np.abs(pull - wanted)[chosen].max(initial=0) < 1e-6 * scale
    assert (np.abs(pull) - penalty[:, None])[~chosen].max(initial=0) < 1e-6 * scale


def test_without_penalty_and_with_all_ablations_it_is_the_mean_difference_of_each_source():
    kept = ablations(4, 100, np.random.default_rng(0))
    assert len(kept) == len({row.tobytes() for row in kept}) == 16
    scores = np.random.default_rng(1).normal(size=(16, 2))
    weights, _ = fit(kept, scores, np.zeros(2))
    for source in range(4):
        difference = scores[kept[:, source]].mean(0) - scores[~kept[:, source]].mean(0)
        np.testing.assert_allclose(weights[:, source], difference, rtol=1e-6)


def test_a_source_that_does_nothing_and_a_penalty_above_all_covariances_give_zero():
    kept = ablations(30, 64, np.random.default_rng(0))
    scores = 5.0 * kept[:, :1]
    assert not fit(kept, scores, np.array([100.0]))[0].any()
    (weights,), (intercept,) = fit(kept, scores, np.array([0.01]))
    np.testing.assert_array_equal(np.flatnonzero(np.abs(weights) > 0.01), [0])
    assert weights[0] == pytest.approx(5.0, rel=0.01)
    assert intercept == pytest.approx(0.0, abs=0.1)


def test_the_sentences_that_carry_a_summary_are_found_in_at_least_95_of_100_documents():
    """Scripted log-probabilities: known sentences carry each of three summary sentences.

    One is carried by two sentences together, one by three, one by either of two (which no linear
    model can say), and all have noise. The right sentences are those with the highest weights.
    """
    found = 0
    for trial in range(100):
        draws = np.random.default_rng([7, trial])
        sources = int(draws.integers(20, 100))
        kept = ablations(sources, 64, draws)
        carriers = draws.permutation(sources)[:7]
        scores = np.stack(
            [
                -60 + 12 * kept[:, carriers[0]] + 9 * kept[:, carriers[1]],
                -50 + kept[:, carriers[2:5]] @ [6.0, 9.0, 8.0],
                -40 + 15 * (kept[:, carriers[5]] | kept[:, carriers[6]]),
            ],
            axis=1,
        ) + draws.normal(scale=1.0, size=(64, 3))
        weights, _ = fit(kept, scores, np.full(3, 0.01 * 20))
        wanted = [carriers[:2], carriers[2:5], carriers[5:]]
        found += all(
            set(np.flatnonzero(~without_top(weights[number], len(these)))) == set(these)
            for number, these in enumerate(wanted)
        )
    assert found >= 95


def test_log_odds_are_finite_and_rise_to_where_float32_cannot_tell():
    logprobs = np.float32([-100, -5, -np.log(2), -1e-3, -1e-5, SURE, -1e-8, 0.0]).astype(float)
    odds = log_odds(logprobs)
    assert odds[2] == pytest.approx(0, abs=1e-6)
    assert (np.diff(odds[:6]) > 0).all()
    assert odds[5:] == pytest.approx(odds[5], rel=1e-6)
    assert odds[0] == pytest.approx(-100)
    probability = np.array([0.2, 0.999])
    np.testing.assert_allclose(
        log_odds(np.log(probability)), np.log(probability / (1 - probability)), rtol=1e-9
    )


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_rank_correlation_is_pearsons_of_mean_ranks(values, shuffled):
    others = list(values)
    shuffled.shuffle(others)
    found = rank_correlation(np.array(values, float), np.array(others, float))
    if len(set(values)) == 1:
        assert found is None
        return

    def ranks(row):
        return [np.mean([i for i, x in enumerate(sorted(row)) if x == value]) for value in row]

    wanted = np.corrcoef(ranks(values), ranks(others))[0, 1]
    assert found == pytest.approx(wanted, abs=1e-9)


def test_true_weights_have_a_datamodelling_score_of_one_and_none_of_zero():
    draws = np.random.default_rng(0)
    kept, weights = ablations(20, 32, draws), draws.normal(size=20)
    scores = kept @ weights - 30
    assert datamodelling_score(weights, kept, scores) == pytest.approx(1)
    assert datamodelling_score(-weights, kept, scores) == pytest.approx(-1)
    assert datamodelling_score(np.zeros(20), kept, scores) == 0
    assert datamodelling_score(weights, kept, np.full(32, -30.0)) is None


@given(st.integers(0, 40), st.integers(1, 80), st.integers(0, 40))
def test_ablations_are_seeded_halves_and_held_out_ones_are_not_fitted_to(sources, count, held):
    kept = ablations(sources, count, np.random.default_rng(3))
    assert (kept == ablations(sources, count, np.random.default_rng(3))).all()
    assert kept.shape == (min(count, 2**sources), sources)
    fitted, rest = apart(kept, held)
    assert len(fitted) + len(rest) == len(kept)
    assert len(rest) <= min(held, len(kept) // 3)
    if sources <= 12:
        assert len({row.tobytes() for row in kept}) == len(kept)
    if sources >= 20:
        assert 0.3 < ablations(sources, 200, np.random.default_rng(3)).mean() < 0.7


def test_an_empty_problem_has_an_empty_solution():
    assert lasso(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros(2)).shape == (0, 2)
    weights, intercepts = fit(np.ones((1, 0), bool), np.full((1, 2), -3.0), np.ones(2))
    assert weights.shape == (2, 0)
    assert (intercepts == -3).all()
