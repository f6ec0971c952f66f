import json
import os
from pathlib import Path

import pytest
import torch

from sumzero.errors import RunError
from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train import checkpoint
from sumzero.train.engine import consolidated_weights

STEPS = 8


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("resume")
    data = folder / "train.jsonl"
    with data.open("w") as out:
        for index in range(40):
            words = [f"word{(index * 7 + k) % 23}" for k in range(5 + index % 11)]
            row = {"id": index, "document": " ".join(words), "target": f"{words[0]} {words[-1]}."}
            out.write(json.dumps(row) + "\n")
    file = folder / "run.toml"
    file.write_text(f"""
        runs = "{folder}/runs"
        [model]
        path = "{model_folder}"
        dtype = "float32"
        [data]
        train.path = "{data}"
        max_length = 128
        instruction = "Sum up."
        [train]
        bins_per_step = 2
        epochs = 20
        max_steps = {STEPS}
        lr = 1e-3
        save_every = 2
        log_every = 1
    """)
    return file


def _run(run_file, name):
    config = load(run_file, [f"name={name}"])
    prepare(config)
    return RunFolder.of(config)


def _steps(folder):
    events = read_jsonl(folder.root / "events.jsonl")
    return [event for event in events if event["event"] == "step"]


def test_a_killed_run_resumes_to_the_same_bits(run_file, launch, kill_after):
    whole = _run(run_file, "whole")
    launch(2, run_file, "name=whole")
    killed = _run(run_file, "killed")
    kill_after(lambda: len(_steps(killed)) >= 5, 2, run_file, "name=killed")
    assert checkpoint.newest(killed.checkpoints) == "step-000004"
    launch(2, run_file, "name=killed")

    by_step = {event["step"]: event for event in _steps(killed)}  # the later one counts
    for event in _steps(whole):
        again = by_step[event["step"]]
        for key in ("loss", "gradient_norm", "lr"):
            assert again[key] == event[key], (event["step"], key)
    name = f"step-{STEPS:06d}"
    want = consolidated_weights(whole.checkpoints, name)
    found = consolidated_weights(killed.checkpoints, name)
    assert want.keys() == found.keys()
    for key, value in want.items():
        assert torch.equal(value, found[key]), key
    assert os.readlink(whole.checkpoints / "latest") == name
    assert checkpoint.whole(whole.checkpoints) == [f"step-{STEPS - 2:06d}", name]


def test_other_settings_or_ranks_do_not_resume(run_file, launch, whole_run):
    before = sorted(whole_run.checkpoints.rglob("*"))
    done = launch(2, run_file, "name=whole", "train.lr=0.5", "train.max_steps=9", expect=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("sumzero:")]
    assert len(lines) == 1
    assert "cannot be used: train" in lines[0]
    assert sorted(whole_run.checkpoints.rglob("*")) == before


@pytest.fixture
def whole_run(run_file):
    folder = RunFolder.of(load(run_file, ["name=whole"]))
    assert checkpoint.newest(folder.checkpoints), "runs after the test that trains it"
    return folder


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


def test_a_checkpoint_of_other_data_is_refused():
    with pytest.raises(RunError, match=r"plan \(a -> b\) changed"):
        checkpoint.check_resumable({"plan": "a"}, {"plan": "b"}, Path("checkpoints/step-000002"))
