"""Whole trainings, as a user starts them: what they log, when they stop, what they refuse."""

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.status import status
from sumzero.train import checkpoint

STEPS = 8


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("loop")
    held_out = f'validation.path = "{folder}/held_out.jsonl"'
    return tiny_run(folder, more=held_out, max_steps=STEPS, log_every=2, lr=1e-2)


def _prepared(run_file, name):
    config = load(run_file, [f"name={name}"])
    prepare(config)
    return RunFolder.of(config)


def _name(step):
    return f"step-{step:06d}"


def _events(folder, kind):
    return [x for x in read_jsonl(folder.root / "events.jsonl") if x["event"] == kind]


def said(done):
    """The lines in which a user is told what is wrong."""
    return [line for line in done["log"].splitlines() if line.startswith("sumzero:")]


@pytest.fixture(scope="module")
def trained(run_file, launch):
    folder = _prepared(run_file, "trained")
    launch(2, run_file, "name=trained", "train.eval_every=2", "train.peak_tflops=0.1")
    return folder


def test_losses_are_logged_and_evaluated_where_it_was_asked_for(trained):
    steps = _events(trained, "step")
    assert [x["step"] for x in steps] == [2, 4, 6, 8]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(0 < x["mfu"] < 1 and x["seconds_per_step"] > 0 for x in steps)
    evaluations = _events(trained, "evaluation")
    assert [x["step"] for x in evaluations] == [2, 4, 6, 8]
    assert all(x["loss"] == pytest.approx(x["summarize"]) for x in evaluations)
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]


def test_the_best_checkpoint_is_the_one_with_the_best_evaluation(trained):
    best = min(_events(trained, "evaluation"), key=lambda event: event["loss"])
    assert os.readlink(trained.checkpoints / "best") == _name(best["step"])
    assert os.readlink(trained.checkpoints / "best") in checkpoint.whole(trained.checkpoints)


def test_tensorboard_has_what_events_have(trained):
    board = EventAccumulator(str(trained.tensorboard)).Reload()
    for event in _events(trained, "step"):
        for key in ("loss", "lr", "gradient_norm", "tokens_per_second"):
            found = {x.step: x.value for x in board.Scalars(f"train/{key}")}
            assert found[event["step"]] == pytest.approx(event[key], rel=1e-6)
    found = {x.step: x.value for x in board.Scalars("validation/loss")}
    assert found.keys() == {2, 4, 6, 8}


def test_status_says_it_is_finished(trained):
    found = status(trained)
    assert (found["state"], found["step"], found["steps"]) == ("finished", STEPS, STEPS)
    assert found["checkpoint_step"] == STEPS


def test_a_kill_after_the_last_save_is_mended(trained, run_file, forks):
    best = os.readlink(trained.checkpoints / "best")
    (trained.checkpoints / "best").unlink()
    checkpoint.point(trained.checkpoints, "latest", checkpoint.whole(trained.checkpoints)[0])
    file = trained.root / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"end"' not in line))
    assert status(trained)["state"] != "finished"
    forks.train(run_file, "name=trained", ranks=2)
    assert os.readlink(trained.checkpoints / "best") == best
    assert os.readlink(trained.checkpoints / "latest") == _name(STEPS)
    assert status(trained)["state"] == "finished"


def test_a_run_whose_evaluations_do_not_improve_stops_early_and_stays_so(run_file, forks):
    folder = _prepared(run_file, "early")
    # Steps too small to change a float32 weight: every evaluation is the same.
    options = ["name=early", "train.lr=1e-30", "train.eval_every=1", "train.early_stop=2"]
    options.append("train.log_every=5")
    first = forks.train(run_file, *options)
    assert [x["step"] for x in _events(folder, "evaluation")] == [1, 2, 3]
    assert "ended early at step 3: best validation loss" in first["log"]
    (end,) = _events(folder, "end")  # of all steps, though none was logged
    assert end["seconds"] > 0 < end["tokens_per_second"]
    assert os.readlink(folder.checkpoints / "best") == _name(1)
    assert checkpoint.newest(folder.checkpoints) == _name(3)
    assert "trained already" in forks.train(run_file, *options)["log"]
    assert len(_events(folder, "start")) == 1


def test_steps_that_are_not_finite_are_skipped_and_end_the_run(run_file, forks):
    folder = _prepared(run_file, "skipped")
    done = forks.train(
        *(run_file, "name=skipped", "train.lr=1e30", "train.warmup=0.0"),
        *("train.max_skipped=3", "train.save_every=1"),
        expect=2,
    )
    skipped = _events(folder, "skipped")
    assert [x["step"] for x in skipped] == [2, 3, 4]
    (line,) = said(done)
    assert line.startswith("sumzero: steps 2 to 4: no loss or gradient was finite")
    assert skipped[-1]["records"][0] in line
    ids = {str(index) for index in range(40)}
    assert all(set(x["records"]) <= ids and len(x["records"]) > 1 for x in skipped)
    assert checkpoint.newest(folder.checkpoints) == _name(3)


@pytest.mark.parametrize(
    ("ranks", "override", "told"),
    [
        (2, "train.bins_per_step=1", "train.bins_per_step = 1 for 2 ranks"),
        (1, "train.wandb=sums", "train.wandb: wandb is not installed; pip install wandb"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    run_file, forks, ranks, override, told
):
    folder = _prepared(run_file, "refused")
    before = sorted(folder.root.rglob("*"))
    lines = said(forks.train(run_file, "name=refused", override, ranks=ranks, expect=2))
    assert len(lines) == ranks  # without a launcher nobody ends the second one
    assert all(told in line for line in lines)
    assert sorted(folder.root.rglob("*")) == before


def test_fewer_bins_than_ranks_are_refused(run_file, forks):
    few = run_file.with_name("few.jsonl")
    rows = run_file.with_name("train.jsonl").read_text().splitlines(keepends=True)
    few.write_text("".join(rows[:2]))
    options = ["name=few", f"data.train.path={few}"]
    prepare(load(run_file, options))
    lines = said(forks.train(run_file, *options, ranks=2, expect=2))
    told = "sumzero: data.train: fills 1 bins of 128 tokens for 2 ranks: some would have nothing"
    assert len(lines) == 2
    assert all(line.startswith(told) for line in lines)
