"""Small runs for the cluster: prepared once, copied for each test, submitted as a user does."""

import json
import os
import shutil
import sys
from pathlib import Path

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl

SCRIPTS = Path(__file__).parents[2] / "slurm"


class Runs:
    """Trainings of a tiny float32 model; `folder` is where the user stands."""

    def __init__(self, cluster, folder, model_folder):
        self.cluster, self.folder = cluster, folder
        rows = []
        for index in range(40):
            words = [f"word{(index * 7 + k) % 23}" for k in range(5 + index % 11)]
            rows.append({"id": index, "document": " ".join(words), "target": f"{words[0]}."})
        write_rows(folder / "rows.jsonl", rows)
        self.file = folder / "run.toml"
        self.file.write_text(f"""
            [model]
            path = {json.dumps(str(model_folder))}
            dtype = "float32"
            [data]
            train.path = "rows.jsonl"
            max_length = 128
            instruction = "Sum up."
            [train]
            bins_per_step = 4
            epochs = 1000
            max_steps = 100
            lr = 1e-3
            save_every = 1000
            log_every = 1
        """)
        before = Path.cwd()
        os.chdir(folder)
        try:
            prepare(load(self.file, ["name=prepared"]), 1)
        finally:
            os.chdir(before)

    def new(self, name):
        """A prepared run."""
        run = RunFolder(self.folder / "runs" / name)
        shutil.copytree(self.folder / "runs" / "prepared", run.root)
        return run

    @property
    def environment(self):
        """The user's, on the login node."""
        environment = self.cluster.environment
        venv = Path(sys.executable).parent
        return environment | {
            "PATH": f"{venv}{os.pathsep}{environment['PATH']}",
            "SUMZERO_SLURM": str(SCRIPTS),
            "DS_ACCELERATOR": "cpu",
            "PYTHONWARNINGS": "ignore",
        }

    def sumzero(self, *arguments, code=0, **more):
        """What a command of the user's prints on stdout and stderr; it ends with `code`."""
        argv = [sys.executable, "-m", "sumzero.cli", *map(str, arguments)]
        options = {"cwd": self.folder, "env": self.environment} | more
        done = self.cluster.run(argv, check=False, timeout=120, **options)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sbatch(self, script, *arguments):
        """The number of the job that a command of the user's made."""
        environment = self.environment
        options = [x for x in arguments if str(x).startswith("--")]
        rest = [x for x in arguments if x not in options]
        given = ["sbatch", "--parsable", *options, SCRIPTS / script, *rest]
        done = self.cluster.run([str(x) for x in given], cwd=self.folder, env=environment)
        return int(done.stdout)

    def train(self, run, *arguments):
        """The job of a training on a core of each of two nodes."""
        shape = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
        name = f"name={run.root.name}"
        return self.sbatch("train.sbatch", *shape, self.file, name, *arguments)

    def log(self, job):
        """What a job has printed so far."""
        file = self.folder / f"sumzero-train-{job}.log"
        return file.read_text(errors="replace") if file.is_file() else ""


def write_rows(file, rows):
    """As JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def events(run, kind):
    """Those of a run's events, in their order."""
    return [x for x in read_jsonl(run.root / "events.jsonl") if x["event"] == kind]


def steps(run):
    """What was logged of each step, the last time it was made."""
    keys = ("loss", "gradient_norm", "lr")
    return {x["step"]: [x[key] for key in keys] for x in events(run, "step")}
