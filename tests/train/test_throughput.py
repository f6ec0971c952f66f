"""Rates come from the time that steps took: pauses count for nothing, and no step is left out."""

import pytest

from sumzero.train import throughput
from sumzero.train.throughput import Rate, Throughput


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `time.perf_counter` gives."""
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def test_a_rate_is_of_the_steps_since_the_last_mark_without_the_pauses(clock):
    counted = Throughput()
    for tokens in (30, 50):
        clock[0] += 2.0
        counted.add(tokens, 10.0 * tokens)
    assert counted.mark() == Rate(20.0, 200.0, 2.0)
    clock[0] += 7.0
    counted.pause(6.0)
    counted.add(9, 90.0)
    assert counted.mark() == Rate(9.0, 90.0, 1.0)
    assert (counted.seconds, counted.overall) == (5.0, 89 / 5)


def test_a_mark_without_steps_changes_no_sum(clock):
    counted = Throughput()
    clock[0] += 4.0
    counted.add(40, 0.0)
    counted.mark()
    clock[0] += 3.0
    counted.pause(3.0)
    counted.mark()
    assert counted.seconds == pytest.approx(4.0)
    assert counted.overall == pytest.approx(10.0)


def test_utilisation_is_of_all_devices_and_unknown_without_a_peak():
    assert Rate(0.0, 6e12, 1.0).mfu(1e12, 8) == 0.75
    assert Rate(0.0, 6e12, 1.0).mfu(None, 8) is None
