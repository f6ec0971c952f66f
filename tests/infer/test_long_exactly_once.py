"""`sumzero generate` of long documents killed among their parts, and begun again."""

import json
import signal
import subprocess
import sys

import pytest

from sumzero.infer.generate import generate
from sumzero.infer.table import write_parquet
from sumzero.runfile import load

from .model_run import write_rows
from .served_run import write_run

STORY = "\n\n".join(f"The cat {n} sat on the mat. It was warm, number {n}." for n in range(40))
ROWS = [
    {"id": f"story {n}", "document": STORY.replace("cat", animal)}
    for n, animal in enumerate(("cat", "model", "name", "index", "document", "sentence"))
] + [{"id": "short", "document": "It was warm."}]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("long")
    file = write_run(folder, tokenizer)
    write_rows(folder / "test.jsonl", ROWS)
    (folder / "other" / "run").mkdir(parents=True)
    (folder / "other" / "run" / "export").symlink_to(folder / "runs" / "run" / "export")
    return file


def _killed(run_file, rows, *options):
    """The folder of a generation that was killed when so many of its rows were there."""
    argv = [sys.executable, "-m", "sumzero.cli", "generate", str(run_file), *options]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            files = list((run_file.parent / "other" / "run").glob("generations/*/shard-*.jsonl"))
            if files and files[0].read_bytes().count(b"\n") >= rows:
                process.kill()
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        said = process.stderr.read().decode()
    assert process.returncode == -signal.SIGKILL, said
    return files[0].parent


def _read(file):
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def test_parts_that_were_made_are_not_made_again_and_the_end_is_the_same(run_file):
    long = ("generate.long=map_reduce", "generate.max_in_flight=4")
    other = f'runs="{run_file.parent}/other"'
    whole = generate(load(run_file, long))
    parts = _read(whole.folder / "shard-00000-of-00001.jsonl")
    assert len(parts) > 40
    where = _killed(run_file, 20, *long, other)
    assert not (where / "merged.jsonl").exists()
    before = (where / "shard-00000-of-00001.jsonl").read_bytes()
    made = generate(load(run_file, [*long, other]))
    assert made.folder == where
    rows = _read(where / "merged.jsonl")
    assert rows == _read(whole.folder / "merged.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert all("tree" in row for row in rows[:-1])
    after = (where / "shard-00000-of-00001.jsonl").read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    ids = sorted(row["id"] for row in _read(where / "shard-00000-of-00001.jsonl"))
    assert ids == sorted(row["id"] for row in parts)
    assert write_parquet(made).is_file()
