"""An evaluation that is broken off by a signal or the clock is made by the next start."""

from pathlib import Path

import pytest

from sumzero.runfolder import read_jsonl
from sumzero.status import status
from sumzero.train import checkpoint

from .trainings import assert_same_run

SIGNALLED = str(Path(__file__).with_name("signalled_evaluation.py"))
STEPS = 12


@pytest.fixture(scope="module")
def settings(trainings):
    return [f"data.validation.path={trainings.rows(20)}", "train.eval_every=6"]


def events(run, kind):
    return [x["step"] for x in read_jsonl(run.root / "events.jsonl") if x["event"] == kind]


@pytest.mark.parametrize(
    ("number", "ranks"), [(1, 1), (2, 2)], ids=["amid the run", "at its last step, of two ranks"]
)
def test_the_run_is_saved_and_the_evaluation_made_up_for(trainings, settings, number, ranks):
    whole = trainings.new(f"whole {ranks}", *settings)
    trainings.train(whole, *settings, ranks=ranks)
    run = trainings.new(f"signalled {ranks}", *settings)
    trainings.train(run, *settings, str(number), ranks=ranks, program=SIGNALLED, expect=75)
    assert events(run, "preempted") == [6 * number]
    assert events(run, "evaluation") == [6, 12][: number - 1]
    assert checkpoint.newest(run.checkpoints) == f"step-{6 * number:06d}"
    assert status(run)["state"] == "preempted"

    trainings.train(run, *settings, ranks=ranks)
    assert events(run, "evaluation") == [6, 12]
    assert events(run, "end") == [STEPS]
    assert status(run)["state"] == "finished"
    assert_same_run(run, whole, f"step-{STEPS:06d}")
    assert (run.checkpoints / "best").readlink() == (whole.checkpoints / "best").readlink()


def test_one_that_ends_the_run_early_when_it_is_made_up_for(trainings, settings):
    # Steps too small to change a float32 weight: every evaluation is the same.
    settings = [*settings[:1], "train.eval_every=3", "train.early_stop=1", "train.lr=1e-30"]
    settings.append("train.save_async=true")
    run = trainings.new("early", *settings)
    trainings.train(run, *settings, "2", program=SIGNALLED, expect=75)
    trainings.train(run, *settings)
    assert events(run, "evaluation") == [3, 6]
    assert events(run, "end") == [6]
    assert status(run)["state"] == "finished"
    assert "trained already" in trainings.train(run, *settings)["log"]
    # More patience is asked for: it goes on.
    more = [x for x in settings if "early_stop" not in x]
    trainings.train(run, *more, "train.early_stop=3")
    assert events(run, "evaluation") == [3, 6, 9, 12]
    assert events(run, "end") == [6, STEPS]


def test_a_limit_that_leaves_no_time_for_one_evaluation_is_refused(trainings, settings):
    run = trainings.new("no time", *settings)
    trainings.train(run, *settings, "1", program=SIGNALLED, expect=75)
    done = trainings.train(run, *settings, "train.max_minutes=0.0001", expect=2)
    assert "sumzero: train.max_minutes = 0.0001: too little for one evaluation" in done["log"]
