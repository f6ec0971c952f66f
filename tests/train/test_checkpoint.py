"""Checkpoints that cannot be written or must not be used; which are kept. Kills: test_kills.py."""

import shutil

import pytest

from sumzero.cli import main
from sumzero.config import Scratch
from sumzero.errors import RunError
from sumzero.train import checkpoint
from sumzero.train.scratch import initial_model
from sumzero.train.universal import needs_conversion

from .forked_trainings import NOT_PERMITTED
from .trainings import assert_same_run

STEPS = 12
LAST = f"step-{STEPS:06d}"
OTHER_SHAPE = Scratch(
    **{"vocab_size": 600, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
    **{"num_kv_heads": 1, "intermediate_size": 80},
)


@pytest.fixture(scope="module")
def whole(trainings):
    """A run that was never stopped."""
    run = trainings.new("whole")
    trainings.train(run)
    return run


@pytest.fixture(scope="module")
def stopped(trainings, whole):
    """A copy of a run that was stopped in a save, with the checkpoints step-000002 and -000004."""
    run = trainings.new("stopped")
    trainings.train(run, kill_at=30, expect=-9)
    assert checkpoint.whole(run.checkpoints) == ["step-000002", "step-000004"]

    def copy(name):
        made = trainings.run(name)
        shutil.copytree(run.root, made.root, symlinks=True)
        return made

    return copy


def listing(folder):
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): path.stat() for path in found}


def fault(done):
    """The one line of a user's fault."""
    lines = [line for line in done["log"].splitlines() if line.startswith("sumzero: ")]
    assert len(lines) == 1, done["log"][-3000:]
    return lines[0]


def test_a_changed_recipe_is_refused_key_by_key_and_nothing_is_touched(trainings, stopped):
    run = stopped("changed")
    before = listing(run.checkpoints)
    changes = ("train.lr=0.5", "train.betas=[0.8,0.9]", "seed=3", "train.log_every=3")
    said = fault(trainings.train(run, *changes, expect=2))
    assert "step-000004: cannot be used: plan (" in said
    assert "seed (0 -> 3), " in said
    assert "train.lr (0.001 -> 0.5), train.betas ([0.9, 0.95] -> [0.8, 0.9]) changed since" in said
    assert "log_every" not in said
    assert "set back what you changed, or give the run another name" in said
    after = listing(run.checkpoints)
    assert {path: x.st_mtime_ns for path, x in after.items()} == {
        path: x.st_mtime_ns for path, x in before.items() if ".partial" not in str(path)
    }


def test_another_stage_or_data_is_refused(trainings, stopped, tmp_path):
    run = stopped("stage")
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}}')
    said = fault(trainings.train(run, f"train.deepspeed={tmp_path}/zero2.json", expect=2))
    assert "cannot be used: zero_stage (3 -> 2) changed since" in said
    path = f"data.train.path={trainings.rows(41)}"
    other = trainings.new("other data", path)
    shutil.copytree(run.checkpoints, other.checkpoints, symlinks=True)
    said = fault(trainings.train(other, path, expect=2))
    assert "cannot be used: data (" in said


def test_a_model_that_was_replaced_in_its_folder_is_refused(
    trainings, model_folder, tokenizer, tmp_path
):
    model = f"model.path={tmp_path}/model"
    shutil.copytree(model_folder, tmp_path / "model")
    run = trainings.new("replaced", model)
    trainings.train(run, model, kill_at=20, expect=-9)
    initial_model(OTHER_SHAPE, tokenizer, positions=512, seed=0).save_pretrained(tmp_path / "model")
    said = fault(trainings.train(run, model, expect=2))
    assert "step-000002: its 24 trained parameters have other names or shapes than the 24" in said


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(file):
    file.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("*optim_states.pt", flip, "is not what was written (checksum"),
        ("*optim_states.pt", truncate, "bytes in place of"),
        ("*model_states.pt", remove, "is missing"),
        ("sumzero.json", truncate, "sumzero.json is damaged"),
        ("sumzero.json", remove, "sumzero.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    trainings, whole, stopped, name, damage, said
):
    run = stopped(f"{damage.__name__} {name}")
    for file in (run.checkpoints / "step-000004").glob(name):
        damage(file)
    log = trainings.train(run)["log"]
    assert "step-000004: damaged (" in log
    assert said in log
    assert "resumed at step 2" in log
    assert_same_run(run, whole, LAST)


def test_without_any_whole_checkpoint_training_does_not_begin_again(trainings, stopped):
    run = stopped("all damaged")
    for file in run.checkpoints.glob("step-*/*optim_states.pt"):
        flip(file)
    said = fault(trainings.train(run, expect=2))
    assert "no checkpoint is whole (step-000004: zero_pp_rank_0" in said
    assert "bring one back, or remove the folder to train from the start" in said
    assert checkpoint.whole(run.checkpoints) == ["step-000002", "step-000004"]


def test_a_rank_that_cannot_write_ends_all_ranks(trainings):
    run = trainings.new("cannot write")
    trainings.train(run, ranks=2, kill_at=25, expect=None)
    before = checkpoint.whole(run.checkpoints)
    assert before
    limit = {"limit": 100_000, "limit_rank": 1}  # bytes of a file
    done = trainings.train(run, ranks=2, expect=None, **limit)
    assert done["codes"] == [2, 2]
    assert "not saved (rank 1: " in done["log"]
    assert "optim_states.pt: File too large); the checkpoints before it are as" in done["log"]
    assert checkpoint.whole(run.checkpoints) == before
    assert not list(run.checkpoints.glob("*.partial"))


