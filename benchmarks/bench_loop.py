"""What the training loop costs around the model's own work: feeding, votes, logging, the watch.

A real training (`sumzero.train.loop.train`: plan, store, ZeRO-3, AdamW) of a Qwen3 model of random
weights, in a process of its own, whose `train_step` is timed from the outside. Every step is logged
and writes to TensorBoard, which is more than by default.

- outside: the share of the run's step time that is not spent in `train_step` (goal: at most 2%)
- bare: the median of a step in the loop over that of the same step alone, its batch built before
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

FULL = {"num_layers": 24, "hidden_size": 1024, "num_heads": 16, "num_kv_heads": 8}
QUICK = {"num_layers": 4, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 2}
WARM_UP = 2


def measure(options: argparse.Namespace, results: harness.Results) -> None:
    """Runs the training in a child and reads off its times."""
    shape = QUICK if options.quick else FULL
    steps = WARM_UP + (30 if options.quick else 8)
    length = 512 if options.quick else 2048
    with tempfile.TemporaryDirectory() as folder:
        job = {"folder": folder, "shape": shape, "steps": steps, "length": length}
        done = subprocess.run(
            [sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, check=True
        )
    times = json.loads(done.stdout.splitlines()[-1])
    inside, begun = times["inside"][WARM_UP:], times["begun"][WARM_UP:]
    # The last step's total would hold the checkpoint.
    total, inside_sum = begun[-1] - begun[0], sum(inside[:-1])
    told = (
        f"{shape['num_layers']} layers, {shape['hidden_size']} wide, bins of {length} tokens, full "
        f"to {times['full']:.0%}"
    )
    outside = 100 * (1 - inside_sum / total)
    results.add(
        f"outside of the model's step ({told})",
        outside,
        "% of step time",
        goal="at most 2",
        met=outside <= 2,
    )
    whole = [later - earlier for earlier, later in itertools.pairwise(begun)]
    step, bare = statistics.median(whole), statistics.median(times["bare"])
    results.add(
        f"a step in the loop over a bare one ({told})",
        step,
        "s",
        peer="the same step alone",
        peer_value=bare,
        ratio=step / bare,
    )


def _child(job: dict) -> None:
    from sumzero import log
    from sumzero.pipeline import prepare
    from sumzero.ranks import Ranks
    from sumzero.runfile import check
    from sumzero.train import loop

    log.configure()
    folder = Path(job["folder"])
    rows = folder / "rows.jsonl"
    with rows.open("w") as out:
        for index in range(2000):
            words = [f"w{(index * 31 + k * k) % 997}" for k in range(job["length"] // 16)]
            row = {"id": index, "document": " ".join(words), "target": " ".join(words[:20])}
            out.write(json.dumps(row) + "\n")
    shape = {**job["shape"], "intermediate_size": 3 * job["shape"]["hidden_size"]}
    config = check(
        {
            "name": "loop",
            "runs": str(folder),
            "model": {"scratch": {"vocab_size": 2000, **shape}},
            "data": {"train": {"path": str(rows)}, "max_length": job["length"]},
            "train": {"bins_per_step": 1, "max_steps": job["steps"], "epochs": 9, "log_every": 1},
        },
        "bench_loop",
    )
    prepare(config)
    times: dict[str, list[float]] = {"begun": [], "inside": [], "bare": []}
    tokens: list[int] = []
    original = loop.train_step

    def timed(trainer, work, *arguments):
        tokens.append(work.tokens)
        times["begun"].append(time.perf_counter())
        loss = original(trainer, work, *arguments)
        times["inside"].append(time.perf_counter() - times["begun"][-1])
        if len(times["begun"]) == job["steps"]:  # everything is warm now
            for _ in range(max(3, job["steps"] // 3)):
                begun = time.perf_counter()
                original(trainer, work, *arguments)
                times["bare"].append(time.perf_counter() - begun)
        return loss

    loop.train_step = timed
    loop.train(config, Ranks())
    full = statistics.fmean(tokens) / job["length"]
    print(json.dumps({**times, "full": full}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        _child(json.loads(sys.argv[2]))
    else:
        harness.main("bench_loop", measure)
