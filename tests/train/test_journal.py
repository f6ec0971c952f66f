"""Where figures go; whole trainings are in test_loop.py."""

import json
import math

import pytest

from sumzero.ranks import Ranks
from sumzero.runfile import check
from sumzero.runfolder import RunFolder
from sumzero.train.journal import Journal

RATES = {"tokens_per_second": 10.0, "mfu": None}


@pytest.fixture
def run(tmp_path):
    config = check({"name": "run", "runs": str(tmp_path), "train": {"wandb": "sums"}}, "run.toml")
    folder = RunFolder.of(config)
    folder.root.mkdir()
    return config, folder


def test_other_ranks_than_0_write_nothing(run):
    config, folder = run
    journal = Journal(config, folder, Ranks(1, 2), 0, 8)
    journal.event("start", step=0)
    journal.step(1, loss=1.0, **RATES)
    journal.evaluation(1, {"loss": 1.0})
    journal.advance()
    journal.close()
    assert list(folder.root.iterdir()) == []


def test_what_is_not_finite_is_null_so_that_any_json_reader_takes_it(run):
    _, folder = run
    folder.events.write("spike", step=3, loss=math.inf, mean=math.nan)
    line = (folder.root / "events.jsonl").read_text()
    found = json.loads(line, parse_constant=pytest.fail)
    assert (found["loss"], found["mean"], found["step"]) == (None, None, 3)


def test_weights_and_biases_gets_the_same_figures(run, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config, folder = run
    journal = Journal(config, folder, Ranks(), 0, 8)
    journal.step(1, loss=1.5, **RATES)
    summary = journal._wandb.summary
    journal.close()
    assert summary["train/loss"] == 1.5
