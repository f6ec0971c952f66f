"""`sumzero explain`: whether it finds what a summary was made of, whether it can be believed, cost.

A tiny model is trained to copy two marked sentences of a document, and another one to say them in
other words (explain_run.py); their summaries are explained, and the sentence with the highest
weight is held against the one that was copied or reworded.
Cost is that of abstracts of papers by a model of 8 layers, all in one engine; beside it, the same
prompts one after the other through transformers, which is how ContextCite's program runs by
default; and the memory of the engine by `explain.batched_tokens`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from explain_run import Marked
from explain_run import write_run as write_marked
from generate_run import QUICK_SHAPE, SHAPE, write_run
from harness import Results, main
from numpy.typing import NDArray

STEPS, QUICK_STEPS = 800, 600
MARKED, QUICK_MARKED = 200, 40
PAPERS, QUICK_PAPERS = 20, 5
BY_PEER = 65  # prompts
IN_MEMORY = 3  # summaries
BATCHED_TOKENS = (512, 2048, 8192)
GOAL = 0.95


def measure(options: argparse.Namespace, results: Results) -> None:
    """Found sentences and faithfulness, then cost, then memory."""
    quick = options.quick
    count, papers = (QUICK_MARKED, QUICK_PAPERS) if quick else (MARKED, PAPERS)
    steps = QUICK_STEPS if quick else STEPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in ("copied", "reworded"):
            (folder / what).mkdir()
            run, records = write_marked(folder / what, count, steps, reworded=what == "reworded")
            _found(what, run, records, results, checked=min(count, 100))
        (folder / "papers").mkdir()
        run = write_run(folder / "papers", QUICK_SHAPE if quick else SHAPE, papers, 40)
        _cost(run, results)
        if not quick:
            for tokens in BATCHED_TOKENS:
                _memory(run, tokens, results)


def _explained(run: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]], list]:
    """Generates and explains: the explanation, and the generation's rows."""
    from sumzero.infer.explain import explain
    from sumzero.infer.explanation_file import read_explanation
    from sumzero.infer.generate import generate
    from sumzero.runfile import load
    from sumzero.runfolder import RunFolder

    config = load(str(run), list(overrides))
    made = generate(config).rows()
    explain(config, sample=len(made))
    return *read_explanation(RunFolder.of(config)), made


def _found(what: str, run: Path, records: list[Marked], results: Results, checked: int) -> None:
    head, rows, made = _explained(run, f"explain.checked={checked}")
    summaries = {row["id"]: row["text"] for row in made}
    right = [summaries[f"row-{i}"] == one.summary for i, one in enumerate(records)]
    results.add(f"{what}: summaries that are right", 100 * float(np.mean(right)), "%")
    hits: dict[str, list[float]] = {"weights": [], "alignment": []}
    chance = []
    for row in rows:
        one = records[int(row["id"].removeprefix("row-"))]
        if summaries[row["id"]] != one.summary:
            continue
        chance.append(1 / len(row["document_sentences"]))
        for name, found in hits.items():
            found += map(_hit, np.array(row[name]), one.sources)
    for name, found in hits.items():
        share = 100 * float(np.mean(found))
        is_ours = name == "weights"
        results.add(
            f"{what}: sentences found by {name}",
            share,
            "%",
            peer="random",
            peer_value=100 * float(np.mean(chance)),
            goal=f"{100 * GOAL:.0f} %" if is_ours else None,
            met=share >= 100 * GOAL if is_ours else None,
        )
    for method, lds in head["faithfulness"]["lds"].items():
        results.add(f"{what}: LDS, {method}", lds["value"], "rank correlation")
        for most, of in head["faithfulness"]["drop"].items():
            results.add(f"{what}: top-{most} drop, {method}", of[method]["value"], "nats")


def _hit(values: NDArray[np.float64], source: int) -> float:
    """1 where the source has the highest value; of several that have it, its part."""
    highest = values == values.max()
    return float(highest[source] / highest.sum())


def _cost(run: Path, results: Results) -> None:
    head, rows, made = _explained(run, "explain.checked=0")
    cost = head["cost"]
    results.add("tokens a summary", cost["tokens_per_summary"], "tokens")
    rate, peer = cost["tokens_per_second"], _by_transformers(run, rows[0]["id"], made)
    results.add(
        "scored tokens",
        rate,
        "tokens/s",
        peer="transformers, one by one",
        peer_value=peer,
        ratio=rate / peer,
    )
    results.add("summaries explained", 60 / cost["seconds_per_summary"], "summaries/min")


def _by_transformers(run: Path, id_: str, made: list[dict[str, Any]]) -> float:
    """Tokens/s of one summary's ablations, each a forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    from sumzero.infer.ablated import Ablated
    from sumzero.infer.attribution import ablations
    from sumzero.infer.explained import open_explained
    from sumzero.runfile import load

    explained = open_explained(load(str(run)), "finetuned")
    number = next(i for i, row in enumerate(made) if row["id"] == id_)
    ((record, source),) = explained.records([number])
    about = Ablated(explained.model, explained.config, record, source, made[number]["text"])
    kept = ablations(len(about.sources.there), BY_PEER, np.random.default_rng(0))
    prompts = about.prompts(kept)
    model = AutoModelForCausalLM.from_pretrained(explained.model.folder, dtype=torch.float32)
    scored = len(about.summary.ids)
    begun = time.perf_counter()
    with torch.inference_mode():
        for ids in prompts:
            logits = model(torch.tensor([ids]), logits_to_keep=scored + 1).logits[0, :-1]
            wanted = torch.tensor(ids[-scored:])[:, None]
            logits.log_softmax(-1).gather(1, wanted)
    return sum(map(len, prompts)) / (time.perf_counter() - begun)


def _memory(run: Path, batched_tokens: int, results: Results) -> None:
    """The peak of the engine's process, the largest of the command's, that explains anew."""
    for file in run.parent.glob("runs/run/generations/*/explained-*.jsonl"):
        file.unlink()
    command = [sys.executable, "-m", "sumzero.cli", "explain", str(run)]
    command += ["--sample", str(IN_MEMORY), f"explain.batched_tokens={batched_tokens}"]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(OSError, StopIteration):  # it has ended
                    peak = max(peak, _high_water(child.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    results.add(f"engine's memory, batched_tokens {batched_tokens}", peak / 2**20, "MiB")


def _high_water(pid: int) -> int:
    """The most bytes that a process has had resident; a zombie has none."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(x.split()[1] for x in lines if x.startswith("VmHWM:")))


if __name__ == "__main__":
    main("bench_explain", measure)