@pytest.mark.parametrize("how", ["false", "true"])
def test_a_full_disk_is_one_line_and_gets_its_room_back(trainings, stopped, how):
    run = stopped(f"full {how}")
    on_disk = {"disk": str(run.checkpoints), "size": 1200}  # KiB: no room for a third one
    done = trainings.train(run, f"train.save_async={how}", expect=None, **on_disk)
    if done["codes"] == [NOT_PERMITTED]:
        pytest.skip("mounting is not permitted here")
    assert done["codes"] == [2], done["log"][-3000:]
    assert "No space left on device); the checkpoints before it are as they were" in fault(done)
    left = done["log"].split("left: ")[1].split()
    assert {path.split("/")[0] for path in left} == {"latest", "step-000002", "step-000004"}


def test_a_disk_that_is_full_at_the_manifest_gets_its_room_back(trainings, stopped):
    run = stopped("full manifest")
    said = fault(trainings.train(run, expect=2, full_at="step-000006.partial/sumzero.json.partial"))
    assert "No space left on device; nothing half-written was kept" in said
    left = {path.name for path in run.checkpoints.iterdir()}
    assert left == {"latest", "step-000002", "step-000004"}


def test_a_folder_that_cannot_be_written_to_is_one_line(trainings, stopped):
    run = stopped("read-only")
    done = trainings.train(run, expect=None, disk=str(run.checkpoints), size=0)
    if done["codes"] == [NOT_PERMITTED]:
        pytest.skip("mounting is not permitted here")
    assert done["codes"] == [2], done["log"][-3000:]
    assert "Read-only file system; choose another folder with runs=PATH" in fault(done)


def test_the_newest_the_best_multiples_and_what_links_name_are_kept(trainings, stopped):
    run = stopped("kept")
    checkpoint.point(run.checkpoints, "best", "step-000002")
    checkpoint.point(run.checkpoints, "best-rouge", "step-000004")
    assert checkpoint.resolve(run.checkpoints, "best-rouge") == "step-000004"
    trainings.train(run, "train.keep_last=1", "train.keep_every=8", "train.save_every=1")
    kept = [checkpoint.step_of(name) for name in checkpoint.whole(run.checkpoints)]
    assert kept == [2, 4, 8, 12]
    assert (run.checkpoints / "latest").readlink().name == LAST


def test_an_old_checkpoint_that_cannot_be_removed_yet_stays_and_training_goes_on(
    trainings, whole, stopped
):
    run = stopped("busy")
    (run.checkpoints / "step-000002" / "read").mkdir()
    busy = {"disk": str(run.checkpoints / "step-000002" / "read"), "size": 4}  # mounted there
    done = trainings.train(run, "train.keep_last=1", expect=None, **busy)
    if done["codes"] == [NOT_PERMITTED]:
        pytest.skip("mounting is not permitted here")
    assert done["codes"] == [0], done["log"][-3000:]
    assert "step-000002.partial: cannot be removed yet (Device or resource busy)" in done["log"]
    assert checkpoint.whole(run.checkpoints) == [LAST]
    assert_same_run(run, whole, LAST)


def test_a_checkpoint_is_converted_beforehand(trainings, stopped, capsys):
    run = stopped("converted")
    run_file = str(trainings.file)
    for name, code, said in (
        (
            "step-000003",
            2,
            "no whole checkpoint step-000003 (there: step-000002, step-000004, latest)",
        ),
        ("step-000004", 0, "universal/step-000004"),
    ):
        arguments = ("--checkpoint", name, "--workers", "2", "name=converted")
        assert main(["convert", run_file, *arguments]) == code
        assert said in "".join(capsys.readouterr())
    log = trainings.train(run, ranks=2)["log"]
    assert "converting" not in log
    assert "resumed at step 4" in log
    assert not (run.checkpoints / "universal").exists()


def test_an_optimizer_on_nvme_is_loaded_only_as_it_was_saved(tmp_path):
    memory = {"ranks": 2, "optimizer": "memory"}
    nvme = {"ranks": 2, "optimizer": "NVMe"}
    assert not needs_conversion({"checkpoint": {"layout": nvme}}, nvme, tmp_path)
    with pytest.raises(RunError, match="its optimizer lies on NVMe, which cannot be converted"):
        needs_conversion({"checkpoint": {"layout": nvme}}, {**nvme, "ranks": 3}, tmp_path)
    with pytest.raises(RunError, match="cannot load a converted checkpoint into an optimizer on"):
        needs_conversion({"checkpoint": {"layout": memory}}, nvme, tmp_path)


def test_a_checkpoint_without_its_state_does_not_count(tmp_path):
    for name in ("step-000002", "step-000004", "step-000006.partial", "step-1000000"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000002" / "sumzero.json").write_text('{"step": 2}')
    (tmp_path / "step-000006.partial" / "sumzero.json").write_text('{"step": 6}')
    assert checkpoint.newest(tmp_path) == "step-000002"
    for name in ("step-999999", "step-1000000"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "sumzero.json").write_text('{"step": 1}')
    assert checkpoint.whole(tmp_path) == ["step-000002", "step-999999", "step-1000000"]
    assert checkpoint.newest(tmp_path / "absent") is None
