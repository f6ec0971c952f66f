"""Fractional weights of sources: who is seen when."""

import pytest

ROWS = [{"id": n, "document": f"A cat sat {n}.", "target": "A cat."} for n in range(24)]


@pytest.mark.parametrize("weight", [0.5, 0.25, 1.5])
def test_all_that_an_epoch_leaves_out_is_seen_before_any_of_it_is_seen_again(prepared, weight):
    run = prepared(ROWS, source={"weight": weight})
    epochs = run.epochs()
    num_epochs = round(1 / (weight % 1))
    for first in (0, num_epochs):
        seen = [0] * len(ROWS)
        for number in range(first, first + num_epochs):
            for example in epochs.epoch(number).layout.example.tolist():
                seen[example] += 1
        assert set(seen) == {round(weight * num_epochs)}
