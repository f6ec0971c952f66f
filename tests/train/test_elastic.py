"""A run goes on with another number of ranks: the same batches, and losses equal up to rounding."""

import json
from pathlib import Path

import pytest
import torch

from sumzero.runfolder import read_jsonl
from sumzero.train import checkpoint
from sumzero.train.layout import UNIVERSAL

from .tiny_models import tiny_model
from .trainings import steps, weights

STEPS = 12
LAST = f"step-{STEPS:06d}"
# Ranks add in another order: a few units in the last place of float32, 1.2e-7, at each step.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def zero_files(tmp_path_factory):
    """Of stages 2 and 3; every parameter is split, also those of a tiny model."""
    folder = tmp_path_factory.mktemp("zero")
    files = {}
    for stage in (2, 3):
        zero = {"stage": stage}
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = 0
        files[stage] = folder / f"zero{stage}.json"
        files[stage].write_text(json.dumps({"zero_optimization": zero}))
    return files


def assert_equal_up_to_rounding(found, want):
    assert found.keys() == want.keys()
    for step in want:
        assert found[step] == pytest.approx(want[step], rel=TOLERANCE), step


def vectors_and_matrices(run):
    found = weights(run, LAST)
    for kind in (1, 2):
        yield torch.cat([x.detach().flatten() for x in found.values() if x.ndim == kind])


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_goes_on_with_other_numbers_of_ranks(trainings, zero_files, stage):
    preset = f"train.deepspeed={zero_files[stage]}"
    whole = trainings.new(f"whole-{stage}")
    trainings.train(whole, preset, ranks=2)
    run = trainings.new(f"elastic-{stage}")
    trainings.train(run, preset, ranks=2, kill_at=40, expect=None)
    first = checkpoint.newest(run.checkpoints)
    # Killed while it converts, then while it saves on one rank.
    converting = {"ranks": 1, "kill_in": UNIVERSAL, "expect": -9}
    for change in (2, 100):
        killed = trainings.train(run, preset, kill_at=change, **converting)
        assert f"converting {first} of 2 ranks" in killed["log"]
        assert not (run.checkpoints / UNIVERSAL).exists()
    trainings.train(run, preset, ranks=1, kill_at=20, expect=-9)
    trainings.train(run, preset, ranks=3)
    starts = [e for e in read_jsonl(run.root / "events.jsonl") if e["event"] == "start"]
    assert [e["ranks"] for e in starts] == [2, 1, 3]
    assert 0 < starts[1]["step"] < starts[2]["step"] < STEPS
    assert not list(run.checkpoints.glob(f"{UNIVERSAL}*")), "goes with the next save"

    assert_equal_up_to_rounding(steps(run), steps(whole))
    # Matrices decay, vectors do not, and each group has its own count of steps.
    for found, want in zip(*map(vectors_and_matrices, (run, whole)), strict=True):
        assert float((found - want).norm() / want.norm()) < TOLERANCE


def test_shards_that_are_split_otherwise_are_converted_too(trainings, zero_files, tmp_path):
    preset = f"train.deepspeed={zero_files[3]}"
    other = json.loads(zero_files[3].read_text())
    other["zero_optimization"]["sub_group_size"] = 4000
    (tmp_path / "other.json").write_text(json.dumps(other))
    run = trainings.new("sub-groups")
    trainings.train(run, preset, kill_at=50, expect=-9)
    done = trainings.train(run, f"train.deepspeed={tmp_path}/other.json")
    assert "converting" in done["log"]
    whole = trainings.new("one-group")
    trainings.train(whole, preset)
    found, want = steps(run), steps(whole)
    assert_equal_up_to_rounding(found, want)
    assert [loss for loss, *_ in found.values()] == [loss for loss, *_ in want.values()]


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_go_on_with_other_numbers_of_ranks(trainings, zero_files, tmp_path, stage):
    model = tmp_path / "model"
    tiny_model("qwen3", tie_word_embeddings=True).save_pretrained(model)
    program = str(Path(__file__).with_name("lora_steps.py"))

    def train(name, last, ranks):
        arguments = (tmp_path / name, model, zero_files[stage], last, tmp_path / f"{name}.jsonl")
        done = trainings.start(*arguments, program=program, ranks=ranks)
        assert set(done["codes"]) == {0}, done["log"][-3000:]

    for name, parts in {"whole": [(6, 2)], "elastic": [(2, 2), (4, 1), (6, 3)]}.items():
        for last, ranks in parts:
            train(name, last, ranks)
    whole, elastic = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("whole", "elastic"))
    assert [row["step"] for row in elastic] == [*range(1, 7)]
    for found, want in zip(elastic, whole, strict=True):
        assert found["counted"] == want["counted"]
        for key in ("loss", "norm"):
            assert found[key] == pytest.approx(want[key], rel=1e-5), (key, want["step"])
    assert checkpoint.whole(tmp_path / "elastic") == ["step-000004", "step-000006"]
    assert (tmp_path / "elastic" / "best").readlink().name == "step-000006"
    files = [x for x in (tmp_path / "whole" / "step-000006").iterdir() if x.suffix == ".pt"]
    base = sum(x.stat().st_size for x in model.glob("*.safetensors"))
    assert sum(x.stat().st_size for x in files) < base, "frozen parameters are not saved"
