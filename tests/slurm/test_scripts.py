"""The shell of slurm/: what shellcheck says, and a command without a run file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .runs import SCRIPTS


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    files = [*SCRIPTS.glob("*.sbatch"), *SCRIPTS.glob("*.sh")]
    command = ["shellcheck", "--external-sources", *map(str, files)]
    done = subprocess.run(
        command, cwd=SCRIPTS.parent, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout


def test_without_a_run_file_the_usage_is_told():
    done = subprocess.run(
        ["bash", str(SCRIPTS / "train.sbatch")], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch [options] slurm/train.sbatch RUN.toml")


def test_the_scoring_job_takes_which_baselines(tmp_path):
    rows = [{"id": "a", "document": "One is here. Two.", "target": "One."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text('[data.test]\npath = "rows.jsonl"\n')
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SUMZERO_SLURM": str(SCRIPTS),
        "SUMZERO_SYSTEMS": "lead3",  # whose shard is made here
    }
    python = [sys.executable, "-m", "sumzero.cli", "generate", "run.toml"]
    subprocess.run([*python, "--system=lead3", "--shard=0/1"], cwd=tmp_path, check=True)

    def scored(**baselines):
        subprocess.run(
            ["bash", str(SCRIPTS / "score.sbatch"), "run.toml"],
            cwd=tmp_path,
            env={**environment, **baselines},
            check=True,
        )
        return list(json.loads((tmp_path / "runs/run/scores.json").read_text())["systems"])

    assert scored(SUMZERO_BASELINES="") == ["lead3"]
    assert scored() == ["lead1", "lead3"]
    assert (tmp_path / "runs" / "run" / "report.html").is_file()
