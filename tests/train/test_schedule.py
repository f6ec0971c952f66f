import pytest

from sumzero.config import Train
from sumzero.train.schedule import learning_rate


def _rates(num_steps=100, **settings):
    return [learning_rate(step, num_steps, Train(lr=1.0, **settings)) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rises_to_the_peak_and_falls_to_the_floor(schedule):
    rates = _rates(schedule=schedule, warmup=0.1, min_lr=0.2)
    assert 0 < rates[0] < rates[5] < rates[9] < rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.2)


def test_constant_stays_at_the_peak():
    assert _rates(schedule="constant", warmup=0.0) == [1.0] * 100


def test_a_single_step_runs_at_the_peak():
    assert _rates(num_steps=1, warmup=0.03) == [1.0]


def test_warmup_in_steps_takes_the_place_of_the_share():
    assert _rates(warmup=0.5, warmup_steps=10) == _rates(warmup=0.1)
    assert _rates(warmup=0.5, warmup_steps=0) == _rates(warmup=0.0)
