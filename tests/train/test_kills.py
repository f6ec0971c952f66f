"""Trainings killed by SIGKILL, at random moments and between any two changes of the disk."""

import os
import random
from itertools import count

import pytest

from sumzero.train import checkpoint
from sumzero.train.manifest import content_fault, sizes_fault

from .trainings import assert_same_run

STEPS = 12
LAST = f"step-{STEPS:06d}"


@pytest.fixture(scope="module")
def whole(trainings):
    """A run that was never stopped, by its number of ranks; and the seconds it took."""
    runs = {}

    def run(ranks=1):
        if ranks not in runs:
            made = trainings.new(f"whole-{ranks}")
            runs[ranks] = made, trainings.train(made, ranks=ranks)["seconds"]
        return runs[ranks]

    return run


def whole_checkpoints(run):
    """Names of the checkpoints that are there, every one of which must be whole."""
    names = checkpoint.whole(run.checkpoints)
    for name in names:
        state = checkpoint.read_state(run.checkpoints, name)
        folder = run.checkpoints / name
        assert sizes_fault(folder, state) is None
        assert content_fault(folder, state, 0, 1) is None
    return names


def killed_at_random(trainings, whole, kills, *overrides, seed, name, ranks=1):
    """Kills trainings until so many were killed; each that ends must be the one never stopped."""
    want, seconds = whole(ranks)
    choose = random.Random(seed)
    killed, numbers = 0, count()
    run = trainings.new(f"{name}-{next(numbers)}")
    newest = 0
    while killed < kills:
        done = trainings.train(
            run,
            *overrides,
            ranks=ranks,
            kill_after=choose.uniform(0.1, seconds),
            expect=None,
        )
        assert -9 in done["codes"] or set(done["codes"]) == {0}, done["log"][-3000:]
        if set(done["codes"]) == {0}:
            assert_same_run(run, want, LAST)
            run, newest = trainings.new(f"{name}-{next(numbers)}"), 0
            continue
        killed += 1
        names = whole_checkpoints(run)
        before, newest = newest, checkpoint.step_of(names[-1]) if names else 0
        assert newest >= before  # nothing that was whole is lost
    trainings.train(run, *overrides, ranks=ranks)
    assert_same_run(run, want, LAST)


def test_runs_killed_at_random_moments_resume_to_the_same_bits(trainings, whole):
    killed_at_random(trainings, whole, 10, seed=1, name="random")


def test_so_do_two_ranks(trainings, whole):
    killed_at_random(trainings, whole, 3, seed=2, name="two", ranks=2)


def test_so_do_those_that_save_while_they_train(trainings, whole):
    asynchronous = "train.save_async=true"
    killed_at_random(trainings, whole, 3, asynchronous, seed=3, name="async", ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "seed"), [("false", 4), ("true", 5)])
def test_fifty_random_kills(trainings, whole, mode, seed):
    asynchronous = f"train.save_async={mode}"
    killed_at_random(trainings, whole, 50, asynchronous, seed=seed, name=f"fifty-{mode}")


@pytest.mark.parametrize(("ranks", "killed", "changes"), [(1, 0, range(1, 20)), (2, 1, (2, 3, 4))])
def test_a_kill_between_any_two_changes_of_the_disk_leaves_the_checkpoint_before(
    trainings, whole, ranks, killed, changes
):
    want, _ = whole(ranks)
    numbers = count()
    run, newest = trainings.new(f"changes-{ranks}-{next(numbers)}"), 0
    for change in changes:
        how = {"ranks": ranks, "kill_at": change, "kill_rank": killed}
        done = trainings.train(run, "train.keep_last=1", expect=None, **how)
        if set(done["codes"]) == {0}:  # not that many changes were left to make
            assert_same_run(run, want, LAST)
            run, newest = trainings.new(f"changes-{ranks}-{next(numbers)}"), 0
            continue
        assert done["codes"][killed] == -9, done["log"][-3000:]
        names = whole_checkpoints(run)
        assert not newest or names
        before, newest = newest, checkpoint.step_of(names[-1]) if names else 0
        assert newest >= before
        link = run.checkpoints / "latest"
        if link.is_symlink():
            assert os.readlink(link) in names
    trainings.train(run, ranks=ranks)
    assert_same_run(run, want, LAST)
