"""How much of a run's wall time is training, where nodes fail and jobs are requeued: simulated.

A run on N nodes of 8 GPUs goes through allocations, one after the other. In each it starts, loads
its checkpoint and trains, with a checkpoint every `save_minutes`. It ends by the first of

    a failure     exponential, N / (mean time between failures of a node); what was done since the
                  last whole checkpoint is lost; it waits to be detected, then in the queue
    a preemption  exponential, or the time limit: the run saves and loses nothing, where the save
                  fits into the time it is left; then it waits in the queue
    the end       all work is done and saved

Goodput is useful time over wall time. A checkpoint holds training up for `stall` seconds and is
whole `write` seconds later (0: synchronous); the next one waits for it. Within an allocation all of
this is arithmetic, so a step of the simulation is one allocation of every simulated run at once.

The interval is compared with Young's sqrt(2 stall M), M the job's mean time between failures.
docs/cluster.md has the sources of the default values, and the results.
"""

import argparse
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from harness import Results, main

HOUR = 3600.0
NODE_MTBF = 7.9 * 128  # hours: 1,024-GPU jobs fail every 7.9 h (arXiv 2410.21680)
MINUTES = (2, 5, 10, 15, 30, 60, 120, 240, 480)
GPUS = 8  # a node
COPY = 4e9  # bytes/s of a rank to host memory: 3.8 on 2 CPU cores (bench_checkpoint)
UNIT = 32  # nodes that share a part of the file system, in the rates below
# Bytes/s that a node and a unit read and write: NVIDIA's "good" and "better".
STORAGE = {"good": (4e9, 15e9, 2e9, 7e9), "better": (8e9, 40e9, 4e9, 20e9)}
ENOUGH = 0.1  # points of goodput below the best that are given up for fewer checkpoints

Array = np.ndarray[Any, np.dtype[np.float64]]
Changes = dict[str, Any]  # of a training's fields


@dataclass(frozen=True)
class Training:
    """A training and the machine it runs on; seconds throughout, `math.inf` for never."""

    work: float
    nodes: int
    interval: float
    stall: float
    write: float = 0.0
    start: float = 300.0
    load: float = 0.0  # beside `start`, where there is a checkpoint
    node_mtbf: float = NODE_MTBF * HOUR
    detection: float = 320.0
    requeue: float = 120.0
    queue: float = 600.0  # mean of an exponential
    repair: float | None = None  # the same after a failure, where no other node takes over
    limit: float = math.inf
    preempted: float = math.inf  # mean of an exponential
    grace: float = 300.0
    graceful: bool = True  # saves when it is asked to end

    @property
    def mtbf(self) -> float:
        """Of the job: any node's failure ends it."""
        return self.node_mtbf / self.nodes

    @property
    def back(self) -> float:
        """Until there are enough nodes after a failure, on average."""
        return self.queue if self.repair is None else self.repair

    @property
    def save(self) -> float:
        """From when a checkpoint is begun until it is whole."""
        return self.stall + self.write

    @property
    def period(self) -> float:
        """From one checkpoint to the next."""
        return self.stall + max(self.interval, self.write)

    @property
    def young(self) -> float:
        """Young's interval: best to first order."""
        return math.sqrt(2 * self.stall * self.mtbf)

    def begun(self, time: Array) -> Array:
        """Checkpoints begun within `time` of training."""
        return np.floor((time - self.interval) / self.period + 1).clip(0)

    def whole(self, time: Array) -> Array:
        """Checkpoints whole within `time` of training."""
        return self.begun(time - self.save)

    def begin(self, number: Array) -> Array:
        """When the `number`-th checkpoint of an allocation is begun."""
        return self.interval + (number - 1) * self.period

    def worked(self, time: Array) -> Array:
        """Useful work within `time` of training."""
        number = self.begun(time)
        since = np.clip(time - self.begin(number) - self.stall, 0, self.interval)
        return np.where(number > 0, number * self.interval + since, time)

    def left(self, number: Array, time: Array) -> Array:
        """How long after `time` of training the `number`-th checkpoint is whole."""
        return np.where(number > 0, np.maximum(0, self.begin(number) + self.save - time), 0.0)

    def until(self, work: Array) -> Array:
        """When so much work is done and saved."""
        number: Array = (np.ceil(work / self.interval - 1e-9) - 1).clip(0)
        rest = work - number * self.interval
        done = np.where(number > 0, self.begin(number) + self.stall, 0.0) + rest
        return done + self.left(number, done) + self.save


