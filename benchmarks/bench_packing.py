"""Packing and the plan: time, how full bins are, and what unequal bins would cost ZeRO-3 ranks.

Side by side with TRL's pack_dataset, axolotl's multipack, LLaMA-Factory's knapsack and next-fit, on
the same lengths. The imbalance is modelled, from the operations of a forward and backward pass of
an 8B model: 6 P T + 6 L h sum(l^2).
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import PEERS, Results, main, median_seconds

from sumzero.train.packing import EMPTY, FloatArray, IntArray, Pieces, draw_steps, make_plan, pack

PARAMETERS, LAYERS, WIDTH = 6.95e9, 36, 4096  # Qwen3-8B without embeddings


def lengths_of(number: int, mean: float, limit: int, spread: float = 1.0) -> IntArray:
    """Log-normal lengths in tokens, at most `limit`, of about the mean asked for."""
    random = np.random.default_rng(0)
    drawn = random.lognormal(np.log(mean) - spread**2 / 2, spread, number)
    return drawn.clip(16, limit).astype(np.int64)


def next_fit(lengths: IntArray, limit: int) -> int:
    """Number of bins where only one is open at a time."""
    bins, room = 0, 0
    for length in lengths.tolist():
        if length > room:
            bins, room = bins + 1, limit
        room -= length
    return bins


def llama_factory(lengths: IntArray, limit: int) -> int:
    """Bins of its greedy knapsack over the whole data (it packs each 1,000 rows by default)."""
    file = PEERS / "llamafactory" / "data" / "processor" / "processor_utils.py"
    spec = importlib.util.spec_from_file_location("processor_utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return len(module.greedy_knapsack(lengths.tolist(), limit))


def axolotl(lengths: IntArray, limit: int) -> int:
    """Bins of its multipack sampler's defaults: first fit in groups of 100,000, unsorted."""
    from axolotl.utils.samplers.multipack import pack_group

    groups = [lengths[i : i + 100_000] for i in range(0, len(lengths), 100_000)]
    return sum(len(pack_group(g, 0, limit, len(g), 200, False)) for g in groups)


def trl(lengths: IntArray, limit: int) -> int:
    """Bins of its best-fit decreasing, by default for each 1,000 rows; it moves the tokens too."""
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    column = pa.LargeListArray.from_arrays(offsets, np.zeros(offsets[-1], dtype=np.int32))
    rows = Dataset(pa.table({"input_ids": column}))
    return len(pack_dataset(rows, seq_length=limit, strategy="bfd"))


def measure(options: argparse.Namespace, results: Results) -> None:
    """All of it."""
    results.peers += ["trl", "axolotl", "llamafactory"]
    _speed(results, 100_000, {"TRL 1.16": trl}, repeats=1)
    peers = {"axolotl": axolotl, "LLaMA-Factory": llama_factory, "next-fit": next_fit}
    _speed(results, 100_000 if options.quick else 1_000_000, peers, repeats=3)
    _large(results, 1_000_000 if options.quick else 10_000_000)
    for limit, mean, number in ((8192, 1230, 1_000_000), (32768, 6000, 400_000)):
        for ranks, micro_steps in ((8, 4), (64, 8)):
            size = number // 10 if options.quick else number
            _balance(results, lengths_of(size, mean, limit), limit, ranks, micro_steps)


def _speed(
    results: Results, number: int, peers: dict[str, Callable[[IntArray, int], int]], repeats: int
) -> None:
    limit = 8192
    lengths = lengths_of(number, 1230, limit)

    def ours() -> int:
        return len(pack(lengths, limit, np.random.default_rng(0))[1]) - 1

    seconds, bins = median_seconds(ours, repeats), ours()

    def efficiency(number_of_bins: int) -> float:
        return float(lengths.sum() / (number_of_bins * limit))

    large = number == 1_000_000
    for name, run in peers.items():
        try:
            theirs = run(lengths, limit)  # what is compiled is compiled here
        except (ImportError, FileNotFoundError):
            results.add(f"pack {number}", seconds, "s", peer=f"{name}: make peers", peer_value=None)
            continue
        peer_seconds = median_seconds(lambda run=run: run(lengths, limit), 1)
        results.add(
            f"pack {number}, limit {limit}",
            seconds,
            "s",
            peer=name,
            peer_value=peer_seconds,
            ratio=peer_seconds / seconds,
            goal="2 s for 1,000,000" if large else None,
            met=seconds <= 2 if large else None,
        )
        results.add(
            f"efficiency {number}, limit {limit}",
            efficiency(bins),
            "share",
            peer=name,
            peer_value=efficiency(theirs),
            ratio=theirs / bins,
            goal="0.997, and no less than the peer's",
            met=efficiency(bins) >= max(0.997, efficiency(theirs)),
        )


