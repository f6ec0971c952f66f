"""Export: memory against its bound, and time against the disk's.

A Qwen3 of random weights is split over two ranks by ZeRO-3, saved, and exported in bfloat16, in
shards small beside the model: trained whole, and with adapters that are merged into it. Memory is
what the exporting process takes beyond what it had before, files mapped into memory apart. The
bound is twice the largest weight in float32, and a shard. The disk's time is that of the same bytes
written from memory, one after the other, and synchronised; exporting reads the checkpoint twice or
the base once, and the files again to compare. Both are done in turn, and medians compared, since a
disk's time varies.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, Results, main

SHAPE = {"hidden_size": 1536, "num_hidden_layers": 24, "intermediate_size": 4096}
QUICK = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536}
VOCAB_SIZE = {False: 65536, True: 32768}
SHARD = {False: 300 * 10**6, True: 20 * 10**6}
RUN = """
name = "{name}"
runs = "{folder}/runs"
model.path = "{folder}/model"
[data]
max_length = 128
train.path = "{folder}/rows.jsonl"
"""
REPEATS = 5
RUNS = {"trained whole": "", "adapters merged": "[train]\nlora.rank = 16\n"}


def measure(options: argparse.Namespace, results: Results) -> None:
    """All of it."""
    quick = options.quick
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        largest = _make_model(folder, QUICK if quick else SHAPE, VOCAB_SIZE[quick])
        for number, (what, settings) in enumerate(RUNS.items()):
            run = _prepare(folder, f"run-{number}", settings)
            _export(folder, run, what, 2 * largest + SHARD[quick], SHARD[quick], results)


def _export(folder: Path, run: Path, what: str, bound: int, shard: int, results: Results) -> None:
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    _python(*ranks, "benchmarks/export_run.py", "checkpoint", str(run))
    exports, disks = [], []
    for _ in range(REPEATS):
        told = _python("benchmarks/export_run.py", "export", str(run), str(shard))
        exports.append(json.loads(told.splitlines()[-1]))
        disks.append(_write_seconds(folder / "plain", exports[-1]["bytes"]))
    found = max(exports, key=lambda one: one["peak"])
    seconds, disk = statistics.median(x["seconds"] for x in exports), statistics.median(disks)
    results.add(
        f"{what}: peak memory, {found['bytes'] / 1e9:.2f} GB in {found['files']} files",
        found["peak"] / 1e6,
        "MB",
        peer="twice the largest weight in float32, and a shard",
        peer_value=bound / 1e6,
        ratio=found["peak"] / bound,
        goal="at most the bound",
        met=found["peak"] <= bound,
    )
    results.add(
        f"{what}: export and comparison",
        seconds,
        "s",
        peer="plain writing of the same bytes, synchronised",
        peer_value=disk,
        ratio=seconds / disk,
    )


def _make_model(folder: Path, shape: dict[str, int], vocab_size: int) -> int:
    """Writes a model and returns the bytes of its largest weight in float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from sumzero.train.scratch import train_tokenizer

    tokenizer = train_tokenizer(iter(["The cat sat on the mat."] * 9), 300)
    tokenizer.save_pretrained(folder / "model")
    settings = Qwen3Config(
        **shape,
        vocab_size=vocab_size,
        num_attention_heads=shape["hidden_size"] // 128,
        num_key_value_heads=shape["hidden_size"] // 256,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    model = Qwen3ForCausalLM._from_config(settings, dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    return 4 * max(parameter.numel() for parameter in model.parameters())


def _prepare(folder: Path, name: str, settings: str) -> Path:
    from sumzero.pipeline import prepare
    from sumzero.runfile import load

    rows = [{"id": i, "document": f"Text {i}.", "target": f"Sum {i}."} for i in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    run = folder / f"{name}.toml"
    run.write_text(RUN.format(folder=folder, name=name) + settings, encoding="utf-8")
    prepare(load(run), processes=1)
    return run


def _python(*arguments: str) -> str:
    environment: dict[str, Any] = {"DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment, **os.environ},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def _write_seconds(file: Path, size: int) -> float:
    chunk = os.urandom(1 << 23)
    begun = time.perf_counter()
    with file.open("wb") as out:
        for _ in range(size // len(chunk)):
            out.write(chunk)
        out.write(chunk[: size % len(chunk)])
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - begun


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", help="on the disk to measure (default: the temporary folder)")


if __name__ == "__main__":
    main("bench_export", measure, _arguments)