def wall_times(training: Training, runs: int, seed: int = 0) -> Array:
    """Wall seconds of simulated runs.

    The same seed draws the same failures for another interval: they are compared on equal terms.
    """
    t = training
    assert t.limit > t.start + t.load + 4 * t.save, "the time limit leaves no time to train"
    random = np.random.default_rng(seed)
    means = np.array([t.mtbf, t.preempted, t.queue, t.back])[:, None]
    saved, wall, running = np.zeros(runs), np.zeros(runs), np.ones(runs, dtype=bool)
    while running.any():
        failure, preemption, queue, failed_wait = means * random.exponential(size=(4, runs))
        ready = t.start + np.where(saved > 0, t.load, 0.0)
        finish = ready + t.until(t.work - saved)
        end, kept = _asked(t, ready, finish, preemption)
        failed = failure < (held := np.minimum(finish, end))
        kept = np.where(failed, t.whole(np.maximum(0, failure - ready)) * t.interval, kept)
        finished = ~failed & ((finish <= end) | (saved + kept >= t.work))
        wait = t.requeue + np.where(failed, t.detection + failed_wait, queue)
        spent = np.where(failed, failure, held) + np.where(finished, 0.0, wait)
        wall += np.where(running, spent, 0.0)
        saved = np.where(running, np.minimum(saved + kept, t.work), saved)
        running &= ~finished
    return wall


def _asked(t: Training, ready: Array, finish: Array, preemption: Array) -> tuple[Array, Array]:
    """When an allocation that neither fails nor finishes is over, and the work it has kept."""
    if not t.graceful:
        end = np.minimum(preemption, t.limit)
        return end, t.whole(np.maximum(0, end - ready)) * t.interval
    in_time = t.limit - 2 * t.save  # train.max_minutes leaves room for two saves
    asked = np.maximum(ready, np.minimum(preemption, in_time))
    killed = np.where(preemption < in_time, preemption + t.grace, t.limit)
    time = np.minimum(asked, finish) - ready
    end = asked + t.left(t.begun(time), time) + t.save
    whole = t.whole(np.maximum(0, killed - ready)) * t.interval
    kept = np.where(end <= killed, t.worked(time), np.minimum(whole, t.worked(time)))
    return np.minimum(end, killed), kept


def expected_wall(training: Training) -> float:
    """Expected wall seconds with synchronous checkpoints, where only failures end allocations.

    What takes L seconds without a failure takes (1/lambda + D) e^(lambda R) (e^(lambda L) - 1), if
    each costs D seconds until the next allocation, and R in it; the first L begins with a start.
    """
    t, rate = training, 1 / training.mtbf
    assert (t.write, t.limit, t.preempted) == (0, math.inf, math.inf)
    down = t.detection + t.requeue + t.back
    parts = np.full(max(1, math.ceil(t.work / t.interval - 1e-9)), t.interval)
    parts[-1] = t.work - t.interval * (len(parts) - 1)
    lasting = np.expm1(rate * (parts + t.stall)) * math.exp(rate * (t.start + t.load))
    lasting[0] = math.expm1(rate * (t.start + parts[0] + t.stall))
    return float((t.mtbf + down) * lasting.sum())


@dataclass(frozen=True)
class Case:
    """A model of so many parameters, all trained, on so many nodes."""

    model: str
    parameters: float
    nodes: int

    def __str__(self) -> str:
        return f"{self.model} on {GPUS * self.nodes} GPUs"

    def training(
        self, minutes: float, *, later: bool = True, storage: str = "better", **changes: Any
    ) -> Training:
        """A week in jobs of a day, a checkpoint each `minutes`; `later` is train.save_async."""
        units = max(1.0, self.nodes / UNIT)
        read, unit_read, write, unit_write = STORAGE[storage]
        reading = min(self.nodes * read, units * unit_read)
        writing = min(self.nodes * write, units * unit_write)
        weights, size = 2 * self.parameters, 12 * self.parameters  # docs/checkpoints.md
        copying = size / (self.nodes * GPUS * COPY)
        training = Training(
            work=168 * HOUR,
            nodes=self.nodes,
            interval=60 * minutes,
            stall=1 + (copying if later else size / writing),  # 1: ranks tell each other
            write=size / writing if later else 0.0,
            start=300 + self.nodes * weights / reading,  # every node reads all of them
            load=2 * size / reading,  # for the checksums first
            limit=24 * HOUR,
        )
        return replace(training, **changes)


