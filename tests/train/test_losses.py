"""Losses do not depend on when they are read; what stands out is told."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sumzero.train.losses import Losses

OTHER = torch.tensor(0.1)  # what the second rank adds to each step


def _losses(spike=6.0):
    return Losses(lambda values: torch.stack([values, OTHER.expand_as(values)]), spike)


steps = st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=30)


@given(steps, st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_when_losses_are_read_or_a_run_is_stopped_changes_nothing(values, reads, stops):
    at_once, by_parts = _losses(), _losses()
    for step, value in enumerate(values, start=1):
        at_once.add(step, 3, torch.tensor(value))
        by_parts.add(step, 3, torch.tensor(value))
        if step in reads | stops:
            by_parts.fetch()
        if step in stops:
            state = by_parts.state()
            by_parts = _losses()
            by_parts.restore(state)
    at_once.fetch()
    by_parts.fetch()
    assert at_once.state() == by_parts.state()
    wanted = sum(value + float(OTHER) for value in values) / (3 * len(values))
    assert at_once.take() == by_parts.take() == pytest.approx(wanted, rel=1e-12)


def test_a_spike_is_told_with_its_step_and_what_it_stood_out_of():
    losses = _losses(spike=5.0)
    for step in range(1, 31):
        losses.add(step, 1, torch.tensor(2.0 + 0.01 * (step % 3)))
    assert losses.fetch() == []
    losses.add(31, 1, torch.tensor(2.5))
    losses.add(32, 1, torch.tensor(2.0))
    (spike,) = losses.fetch()
    assert (spike.step, spike.loss) == (31, pytest.approx(2.6))
    assert spike.mean == pytest.approx(2.11, abs=0.001)
    assert spike.deviation == pytest.approx(0.008, abs=0.001)


def test_a_loss_that_is_not_finite_counts_for_nothing():
    losses = _losses()
    for step, value in enumerate([1.0, math.inf, math.nan, 1.0], start=1):
        losses.add(step, 1, torch.tensor(value))
    assert losses.fetch() == []  # such a step is skipped, and told of by that
    assert losses.recent == pytest.approx([1.1, 1.1])
    assert losses.take() == pytest.approx(1.1)
    losses.add(5, 1, torch.tensor(math.nan))
    losses.fetch()
    assert math.isnan(losses.take())
