"""Preparation: tokens a second beside bare tokenizers and TRL's own preparation, and memory.

The text is the docstrings of the installed packages, joined to documents of about 1,200 tokens; the
tokenizer is byte-level BPE of 32,000 pieces, trained on them.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import ROOT, Results, main

ROWS = 20_000
TRL_ROWS = 4000
MEMORY_ROWS = (10_000, 1_000_000)
RUN = """
runs = "{folder}/runs"
model.path = "{folder}/model"
[data]
max_length = 2048
train.path = "{folder}/{name}.jsonl"
"""


def measure(options: argparse.Namespace, results: Results) -> None:
    """All of it."""
    results.peers += ["trl", "accelerate"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = _texts(2000 if options.quick else 20_000)
        _make_model(folder, texts)
        rows = list(_rows(texts, 600 if options.quick else ROWS))
        _speed(folder, rows, results)
        _memory(folder, texts, results, quick=options.quick)


def _texts(count: int) -> list[str]:
    from sumzero.harvest import harvest

    found = harvest({"train": count}, processes=2)
    return [f"{docstring.document}\n{docstring.target}" for _, docstring in found]


def _make_model(folder: Path, texts: list[str]) -> None:
    from sumzero.config import Scratch
    from sumzero.train.scratch import initial_model, train_tokenizer

    tokenizer = train_tokenizer(iter(texts), 32_000)
    tokenizer.save_pretrained(folder / "model")
    shape = Scratch(hidden_size=32, num_layers=1, intermediate_size=32)
    initial_model(shape, tokenizer, 4096, 0).save_pretrained(folder / "model")


def _rows(texts: list[str], count: int, characters: int = 4800) -> Iterator[dict[str, Any]]:
    """Documents of some texts each, with a short target; the same in every run."""
    choose = random.Random(0)
    for index in range(count):
        document = ""
        while len(document) < characters:
            document += choose.choice(texts) + "\n\n"
        yield {"id": index, "document": document, "target": choose.choice(texts)[:300]}


def _write(file: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")


def _speed(folder: Path, rows: list[dict[str, Any]], results: Results) -> None:
    from transformers import AutoTokenizer

    _write(folder / "speed.jsonl", rows)
    (folder / "speed.toml").write_text(RUN.format(folder=folder, name="speed"), encoding="utf-8")
    ours = _prepared(folder, "speed")
    tokens = ours["tokens"]
    backend = AutoTokenizer.from_pretrained(folder / "model").backend_tokenizer
    texts = [row[key] for row in rows for key in ("document", "target")]
    bare = []
    for _ in range(3):
        begun = time.perf_counter()
        for start in range(0, len(texts), 1000):
            backend.encode_batch(texts[start : start + 1000], add_special_tokens=False)
        bare.append(time.perf_counter() - begun)
    bare_seconds = sorted(bare)[1]
    results.add(
        f"prepare {len(rows)} rows",
        tokens / ours["seconds"],
        "tokens/s",
        peer="tokenizers encode_batch",
        peer_value=tokens / bare_seconds,
        ratio=bare_seconds / ours["seconds"],
        goal="0.9 of bare tokenizers",
        met=bare_seconds / ours["seconds"] >= 0.9,
    )
    # Both on the same rows; fewer, for TRL's sake.
    fewer = rows[:TRL_ROWS]
    _write(folder / "fewer.jsonl", fewer)
    (folder / "fewer.toml").write_text(RUN.format(folder=folder, name="fewer"), encoding="utf-8")
    ours = _prepared(folder, "fewer")
    trl_seconds = _trl(folder, fewer)
    results.add(
        f"prepare {len(fewer)} rows",
        ours["tokens"] / ours["seconds"],
        "tokens/s",
        peer="TRL 1.16, dataset_num_proc=2" + ("" if trl_seconds else ": make peers"),
        peer_value=trl_seconds and ours["tokens"] / trl_seconds,
        ratio=trl_seconds and trl_seconds / ours["seconds"],
        goal="3 times TRL",
        met=trl_seconds and trl_seconds / ours["seconds"] >= 3,
    )


def _trl(folder: Path, rows: list[dict[str, Any]]) -> float | None:
    """Seconds in which TRL makes its training set of the rows: chat template, tokens, mask."""
    try:
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        return None
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bars()
    ask = "\n\nSummarize the text above."
    turns = [
        {
            "prompt": [{"role": "user", "content": row["document"] + ask}],
            "completion": [{"role": "assistant", "content": row["target"]}],
        }
        for row in rows
    ]
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    settings = SFTConfig(
        output_dir=str(folder / "trl"),
        max_length=2048,
        dataset_num_proc=2,
        use_cpu=True,
        report_to="none",
        bf16=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    begun = time.perf_counter()
    SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(turns),
        processing_class=tokenizer,
    )
    return time.perf_counter() - begun


def _memory(folder: Path, texts: list[str], results: Results, *, quick: bool) -> None:
    """Peak anonymous memory of the process and its workers together."""
    peaks = []
    sizes = (1000, 10_000) if quick else MEMORY_ROWS
    for size in sizes:
        name = f"memory{size}"
        _write(folder / f"{name}.jsonl", _rows(texts, size, characters=100))
        (folder / f"{name}.toml").write_text(RUN.format(folder=folder, name=name), encoding="utf-8")
        peaks.append(_prepared(folder, name)["peak"])
        (folder / f"{name}.jsonl").unlink()
    each = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    results.add(
        f"resident memory, {sizes[1]} rows",
        peaks[1] / 2**20,
        "MiB",
        peer=f"{sizes[0]} rows",
        peer_value=peaks[0] / 2**20,
        ratio=peaks[1] / peaks[0],
    )
    results.add("growth a record", each, "bytes", goal="32 bytes", met=each <= 32)


def _prepared(folder: Path, name: str) -> dict[str, Any]:
    """Runs `sumzero prepare` on a run file; its report's figures, seconds and peak memory.

    The seconds are those of the preparation, without the start of Python.
    """
    import psutil

    command = [sys.executable, __file__, "--prepare", str(folder / f"{name}.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        whole = psutil.Process(process.pid)
        while not done.wait(0.1):
            total = 0
            for one in (whole, *whole.children(recursive=True)):
                try:
                    memory = one.memory_info()
                    total += memory.rss - memory.shared
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"sumzero prepare ended with {process.returncode}")
    found: dict[str, Any] = json.loads(output)
    return {**found, "peak": peak}


def _prepare_only(run_file: str) -> None:
    from sumzero.pipeline import prepare
    from sumzero.runfile import load

    # What a run of any size loads once is loaded here.
    from sumzero.train import examples, model  # noqa: F401

    config = load(run_file)
    begun = time.perf_counter()
    report = prepare(config)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "tokens": report["splits"]["train"]["tokens"]}))


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if sys.argv[1:2] == ["--prepare"]:
        _prepare_only(sys.argv[2])
    else:
        main("bench_prepare", measure)
