"""Scoring at volume: time and memory of 100,000 summaries, and the rates of single metrics.

`sumzero score` is run whole: it reads records and rows, measures every metric of summaries in two
processes, bootstraps all of them over all rows and over slices by length, and writes both files.
Texts are made of 20,000 words by Zipf's law: documents of 400 words, references of 50 in three
sentences, summaries of 50 that are half runs of the document. Rates of metrics are of one core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Results, main

ROWS, QUICK, SAMPLE, SLOW = 100_000, 5_000, 2000, 100
RESAMPLES = 1000
GOAL = 60  # seconds
RUN = """
runs = "{folder}/runs"
[data.test]
path = "{file}"
lead = "summary"
"""


def measure(options: argparse.Namespace, results: Results) -> None:
    """The whole, then the parts."""
    results.peers.append("rouge-score")
    rows = QUICK if options.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        few = _scored(Path(name), rows // 10)
        seconds, memory = _scored(Path(name), rows)
    results.add("all metrics, intervals and slices", seconds, "s")
    results.add("the same", rows / seconds, "rows/s")
    results.add(
        "private memory of all processes",
        memory / 2**20,
        "MiB",
        peer=f"{rows // 10} rows",
        peer_value=few[1] / 2**20,
        ratio=memory / few[1],
    )
    alone = _rouge_with_intervals(rows)
    results.add(
        f"ROUGE of {rows} summaries with intervals",
        alone,
        "s",
        goal=f"at most {GOAL} s on 2 cores",
        met=alone <= GOAL,
    )
    _rates(results)
    _bootstrap(results, rows)


def texts(rows: int) -> Iterator[dict[str, str]]:
    """Records with a summary each."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    spelled = ["".join(rng.choice(letters[:20], size)) for size in rng.integers(2, 11, 20_000)]
    shares = np.cumsum(1 / np.arange(1, len(spelled) + 1))
    shares /= shares[-1]
    words = np.array(spelled, dtype=object)

    def drawn(count: int) -> list[str]:
        found: list[str] = words[np.searchsorted(shares, rng.random(count))].tolist()
        return found

    for number in range(rows):
        size = int(rng.lognormal(np.log(400) - 0.125, 0.5))
        document = drawn(max(80, size))
        start = int(rng.integers(len(document) - 30))
        summary = document[start : start + 25] + drawn(25)
        yield {
            "id": f"row-{number}",
            "document": _sentences(document),
            "target": _sentences(document[:10] + drawn(40)),
            "summary": _sentences(summary),
        }


def _sentences(words: list[str]) -> str:
    parts = [words[i : i + 17] for i in range(0, len(words), 17)]
    return " ".join(" ".join(part).capitalize() + "." for part in parts)


def _scored(folder: Path, rows: int) -> tuple[float, float]:
    """Seconds of `sumzero score`, and the peak of its processes' private memory in bytes."""
    import psutil

    file, run_file = folder / f"{rows}.jsonl", folder / f"{rows}.toml"
    with file.open("w", encoding="utf-8") as out:
        for row in texts(rows):
            out.write(json.dumps(row) + "\n")
    run_file.write_text(RUN.format(folder=folder, file=file), encoding="utf-8")
    sumzero = [sys.executable, "-m", "sumzero.cli"]
    generate = [*sumzero, "generate", str(run_file), "--system=lead1"]
    subprocess.run(generate, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    begun = time.perf_counter()
    score = subprocess.Popen(
        [*sumzero, "score", str(run_file)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    watched = psutil.Process(score.pid)
    peak = 0
    while True:
        try:
            code = score.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(map(_private, [watched, *watched.children(recursive=True)])))
    if code:
        raise SystemExit(f"sumzero score ended with {code}")
    return time.perf_counter() - begun, peak


def _private(process: Any) -> int:
    import psutil

    try:
        memory = process.memory_info()
    except psutil.Error:  # it has ended meanwhile
        return 0
    return int(memory.rss - memory.shared)


@lru_cache
def _scorer() -> Any:
    from sumzero.infer.rouge import Rouge

    return Rouge()


def _rouge_of(pairs: list[tuple[str, str]]) -> list[list[float]]:
    """What a process does with a batch."""
    scorer = _scorer()
    return [scorer.score(scorer.targets([target]), text) for target, text in pairs]


def _rouge_with_intervals(rows: int) -> float:
    """Seconds from texts in memory to four values with their intervals."""
    from sumzero.infer.bootstrap import intervals
    from sumzero.infer.rouge import METRICS
    from sumzero.infer.worker_pool import worker_pool

    sample = [(row["target"], row["summary"]) for row in texts(min(rows, 20_000))]
    pairs = (sample * (rows // len(sample) + 1))[:rows]
    begun = time.perf_counter()
    with worker_pool(2) as pool:
        batches = (pairs[start : start + 256] for start in range(0, rows, 256))
        values = np.array([one for found in pool.map(_rouge_of, batches) for one in found])
    columns = {name: values[:, place] for place, name in enumerate(METRICS)}
    intervals(columns, {}, resamples=RESAMPLES, seed=0)
    return time.perf_counter() - begun


def _rates(results: Results) -> None:
    """Rows a second of each metric, on one core."""
    from sumzero.infer import bleu
    from sumzero.infer.extractive import extractive
    from sumzero.infer.rouge import Rouge
    from sumzero.infer.squad import squad
    from sumzero.infer.words import tokens

    rows = list(texts(SAMPLE))

    def rouge(package: str) -> Callable[[dict[str, str]], Any]:
        scorer = Rouge(package)
        return lambda row: scorer.score(scorer.targets([row["target"]]), row["summary"])

    fast, slow = rouge("rouge-score-rs"), rouge("rouge-score")
    google = _rate(slow, rows[:SLOW])
    found = _rate(fast, rows)
    results.add(
        "ROUGE, one core",
        found,
        "rows/s",
        peer="rouge-score",
        peer_value=google,
        ratio=found / google,
    )
    for name, function in (
        (
            "extractive statistics",
            lambda row: extractive(tokens(row["document"]), tokens(row["summary"])),
        ),
        ("BLEU and chrF", lambda row: bleu.statistics([row["target"]], row["summary"], "de")),
        (
            "exact match and F1",
            lambda row: squad([row["target"]], row["summary"], unanswerable=None),
        ),
    ):
        results.add(f"{name}, one core", _rate(function, rows), "rows/s")


def _rate(function: Callable[[dict[str, str]], Any], rows: list[dict[str, str]]) -> float:
    function(rows[0])
    begun = time.perf_counter()
    for row in rows:
        function(row)
    return len(rows) / (time.perf_counter() - begun)


def _bootstrap(results: Results, rows: int) -> None:
    """15 metrics at once, and the same one by one."""
    from sumzero.infer.bootstrap import intervals
    from sumzero.infer.significance import bootstrap_interval

    values = np.random.default_rng(0).random((15, rows))
    begun = time.perf_counter()
    intervals({str(i): x for i, x in enumerate(values)}, {}, resamples=RESAMPLES, seed=0)
    together = time.perf_counter() - begun
    begun = time.perf_counter()
    bootstrap_interval(values[0], resamples=RESAMPLES, seed=0)
    alone = time.perf_counter() - begun
    results.add(
        f"intervals of 15 metrics, {rows} rows, {RESAMPLES} resamples, one core",
        together,
        "s",
        peer="of one metric",
        peer_value=alone,
        ratio=together / alone,
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main("bench_score", measure)