def _large(results: Results, number: int) -> None:
    """A whole plan, in a process of its own, for its peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--plan", str(number)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, gigabytes = map(float, done.stdout.split())
    name = f"plan of {number} examples, 64 x 8"
    results.add(name, seconds, "s", goal="30 s", met=seconds <= 30)
    results.add(f"{name}, peak memory", gigabytes, "GiB", goal="2 GiB", met=gigabytes <= 2)


def _plan_only(number: int) -> None:
    lengths = lengths_of(number, 1230, 8192).astype(np.int32).astype(np.int64)
    seconds = median_seconds(lambda: make_plan(_pieces(lengths), limit=8192, bins_per_step=512), 1)
    # Not getrusage: its peak begins with that of the parent process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(seconds, int(peak.split()[1]) / 2**20)


def _pieces(lengths: IntArray) -> Pieces:
    random = np.random.default_rng(1)
    share = random.lognormal(np.log(0.08), 0.5, len(lengths))  # targets are of all lengths
    supervised = np.minimum(np.maximum(8, (lengths * share).astype(np.int64)), lengths - 1)
    return Pieces(lengths, lengths * (lengths + 1) // 2, supervised, supervised)


def _balance(results: Results, lengths: IntArray, limit: int, ranks: int, micro_steps: int) -> None:
    """Waiting against what balance costs: steps whose documents differ in length and source."""
    pieces = _pieces(lengths)
    random = np.random.default_rng(0)
    order, starts = pack(lengths, limit, random)
    long_source = random.random(len(lengths)) < lengths / (lengths + np.median(lengths))
    of_bin = {
        name: np.add.reduceat(values[order], starts[:-1])
        for name, values in (
            ("pieces", np.ones_like(lengths)),
            ("tokens", lengths),
            ("supervised", pieces.supervised),
            ("source", lengths * long_source),
            ("squares", lengths**2),
        )
    }
    cost = of_bin["tokens"] + LAYERS * WIDTH / PARAMETERS * of_bin["squares"]
    bins_per_step = ranks * micro_steps
    name = f"limit {limit}, {ranks} ranks x {micro_steps}"
    by_chance = random.permutation(len(cost))[: len(cost) // bins_per_step * bins_per_step]
    chance = by_chance.reshape(-1, bins_per_step)
    spread_of_chance = _spread(chance, of_bin)
    results.add(f"{name}: waiting, random bins", 100 * _waiting(chance, cost, ranks), "%")
    in_steps = np.take_along_axis(chance, np.argsort(-cost[chance], axis=1), axis=1)
    results.add(f"{name}: waiting, sorted in steps", 100 * _waiting(in_steps, cost, ranks), "%")
    default = max(8, bins_per_step // 8)
    width = 1
    while width <= bins_per_step:
        steps = draw_steps(cost, of_bin["supervised"], bins_per_step, width, random)
        steps = steps[(steps != EMPTY).all(axis=1)]
        ordered = np.take_along_axis(steps, np.argsort(-cost[steps], axis=1), axis=1)
        waiting = 100 * _waiting(ordered, cost, ranks)
        goals: dict[str, Any] = {}
        if width == bins_per_step:
            goals = {"goal": "0.3 %", "met": waiting <= 0.3}
        elif width == default and (limit, ranks) == (8192, 64):
            goals = {"goal": "1 %", "met": waiting <= 1}
        mark = " (default)" if width == default else ""
        results.add(f"{name}: waiting, balance_width {width}{mark}", waiting, "%", **goals)
        for key, spread in _spread(steps, of_bin).items():
            if key == "supervised tokens":
                results.add(
                    f"{name}: variation of {key} of steps, balance_width {width}{mark}",
                    100 * spread,
                    "%",
                    peer="chance",
                    peer_value=100 * spread_of_chance[key],
                    goal="5 %",
                    met=spread <= 0.05,
                )
            else:
                results.add(
                    f"{name}: dispersion of {key} of steps, balance_width {width}{mark}",
                    spread / spread_of_chance[key],
                    "times chance",
                )
        width *= 2


def _waiting(steps: IntArray, cost: FloatArray, ranks: int) -> float:
    """Share of the ranks' time: every micro-step lasts as long as its most costly bin."""
    of_micro_step = cost[steps].reshape(-1, ranks)
    return float(1 - of_micro_step.sum() / (ranks * of_micro_step.max(axis=1).sum()))


def _spread(steps: IntArray, of_bin: dict[str, IntArray]) -> dict[str, float]:
    def total(key: str) -> FloatArray:
        return of_bin[key][steps].sum(axis=1).astype(np.float64)

    values = {
        "mean document length": total("tokens") / total("pieces"),
        "source share": total("source") / total("tokens"),
        "supervised tokens": total("supervised"),
    }
    return {key: float(x.std() / x.mean()) for key, x in values.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        _plan_only(int(sys.argv[2]))
    else:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        os.environ["DS_ACCELERATOR"] = "cpu"
        main("bench_packing", measure)
