import numpy as np
import pytest

from sumzero.infer.significance import bootstrap_interval


def test_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.beta(2, 5, size=80), resamples=400, seed=trial)
        covered += low <= 2 / 7 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).random(50)
    first = bootstrap_interval(values, resamples=500, seed=3)
    assert first == bootstrap_interval(values, resamples=500, seed=3)
    assert first != bootstrap_interval(values, resamples=500, seed=4)


def test_a_constant_has_no_width_and_nothing_has_no_interval():
    assert bootstrap_interval(np.full(9, 0.25), resamples=200, seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.empty(0), resamples=200, seed=0)
