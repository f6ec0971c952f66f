"""The shell of slurm/: what shellcheck says, and a command without a run file."""

import shutil
import subprocess

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
