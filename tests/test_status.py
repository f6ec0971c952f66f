"""`sumzero status`: what a run is doing, by its events."""

import json

import pytest

from sumzero.cli import main
from sumzero.errors import RunError
from sumzero.runfolder import RunFolder, alone, write_jsonl
from sumzero.status import status, table

START = {"time": 0.0, "event": "start", "step": 0, "steps": 100, "ranks": 2}
STEP = {
    **{"time": 50.0, "event": "step", "step": 10, "loss": 2.5, "tokens_per_second": 4000.0},
    **{"seconds_per_step": 5.0, "mfu": 0.35},
}
SAVED = {"time": 55.0, "event": "checkpoint", "step": 10, "seconds": 0.5}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    return folder


def _of(run, *events, now=60.0):
    write_jsonl(run.root / "events.jsonl", events)
    return status(run, now)


def test_a_running_one_tells_step_rate_and_time_left(run):
    with alone(run.root, "training"):
        found = _of(run, START, STEP, SAVED, now=100_055.0)
    assert found["state"] == "running"
    assert (found["step"], found["steps"], found["seconds_left"]) == (10, 100, 450)
    assert (found["loss"], found["tokens_per_second"], found["mfu"]) == (2.5, 4000.0, 0.35)
    assert (found["checkpoint_step"], found["checkpoint_age"]) == (10, 100_000)
    text = table(found)
    assert "running" in text
    assert "10 of 100 (10.0%), about 8 min left" in text
    assert "4,000 tokens/s, 5.00 s a step, MFU 35.0%, 2 ranks" in text
    assert "step 10, 27.8 h ago" in text


@pytest.mark.parametrize(
    ("events", "now", "state"),
    [
        ([], 0, "not started"),
        ([START, STEP], 100, "running"),  # no lock, but young: a file system without locks
        ([START, STEP], 50 + 151, "stopped"),
        ([START, STEP, {"time": 60, "event": "end", "step": 100}], 1e6, "finished"),
        ([START, STEP, {"time": 60, "event": "preempted", "step": 11}], 1e6, "preempted"),
        ([START, {"time": 9, "event": "stalled", "message": "rank 1 is dead"}], 1e6, "stalled"),
        ([START, {"time": 9, "event": "stalled", "message": "x"}, START, STEP], 60, "running"),
    ],
)
def test_the_state_is_that_of_the_last_attempt(run, events, now, state):
    found = _of(run, *events, now=now)
    assert found["state"] == state
    assert state in table(found)


def test_a_new_attempt_tells_its_own_step_and_a_loss_that_is_no_number_is_not_the_best(run):
    bad = {"time": 9.0, "event": "evaluation", "step": 5, "loss": None}
    good = {"time": 9.0, "event": "evaluation", "step": 8, "loss": 2.0}
    found = _of(run, START, STEP, bad, good, {**START, "step": 8})
    assert (found["step"], found["loss"], found["seconds_left"]) == (8, None, None)
    assert (found["best_step"], found["best_validation_loss"]) == (8, 2.0)
    assert "8 of 100" in table(found)


def test_a_new_attempt_that_loads_is_starting(run):
    preempted = {"time": 60.0, "event": "preempted", "step": 11}
    with alone(run.root, "training"):
        assert _of(run, START, STEP, preempted)["state"] == "starting"


def test_steps_that_were_run_again_count_once(run):
    skipped = {"time": 9.0, "event": "skipped", "step": 7, "records": ["a"]}
    spike = {"time": 9.0, "event": "spike", "step": 8, "records": ["b"]}
    evaluations = [
        {"time": 9.0, "event": "evaluation", "step": step, "loss": loss}
        for step, loss in [(5, 3.0), (10, 2.0), (15, 2.2)]
    ]
    found = _of(run, START, skipped, spike, START, skipped, *evaluations, STEP)
    assert (found["skipped_steps"], found["spikes"]) == (1, 1)
    assert (found["validation_loss"], found["best_validation_loss"]) == (2.2, 2.0)
    assert "2.2000; best 2.0000 at step 10" in table(found)


def test_the_command_prints_json_or_says_there_is_no_run(tmp_path, capsys, run):
    (run.root / "config.toml").write_text('name = "run"\n')
    write_jsonl(run.root / "events.jsonl", [START, STEP])
    assert main(["status", str(run.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 10
    assert main(["status", str(tmp_path / "absent")]) == 2
    assert "sumzero: " in capsys.readouterr().err
    with pytest.raises(RunError, match="no such run"):
        status(RunFolder(tmp_path / "absent"))
