"""Batches of a plan: any number of ranks learns the same at the same step, after a stop too."""

import threading
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.train.batches import batches
from sumzero.train.epoch import Epochs

PAD = 0
ROWS = [
    {
        "id": n,
        "document": f"{n % 29} " + "the cat sat. " * (n % 29),
        "question": "who? " * (1 + n % 5),
        "target": [f"a {n} {k}. " * (1 + n * (k + 3) % 8) for k in range(1 + n % 3)],
    }
    for n in range(40)
]
SOURCE = {"task": "answer", "instruction": "question", "weight": 1.5}


@pytest.fixture(scope="module", params=["token", "target"])
def epochs(request, prepared):
    """Two and a half epochs of documents with questions and references; the last step is short."""
    training = {"bins_per_step": 5, "epochs": 2.5, "loss_weight": request.param}
    run = prepared(ROWS, source=SOURCE, max_length=400, training=training)
    return run.epochs()


def _feed(epochs, rank, world, start, stop, loss_weight):
    return batches(
        epochs,
        rank=rank,
        world=world,
        start=start,
        stop=stop,
        pad_id=PAD,
        loss_weight=loss_weight,
    )


def _is_empty(batch):
    return len(batch.labels) == 0


def _learnt(epochs, world, start, stop):
    """By step, what the bins of all ranks hold, with the step's own counts."""
    loss_weight = epochs.config.train.loss_weight
    found = defaultdict(Counter)
    for rank in range(world):
        steps = range(start, stop)
        fed = _feed(epochs, rank, world, start, stop, loss_weight)
        for want, (step, work) in zip(steps, fed, strict=True):
            assert step == want
            assert len(work.batches) == epochs.num_micro_steps(world)
            for batch in work.batches:
                if _is_empty(batch):
                    assert batch.input_ids.tolist() == [[PAD]]
                    continue
                held = (batch.input_ids, batch.position_ids, batch.labels, batch.weights)
                found[step][tuple(tuple(x.flatten().tolist()) for x in held)] += 1
            found[step]["counts", work.weight, work.tokens] += 1
    for counts in found.values():  # all ranks divide by the same
        (key,) = (key for key in counts if key[0] == "counts")
        assert counts[key] == world
        counts[key] = 1
    return found


@pytest.fixture(scope="module")
def alone(epochs):
    """What one rank learns in a run without a stop."""
    return _learnt(epochs, 1, 0, epochs.num_steps)


def test_the_run_has_what_the_tests_claim(epochs, alone):
    plans = [epochs.epoch(number).plan for number in range(3)]
    assert any(plan.num_bins % 5 for plan in plans)
    assert len(alone) == epochs.num_steps > plans[0].num_steps + plans[1].num_steps
    assert set(epochs.store.alike.tolist()) == {True, False}
    assert len(epochs.store) == 29


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.floats(0, 1), max_size=2))
def test_stops_and_other_numbers_of_ranks_change_nothing_that_is_learnt(
    epochs, alone, worlds, stops
):
    cuts = sorted(round(stop * epochs.num_steps) for stop in stops)
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, epochs.num_steps], strict=True)):
        found = _learnt(epochs, worlds[number % len(worlds)], start, stop)
        assert found == {step: alone[step] for step in range(start, stop)}


def test_a_fresh_start_feeds_the_same(epochs, alone):
    again = Epochs(epochs.store, epochs.config, 32)
    assert _learnt(again, 2, 5, 9) == {step: alone[step] for step in range(5, 9)}


def test_the_weight_of_a_step_is_that_of_its_batches(epochs):
    loss_weight = epochs.config.train.loss_weight
    for world in (1, 3):
        ranks = [
            list(_feed(epochs, rank, world, 0, epochs.num_steps, loss_weight))
            for rank in range(world)
        ]
        for of_step in zip(*ranks, strict=True):
            made = [batch for _, work in of_step for batch in work.batches]
            first = of_step[0][1]
            weight = sum(float(batch.weights.double().sum()) for batch in made)
            assert first.weight == pytest.approx(weight, rel=1e-5)
            full = [batch for batch in made if not _is_empty(batch)]
            assert first.tokens == sum(batch.input_ids.shape[1] for batch in full)


def test_every_target_is_learnt_once_an_epoch(prepared):
    run = prepared(ROWS, source={**SOURCE, "weight": 1.0}, max_length=400)
    epochs, learnt = run.epochs(), Counter()
    stop = epochs.epoch(0).plan.num_steps
    for _, work in _feed(epochs, 0, 1, 0, stop, "token"):
        for batch in work.batches:
            learnt.update(batch.labels.tolist())
    texts = [text.strip() for row in ROWS for text in dict.fromkeys(row["target"])]
    assert learnt == Counter(chain(*run.renderer.encode_targets(texts)))


def test_a_fault_of_the_thread_is_raised_where_batches_are_asked_for(epochs):
    data = replace(epochs.config.data, max_length=50)  # less than the store was made for
    other = Epochs(epochs.store, replace(epochs.config, data=data), 32)
    with pytest.raises(ValueError, match="lengths must lie between 1 and 50"):
        next(_feed(other, 0, 1, 0, 1, "token"))
    assert not _threads()


def test_no_thread_is_left_when_the_feed_is_closed_early(epochs):
    feed = _feed(epochs, 0, 1, 0, epochs.num_steps, "token")
    next(feed)
    assert _threads()
    feed.close()
    assert not _threads()


def _threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]
