"""Training beside TRL's SFTTrainer and transformers' Trainer: tokens a second, loss, memory.

Same random weights, same records, same optimizer, one process a system, one after the other. The
figure is the tokens of the separate sequences (document + prompt + target each) over the median
time of a step. On the CPU a model of Qwen3-0.6B's shape with `--layers` layers and rows of 2,048
tokens; on CUDA `--shapes` at 8,192 tokens, beside TRL and TRL + Liger. docs/kernels.md says what is
compared.
"""

import argparse
import math
import statistics
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from harness import Results, device, main
from train_runs import Runs
from train_shapes import QUICK, SHAPES, Shape, Span, step_flops

from sumzero.train.devices import peak_flops

CPU_TOKENS, CUDA_TOKENS = 2048, 8192
EQUAL = 1e-3  # of the loss: 2^-8, bfloat16's rounding, averaged over some hundred tokens
# Layers that fit on one device with gradients and, without recomputation, all activations.
CUDA_LAYERS = {"0.6B": 28, "1.7B": 28, "8B": 16}
SINGLE, FIVE = "single-target", "5-target"
CUDA_GOALS = {(SINGLE, "0.6B"): 1.3, (SINGLE, "1.7B"): 1.3, (FIVE, "0.6B"): 4, (FIVE, "1.7B"): 4}
# Of TRL's settings on the CPU the fastest counts. Rows of 5 targets take it minutes: timed once.
TRL: dict[str, Any] = {"system": "trl", "attention": "sdpa", "liger": False}
TRAINER: dict[str, Any] = {"system": "trainer", "batch": 1, "attention": "sdpa"}
CPU_PEERS: dict[str, dict[str, dict[str, Any]]] = {
    SINGLE: {
        "TRL, packed": {**TRL, "limit": CPU_TOKENS},
        "TRL, row by row": {**TRL, "limit": None},
        "TRL, packed, freed memory kept as ours": {**TRL, "limit": CPU_TOKENS, "keep_memory": True},
        "Trainer": TRAINER,
    },
    FIVE: {
        "TRL, packed": {**TRL, "limit": 2 * 1280, "timed": 1},
        "TRL, row by row": {**TRL, "limit": None, "timed": 1},
        "Trainer": {**TRAINER, "timed": 1},
    },
}
CUDA_PEERS: dict[str, dict[str, Any]] = {
    "TRL": {"system": "trl", "limit": CUDA_TOKENS, "attention": "torch_varlen", "liger": False},
    "TRL + Liger": {
        **{"system": "trl", "limit": CUDA_TOKENS, "attention": "torch_varlen", "liger": True},
    },
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark alone takes."""
    parser.add_argument("--layers", type=int, default=24, help="of the CPU's model (default 24)")
    parser.add_argument(
        "--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="timed on CUDA"
    )
    parser.add_argument(
        "--no-recompute", action="store_true", help="on CUDA, not with activations recomputed too"
    )


def measure(options: argparse.Namespace, results: Results) -> None:
    """The CPU's rows, and CUDA's where there is one."""
    results.peers += ["trl", "accelerate", "liger-kernel"]
    import torch

    if torch.cuda.is_available():
        for name in options.shapes:
            shape = QUICK if options.quick else replace(SHAPES[name], layers=CUDA_LAYERS[name])
            _on_cuda(name, shape, results, (False,) if options.no_recompute else (False, True))
        return
    _on_cpu(QUICK if options.quick else replace(SHAPES["0.6B"], layers=options.layers), results)
    for name in SHAPES:
        for figure in ("tokens, beside TRL and TRL + Liger", "MFU", "peak memory"):
            results.add(f"CUDA, {name}: {figure}", None, "not measured: no CUDA device")


def _on_cpu(shape: Shape, results: Results) -> None:
    model = f"{shape.layers} layers, vocabulary {shape.vocab:,}"
    with Runs(shape, "cpu", CPU_TOKENS) as runs:
        single = _beside_peers(f"{model}, {SINGLE}", runs, SINGLE, 2.0, results)
        ratio = runs.token_ratio(FIVE)
        results.add(f"{model}, {FIVE}: tokens fed", ratio, "times fewer")
        _beside_peers(f"{model}, {FIVE}", runs, FIVE, 0.9 * ratio * single, results)


def _beside_peers(about: str, runs: Runs, work: str, goal: float, results: Results) -> float:
    """Returns how many times ours is as fast as TRL in the faster of its ordinary settings."""
    ours = runs.run(work, system="sumzero")
    theirs = {name: runs.run(work, **job) for name, job in CPU_PEERS[work].items()}
    again = runs.run(work, system="sumzero")
    factors = {
        name: _compare(about, runs, work, ours, (name, found), None, results)
        for name, found in theirs.items()
    }
    factor = min(factors["TRL, packed"], factors["TRL, row by row"])
    results.add(
        f"{about}: beside the faster of TRL's settings",
        factor,
        "times",
        goal=f"{goal:.3g} times",
        met=factor >= goal,
    )
    results.add(
        f"{about}: a step of ours after the peers' runs",
        statistics.median(again["seconds"]),
        "s",
        peer="before them",
        peer_value=statistics.median(ours["seconds"]),
    )
    return factor


def _on_cuda(name: str, shape: Shape, results: Results, recomputed: tuple[bool, ...]) -> None:
    with Runs(shape, "cuda", CUDA_TOKENS) as runs:
        for work in (SINGLE, FIVE):
            for recompute in recomputed:
                about = f"CUDA, {name} of {shape.layers} layers, {work}"
                about += ", recomputed" if recompute else ""
                ours = runs.run(work, system="sumzero", recompute=recompute)
                for peer, job in CUDA_PEERS.items():
                    if job["liger"] and find_spec("liger_kernel") is None:
                        why = "not measured: liger-kernel is not installed (make peers)"
                        results.add(f"{about}: tokens/s", None, why, peer=peer)
                        continue
                    theirs = runs.run(work, **job, recompute=recompute)
                    goal = CUDA_GOALS.get((work, name)) if peer == "TRL" else None
                    _compare(about, runs, work, ours, (peer, theirs), goal, results)
                if "seconds" in ours:
                    goal = 0.5 if (work, name, recompute) == (SINGLE, "8B", False) else None
                    _utilisation(about, shape, ours, goal, results)


def _compare(
    about: str,
    runs: Runs,
    work: str,
    ours: dict[str, Any],
    peer: tuple[str, dict[str, Any]],
    goal: float | None,
    results: Results,
) -> float:
    """Speed, loss, gradient norm and memory of one peer; returns how many times ours is as fast."""
    name, theirs = peer
    failed = [f"{who}: {x['error']}" for who, x in (("ours", ours), (name, theirs)) if "error" in x]
    if failed:
        results.add(f"{about}: tokens/s", None, f"not measured: {', '.join(failed)}", peer=name)
        return math.nan
    tokens = runs.records(work).tokens
    rates = [tokens / statistics.median(x["seconds"]) for x in (ours, theirs)]
    factor = rates[0] / rates[1]
    results.add(
        f"{about}: separate tokens a second ({ours['settings']})",
        rates[0],
        "tokens/s",
        peer=f"{name} ({theirs['settings']})",
        peer_value=rates[1],
        ratio=factor,
        goal=None if goal is None else f"{goal:.3g} times",
        met=None if goal is None else factor >= goal,
    )
    for figure, unit, goal_said in (
        ("loss", "nats a token", f"equal to {EQUAL}"),
        ("norm", "of the gradient", None),
        ("peak_bytes", "bytes", None),
    ):
        ratio = ours[figure] / theirs[figure]
        results.add(
            f"{about}: {figure.replace('_bytes', ' memory')}",
            ours[figure],
            unit,
            peer=name,
            peer_value=theirs[figure],
            ratio=ratio,
            goal=goal_said,
            met=None if goal_said is None else abs(ratio - 1) <= EQUAL,
        )
    return factor


def _utilisation(
    about: str, shape: Shape, ours: dict[str, Any], goal: float | None, results: Results
) -> None:
    peak = peak_flops(device(), "bfloat16")
    if peak is None:
        results.add(f"{about}: MFU", None, f"not measured: the peak of {device()} is not known")
        return
    flops = step_flops(shape, [Span(**span) for span in ours["spans"]], ours["head_positions"])
    value = flops / statistics.median(ours["seconds"]) / peak
    results.add(
        f"{about}: MFU",
        value,
        "of the peak",
        goal=None if goal is None else f"at least {goal}",
        met=None if goal is None else value >= goal,
    )


if __name__ == "__main__":
    main("bench_train", measure, arguments)
