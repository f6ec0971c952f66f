"""What the training loop costs around the model's own work: feeding, votes, logging, the watch.

A real training (`sumzero.train.loop.train`: plan, store, ZeRO-3, AdamW) of a Qwen3 model of random
weights, in a process of its own, whose `train_step` is timed from the outside. Every step is logged
and writes to TensorBoard, which is more than by default.

After each step of the loop the same step is made once more alone, its batch built before: while the
loop's own goes on, a thread builds the batches to come, on the same cores.

- outside: the share of the loop's step time that is not spent in `train_step` (goal: at most 2%)
- bare: the sum of the loop's steps, all that is around them included, over that of the bare ones
"""

import argparse
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
    # The last step's time outside would hold the checkpoint.
    inside, outside, bare = (times[name][WARM_UP:-1] for name in ("inside", "outside", "bare"))
    total = sum(inside) + sum(outside)
    told = (
        f"{shape['num_layers']} layers, {shape['hidden_size']} wide, {harness.cpu_dtype()}, bins "
        f"of {length} tokens, full to {times['full']:.0%}"
    )
    share = 100 * sum(outside) / total
    results.add(
        f"outside of the model's step ({told})",
        share,
        "% of step time",
        goal="at most 2",
        met=share <= 2,
    )
    results.add(
        f"a step in the loop over a bare one, means ({told})",
        total / len(inside),
        "s",
        peer="the same step alone, in turn with it",
        peer_value=statistics.fmean(bare),
        ratio=total / sum(bare),
        goal="at most 1.02",
        met=total <= 1.02 * sum(bare),
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
            "model": {
                "dtype": harness.cpu_dtype(),
                "scratch": {"vocab_size": 2000, **shape},
            },
            "data": {"train": {"path": str(rows)}, "max_length": job["length"]},
            "train": {"bins_per_step": 1, "max_steps": job["steps"], "epochs": 9, "log_every": 1},
        },
        "bench_loop",
    )
    prepare(config)
    times: dict[str, list[float]] = {"inside": [], "outside": [], "bare": []}
    tokens: list[int] = []
    original = loop.train_step
    ended = None

    def timed(trainer, work, *arguments):
        nonlocal ended
        begun = time.perf_counter()
        if ended is not None:
            times["outside"].append(begun - ended)
        tokens.append(work.tokens)
        loss = original(trainer, work, *arguments)
        again = time.perf_counter()
        original(trainer, work, *arguments)
        ended = time.perf_counter()
        times["inside"].append(again - begun)
        times["bare"].append(ended - again)
        return loss

    loop.train_step = timed
    loop.train(config, Ranks())
    times["outside"].append(0.0)  # after the last step: it is not looked at
    full = statistics.fmean(tokens) / job["length"]
    print(json.dumps({**times, "full": full}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        _child(json.loads(sys.argv[2]))
    else:
        harness.main("bench_loop", measure)