CASES = [Case("8B", 8.03e9, nodes) for nodes in (1, 8, 64)]
CASES += [Case("70B", 70.55e9, nodes) for nodes in (8, 64)]
WHAT_IFS: dict[str, Changes] = {
    "nodes as in Llama 3's run": {"node_mtbf": 54 * 24 * HOUR * 2048 / 419},
    "every failure found by the stall watch, 30 min": {"detection": 1800.0},
    "2 h in the queue": {"queue": 2 * HOUR},
    "no spare node, repair takes 4 h": {"repair": 4 * HOUR},
    "no save at the time limit": {"graceful": False},
    "preempted every 6 h": {"preempted": 6 * HOUR},
    "preempted every 6 h, 30 s to save": {"preempted": 6 * HOUR, "grace": 30.0},
    "preempted every 6 h, no save": {"preempted": 6 * HOUR, "graceful": False},
    "slower file system": {"storage": "good"},
    "slower file system, synchronous": {"storage": "good", "later": False},
}


def goodput(training: Training, runs: int) -> Array:
    """Of simulated runs, in percent."""
    return 100 * (training.work / wall_times(training, runs))


def measure(options: argparse.Namespace, results: Results) -> None:
    """All of it."""
    runs = options.runs or (500 if options.quick else 10_000)
    machine = {"node_mtbf": options.node_mtbf_hours * HOUR}
    for case in CASES:
        _check(results, case, case.training(60, later=False, **machine), runs)
        for later in (True, False):
            longest = _sweep(results, case, later, machine, runs)
            if later and case.model == "70B":
                _what_ifs(results, case, longest, machine, runs)


def _check(results: Results, case: Case, training: Training, runs: int) -> None:
    """The simulation against the formula, where there is one."""
    known = replace(training, limit=math.inf)
    simulated, exact = float(wall_times(known, runs).mean()), expected_wall(known)
    name, peer = f"{case}, synchronous: wall time with failures only", "expected, by the formula"
    hours, ratio = exact / HOUR, simulated / exact
    results.add(name, simulated / HOUR, "h", peer=peer, peer_value=hours, ratio=ratio)


def _sweep(results: Results, case: Case, later: bool, machine: Changes, runs: int) -> int:
    """Goodput by interval; returns the longest that is as good as the best to 0.1 points."""
    name = f"{case}, {'asynchronous' if later else 'synchronous'}"
    found = {}
    for minutes in MINUTES:
        training = case.training(minutes, later=later, **machine)
        shares = goodput(training, runs)
        found[minutes] = float(shares.mean())
        results.add(f"{name}, every {minutes} min: goodput", found[minutes], "%")
        for percentile in (5, 95) if later else ():
            value = float(np.percentile(shares, percentile))
            results.add(f"{name}, every {minutes} min: percentile {percentile}", value, "%")
    best = max(found.values())
    longest = max(minutes for minutes in MINUTES if found[minutes] >= best - ENOUGH)
    results.add(f"{name}: stall of a checkpoint", training.stall, "s")
    results.add(f"{name}: until a checkpoint is whole", training.save, "s")
    results.add(f"{name}: best of these intervals", max(found, key=lambda x: found[x]), "min")
    results.add(f"{name}: longest within {ENOUGH} points of it", longest, "min")
    at_young = float(goodput(replace(training, interval=training.young), runs).mean())
    results.add(
        f"{name}, every {training.young / 60:.3g} min (Young): goodput",
        at_young,
        "%",
        peer="best of these intervals",
        peer_value=best,
        ratio=at_young / best,
        goal=f"no more than {ENOUGH} points below",
        met=at_young >= best - ENOUGH,
    )
    return longest


def _what_ifs(results: Results, case: Case, minutes: int, machine: Changes, runs: int) -> None:
    """What changes when one assumption does."""
    base = float(goodput(case.training(minutes, **machine), runs).mean())
    for what, changes in WHAT_IFS.items():
        mean = float(goodput(case.training(minutes, **machine | changes), runs).mean())
        name = f"{case}, every {minutes} min, {what}: goodput"
        results.add(name, mean, "%", peer="as assumed", peer_value=base, ratio=mean / base)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark alone takes."""
    parser.add_argument("--node-mtbf-hours", type=float, default=NODE_MTBF, metavar="H")
    parser.add_argument("--runs", type=int, help="simulated (default: 10,000; quick: 500)")


if __name__ == "__main__":
    main("simulate_requeue", measure, arguments)
