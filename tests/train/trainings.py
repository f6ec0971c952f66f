"""Trainings in forks of one process that has imported everything: a second or two for each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl

from .consolidated import consolidated_weights


class Forks:
    """The process whose forks train, whatever run file they are given."""

    def __init__(self, folder):
        self._log = folder / "training.log"
        quiet = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forked_trainings.py")],
            env={**os.environ, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        assert self._server.wait(timeout=60) == 0

    def start(self, *arguments, **how):
        """How a training ended: {"codes", "seconds", "log"}; `how` is told in the program."""
        self._log.write_text("")
        command = {"arguments": [str(x) for x in arguments], "log": str(self._log), **how}
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return {**json.loads(self._server.stdout.readline()), "log": self._log.read_text()}

    def train(self, *arguments, expect=0, **how):
        """The same; fails where a rank ends with another code than `expect`, a killed one -9."""
        done = self.start(*arguments, **how)
        assert expect is None or set(done["codes"]) == {expect}, done["log"][-3000:]
        return done


class Trainings:
    """Starts trainings of a run file; runs are copies of one that was prepared."""

    def __init__(self, folder, model_folder, forks):
        self.folder = folder
        self.start = forks.start
        self._train = forks.train
        self.file = folder / "run.toml"
        self.file.write_text(f"""
            runs = "{folder}/runs"
            [model]
            path = "{model_folder}"
            dtype = "float32"
            [data]
            train.path = "{self.rows(40)}"
            max_length = 128
            instruction = "Sum up."
            [train]
            bins_per_step = 4
            epochs = 20
            max_steps = 12
            lr = 1e-3
            weight_decay = 0.1
            save_every = 2
            log_every = 1
        """)
        prepare(load(self.file, ["name=prepared"]), 1)

    def rows(self, number):
        """A file of so many records."""
        file = self.folder / f"{number}.jsonl"
        with file.open("w") as out:
            for index in range(number):
                words = [f"word{(index * 7 + k) % 23}" for k in range(5 + index % 11)]
                target = f"{words[0]} {words[-1]}."
                row = {"id": index, "document": " ".join(words), "target": target}
                out.write(json.dumps(row) + "\n")
        return file

    def run(self, name):
        """A run by its name, whether it is there or not."""
        return RunFolder(self.folder / "runs" / name.replace(" ", "-").replace("*", "x"))

    def new(self, name, *overrides):
        """A run that was prepared, by itself where it has other settings, and not trained."""
        run = self.run(name)
        if overrides:
            prepare(load(self.file, [f"name={run.root.name}", *overrides]), 1)
        else:
            shutil.copytree(self.folder / "runs" / "prepared", run.root)
        return run

    def train(self, run, *overrides, **how):
        """Trains a run; fails where it ends with another code than `expect`, see Forks."""
        return self._train(self.file, f"name={run.root.name}", *overrides, **how)


def steps(run):
    """What was logged of each step; of a step that was made again, the later time."""
    events = read_jsonl(run.root / "events.jsonl")
    logged = {event["step"]: event for event in events if event["event"] == "step"}
    keys = ("loss", "gradient_norm", "lr")
    return {step: tuple(event[key] for key in keys) for step, event in sorted(logged.items())}


def weights(run, name):
    return consolidated_weights(run.checkpoints, name)


def assert_same_run(run, other, last):
    """The same losses, gradient norms and rates in every step, the same weights: bit for bit."""
    assert steps(run) == steps(other)
    found, want = weights(run, last), weights(other, last)
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert torch.equal(found[key], value), key
