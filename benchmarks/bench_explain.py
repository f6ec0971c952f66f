"""`sumzero explain`: whether it finds what a summary was made of, whether it can be believed, cost.

A tiny model is trained to copy two marked sentences of a document (explain_run.py); its summaries
are explained, and the sentence with the highest weight is held against the one that was copied.
Cost is that of abstracts of papers by a model of 8 layers, all in one engine; beside it, the same
prompts one after the other through transformers, which is how ContextCite's program runs by
default.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from explain_run import Marked
from explain_run import write_run as write_marked
from generate_run import QUICK_SHAPE, SHAPE, write_run
from harness import Results, main

STEPS, QUICK_STEPS = 400, 350
MARKED, QUICK_MARKED = 200, 40
PAPERS, QUICK_PAPERS = 20, 5
BY_PEER = 65  # prompts
GOAL = 0.95


def measure(options: argparse.Namespace, results: Results) -> None:
    """Found sentences and faithfulness, then cost."""
    quick = options.quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, records = write_marked(
            folder, QUICK_MARKED if quick else MARKED, QUICK_STEPS if quick else STEPS
        )
        _found(run, records, results, checked=len(records) if quick else 100)
        (folder / "papers").mkdir()
        count = QUICK_PAPERS if quick else PAPERS
        _cost(write_run(folder / "papers", QUICK_SHAPE if quick else SHAPE, count, 40), results)


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


def _found(run: Path, records: list[Marked], results: Results, checked: int) -> None:
    head, rows, made = _explained(run, f"explain.checked={checked}")
    summaries = {row["id"]: row["text"] for row in made}
    copied = [summaries[f"row-{i}"] == one.summary for i, one in enumerate(records)]
    results.add("summaries that are the marked sentences", 100 * float(np.mean(copied)), "%")
    hits: dict[str, list[bool]] = {"weights": [], "alignment": []}
    chance = []
    for row in rows:
        one = records[int(row["id"].removeprefix("row-"))]
        if summaries[row["id"]] != one.summary:
            continue
        chance.append(1 / len(row["document_sentences"]))
        for name, found in hits.items():
            best = np.argmax(row[name], axis=1).tolist()
            found += [ours == source for ours, source in zip(best, one.sources, strict=True)]
    share = 100 * float(np.mean(hits["weights"]))
    results.add(
        "copied sentences with the highest weight",
        share,
        "%",
        peer="random",
        peer_value=100 * float(np.mean(chance)),
        goal=f"{100 * GOAL:.0f} %",
        met=share >= 100 * GOAL,
    )
    results.add(
        "copied sentences with the highest alignment", 100 * float(np.mean(hits["alignment"])), "%"
    )
    for method, lds in head["faithfulness"]["lds"].items():
        results.add(f"LDS, {method}", lds["value"], "rank correlation")
        for most, of in head["faithfulness"]["drop"].items():
            results.add(f"top-{most} drop, {method}", of[method]["value"], "nats a sentence")


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


if __name__ == "__main__":
    main("bench_explain", measure)
