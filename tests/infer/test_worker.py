"""Engines' processes of `sumzero generate`: they end with it, and rows are whole whatever ends."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from transformers import GenerationConfig

from sumzero.errors import RunError
from sumzero.infer.generate import generate
from sumzero.runfile import load

from .served_run import command, promised
from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
DEADLY = "☠"
ROWS = [
    {"id": f"row-{i}", "document": f"The cat {DEADLY if i == 7 else i} sat. " * (1 + i % 5)}
    for i in range(40)
]
ALONE = ("generate.max_in_flight=1",)  # one prompt after the other


@pytest.fixture(scope="module")
def run_file(tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("worker")
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = root / "run.toml"
    file.write_text(f"""
        runs = "{root}/runs"
        [data.test]
        path = "{root}/test.jsonl"
        [generate]
        max_new_tokens = 30
        max_in_flight = 8
        dtype = "float32"
        cpu_kv_cache_gib = 0.1
    """)
    export = root / "runs" / "run" / "export"
    renderer, _ = promised(export, tokenizer)
    write_model(export, tokenizer)
    GenerationConfig(eos_token_id=renderer.stop_ids).save_pretrained(export)
    return file


@pytest.fixture(scope="module")
def wanted(run_file):
    """The texts, by id, of a generation that was left alone."""
    return _texts(generate(load(run_file, ["name=whole", f'runs="{_linked(run_file)}"'])))


def _linked(run_file):
    """Another folder of runs, with the same export."""
    folder = run_file.parent / "others"
    (folder / "whole").mkdir(parents=True)
    (folder / "whole" / "export").symlink_to(run_file.parent / "runs" / "run" / "export")
    return folder


def _texts(generation):
    return {row["id"]: row.get("text", row.get("error")) for row in generation.rows()}


def _started(run_file, *options):
    """A generation by two engines, and their processes."""
    argv = command("generate", run_file, "generate.engines=2", *options)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers = []
    while len(workers) < 2:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
        assert process.poll() is None, process.stderr.read()
        workers = psutil.Process(process.pid).children()
    return process, workers


def _ended(process, workers):
    """The exit code, when all have ended."""
    code = process.wait(30)
    process.stderr.close()
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    return code


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_engines_that_start_end_with_the_process_that_started_them(run_file, number, code):
    process, workers = _started(run_file)
    process.send_signal(number)
    assert _ended(process, workers) == code


def test_killed_with_its_engines_at_work_it_is_finished_by_another_number(run_file, wanted):
    process, workers = _started(run_file, *ALONE)
    rows = run_file.parent / "runs" / "run" / "generations"
    while sum(file.read_bytes().count(b"\n") for file in rows.glob("*/shard-*.jsonl")) < 5:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
        assert process.poll() is None, process.stderr.read()
    process.kill()
    assert _ended(process, workers) == -signal.SIGKILL
    done = generate(load(run_file, [*ALONE]))
    assert _texts(done) == wanted
    assert 5 <= len(ROWS) - done.manifest["rows_made_now"] < len(ROWS)


def test_a_row_that_engines_die_of_is_an_error_row_also_if_they_die_too_often(
    run_file, wanted, tokenizer, monkeypatch
):
    fault = str(Path(__file__).parent / "deadly")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fault, os.environ.get("PYTHONPATH", "")]))
    ids = tokenizer(DEADLY, add_special_tokens=False).input_ids
    monkeypatch.setenv("DEADLY", json.dumps({"raise": ids}))
    monkeypatch.setattr("sumzero.infer.engines.RESTARTS", 1)
    config = load(run_file, ["generate.max_in_flight=4"])
    how = "exit code 1: RuntimeError: an error of the device"
    with pytest.raises(RunError, match=f"engine 0 died: {how}; engines were started again 1 times"):
        generate(config)
    made = generate(config)  # the others; the row itself is not tried again
    assert _texts(made) == wanted | {"row-7": f"the engine dies of this row: {how}"}
    assert made.manifest["errors"] == 1
    assert [row["id"] for row in made.rows()] == [row["id"] for row in ROWS]
