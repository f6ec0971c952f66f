"""A user with a hostile name, and a whole chain of their jobs: records to scores.

The training is asked to end on its way, goes back into the queue and on; the chain behind it waits
for it. Checkpoints are scored beside it.
"""

import json
import shutil

from sumzero.runfolder import RunFolder

from .runs import Runs, events

NAME = """it's "a" $(touch hacked) `touch hacked` %j; touch hacked & *"""
SMALL = "--sbatch=--cpus-per-task=1"
JOBS = ["prepare", "train", "score-checkpoints", "export", "generate", "score"]


def hostile_user(cluster, folder, model):
    """Runs of a user who stands in a folder with such a name."""
    folder = folder / NAME
    folder.mkdir()
    shutil.copytree(model, folder / "a model")
    runs = Runs(cluster, folder, folder / "a model")
    text = runs.file.read_text().replace("save_every = 1000", "save_every = 40")
    text = text.replace("max_steps = 100", "max_steps = 40")
    rows = 'path = "rows.jsonl"\n'
    runs.file.write_text(
        f"{text}[data.test]\n{rows}[data.validation]\n{rows}"
        "[generate]\nmax_new_tokens = 12\nmax_in_flight = 2\ncpu_kv_cache_gib = 0.1\n"
        "[score]\nbootstrap = 100\n"
    )
    runs.file = runs.file.rename(folder / "my run $(touch hacked).toml")
    return runs


def whole_chain(cluster, runs):
    """(run, jobs, what `submit` has said) of a chain that has ended."""
    argv = ("submit", runs.file, "name=whole", "runs=my runs", "--nodes=2", "--shards=2")
    said = runs.sumzero(*argv, "--score-checkpoints", SMALL)
    run = RunFolder(runs.folder / "my runs" / "whole")
    jobs = submitted(run)
    cluster.until(lambda: len(events(run, "step")) > 3, 120, "it trains")
    cluster.run(["scancel", "--signal=USR1", jobs["train"]])
    cluster.wait(jobs["train"], {"PENDING"}, restarts=1, timeout=60)
    cluster.wait(jobs["score"], {"COMPLETED"}, timeout=600)
    return run, jobs, said


def submitted(run):
    """The numbers of a run's newest jobs by step."""
    return {job["step"]: job["id"] for job in json.loads((run.root / "jobs.json").read_text())}
