"""Signals and the clock end a run in time: it is saved, and exact when it goes on."""

import signal

import pytest

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train import checkpoint

STEPS = 120  # so many that a signal comes before the last


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("preempt")
    held_out = f'validation.path = "{folder}/held_out.jsonl"'
    return tiny_run(folder, more=held_out, max_steps=STEPS, log_every=3)


def _prepared(run_file, name):
    config = load(run_file, [f"name={name}"])
    prepare(config)
    return RunFolder.of(config)


def _name(step):
    return f"step-{step:06d}"


def _events(folder, kind):
    return [x for x in read_jsonl(folder.root / "events.jsonl") if x["event"] == kind]


def _losses(folder):
    keys = ("loss", "gradient_norm", "lr")
    return {x["step"]: [x[key] for key in keys] for x in _events(folder, "step")}


@pytest.fixture(scope="module")
def whole(run_file, forks):
    folder = _prepared(run_file, "whole")
    forks.train(run_file, "name=whole", ranks=2)
    return folder


def test_a_signal_to_one_rank_saves_on_all(run_file, whole, start_ranks, forks):
    folder = _prepared(run_file, "signals")
    for attempt, (number, rank) in enumerate([(signal.SIGTERM, 1), (signal.SIGUSR1, 0)]):
        logged = len(_events(folder, "step"))
        launched = start_ranks(2, run_file, "name=signals")
        launched.until(lambda logged=logged: len(_events(folder, "step")) > logged)
        launched.processes[rank].send_signal(number)
        assert launched.codes() == [75, 75]
        assert f"{number.name}: the run is saved" in launched.said()
        preempted = _events(folder, "preempted")[attempt]
        assert checkpoint.newest(folder.checkpoints) == _name(preempted["step"])
        assert 3 <= preempted["step"] < STEPS

    forks.train(run_file, "name=signals", ranks=2)
    assert _losses(folder) == _losses(whole)  # though it was stopped between log lines
    assert _events(folder, "end")[0]["step"] == STEPS


def test_the_clock_ends_a_run_in_time_and_asks_for_checkpoints(run_file, forks):
    folder = _prepared(run_file, "clock")
    few = ["name=clock", "train.max_steps=30"]
    ends = [*few, "train.eval_every=1", "train.max_minutes=0.0001"]
    forks.train(run_file, *ends, expect=75)
    assert [x["step"] for x in _events(folder, "preempted")] == [1]
    assert checkpoint.newest(folder.checkpoints) == _name(1)
    assert not _events(folder, "evaluation")  # it is owed: there was no time for it

    saves = [*few, "train.eval_every=10", "train.save_minutes=0.000001"]
    forks.train(run_file, *saves)
    assert [x["step"] for x in _events(folder, "evaluation")] == [1, 10, 20, 30]
    found = [x["step"] for x in _events(folder, "checkpoint")]
    assert found == [1, 1, *range(2, 31)]  # the first one again, as the best so far
