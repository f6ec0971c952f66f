"""Paired tests: bootstrap and approximate randomisation of many metrics at once.

100,000 rows of 15 means, BLEU and chrF, with 1,000 draws and 10,000 exchanges; and sacreBLEU's own
tests of BLEU and chrF on fewer translations, from texts, beside ours from sacreBLEU's counts, which
are counted in both times.
"""

import argparse
import random
import resource
import time

import numpy as np
from harness import Results, main

DRAWS, EXCHANGES = 1000, 10_000
WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "on", "under", "mat", "hill")


def measure(options: argparse.Namespace, results: Results) -> None:
    """Ours at size, and both on the same translations."""
    _ours(10_000 if options.quick else 100_000, results)
    _beside_sacrebleu(500 if options.quick else 2_000, results)


def _ours(rows: int, results: Results) -> None:
    from sumzero.infer.bleu import WIDTHS, corpus_score
    from sumzero.infer.paired import corpus_pair, differences, mean_pair

    rng = np.random.default_rng(0)
    pairs = {f"mean {i}": mean_pair(*rng.random((2, rows))) for i in range(15)}
    for name, width in WIDTHS.items():
        a, b = rng.integers(1, 40, size=(2, rows, width)).astype(float)
        pairs[name] = corpus_pair(
            a, b, lambda sums, name=name: np.array([corpus_score(name, x) for x in sums])
        )
    begun = time.perf_counter()
    differences(pairs, resamples=DRAWS, shuffles=EXCHANGES, seed=0)
    seconds = time.perf_counter() - begun
    results.add(f"{rows} rows, 15 means, BLEU and chrF: both tests", seconds, "s")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.add(f"{rows} rows: peak memory of the process", most, "MiB")


def _beside_sacrebleu(rows: int, results: Results) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.significance import PairedTest

    from sumzero.infer.bleu import WIDTHS, corpus_score, statistics
    from sumzero.infer.paired import corpus_pair, differences

    draws = random.Random(0)
    texts = [[" ".join(draws.choices(WORDS, k=20)) for _ in range(rows)] for _ in range(3)]
    references, *systems = texts

    def theirs(kind: str, count: int) -> None:
        metrics = {"BLEU": BLEU(references=[references]), "chrF": CHRF(references=[references])}
        named = [("a", systems[0]), ("b", systems[1])]
        PairedTest(named, metrics, references=None, test_type=kind, n_samples=count)()

    def ours() -> None:
        counts = [
            [statistics([ref], text, "en") for ref, text in zip(references, said, strict=True)]
            for said in systems
        ]
        pairs = {
            name: corpus_pair(
                *(np.array([row[name] for row in of_system]) for of_system in counts),
                lambda sums, name=name: np.array([corpus_score(name, x) for x in sums]),
            )
            for name in WIDTHS
        }
        differences(pairs, resamples=DRAWS, shuffles=EXCHANGES, seed=0)

    times = []
    for work in (lambda: (theirs("bs", DRAWS), theirs("ar", EXCHANGES)), ours):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    results.peers.append("sacrebleu")
    results.add(
        f"{rows} translations, BLEU and chrF: both tests",
        times[1],
        "s",
        peer="sacrebleu",
        peer_value=times[0],
        ratio=times[0] / times[1],
    )


if __name__ == "__main__":
    main("bench_compare", measure)
