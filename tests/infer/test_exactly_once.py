"""`sumzero generate` killed at random moments, and begun again: each input is answered once."""

import json
import random
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from sumzero.infer.generate import generate
from sumzero.runfile import load

SECONDS = re.compile(rb'"seconds": [0-9.e-]+')


@pytest.fixture
def run_file(tmp_path):
    def made(rows):
        with (tmp_path / "test.jsonl").open("w") as out:
            for i in range(rows):
                document = f"Line {i} of the text. " * (1 + i * 7919 % 11)
                out.write(json.dumps({"id": f"row-{i}", "document": document}) + "\n")
        file = tmp_path / "run.toml"
        file.write_text(f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{tmp_path}/test.jsonl"\n')
        return file

    return made


def _bytes_under(folder):
    """What the process has written so far: records, rows and their merge."""
    size = 0
    for file in (*folder.glob("inputs/*"), *folder.glob("generations/*/*")):
        with suppress(FileNotFoundError):  # renamed meanwhile
            size += file.stat().st_size
    return size


def _killed(run_file, folder, at):
    """Whether a generation was killed when it had written so many bytes; else it ended before."""
    argv = [sys.executable, "-m", "sumzero.cli", "generate", str(run_file), "--engine=echo"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            if _bytes_under(folder) >= at:
                process.kill()
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.002)
        said = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    return process.returncode != 0


@pytest.mark.parametrize(
    ("kills", "rows"), [(10, 10_000), pytest.param(50, 40_000, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_and_begun_again_it_is_as_if_nothing_had_been(
    run_file, tmp_path, kills, rows
):
    file = run_file(rows)
    whole = generate(load(file, [f'runs="{tmp_path}/other"']), "echo")
    size = _bytes_under(tmp_path / "other" / "run")
    choose = random.Random(kills)
    moments = sorted(choose.uniform(0, 0.95 * size) for _ in range(kills))
    folder = tmp_path / "runs" / "run"
    killed = sum(_killed(file, folder, at) for at in moments)
    assert killed >= 0.8 * kills
    made = generate(load(file), "echo")
    assert made.folder.name == whole.folder.name
    merged, wanted = (
        SECONDS.sub(b"", (one.folder / "merged.jsonl").read_bytes()) for one in (made, whole)
    )
    assert merged == wanted
