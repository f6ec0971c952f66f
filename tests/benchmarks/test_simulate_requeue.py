import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and one imports the other
    spec.loader.exec_module(module)
    return module


load("harness")
requeue = load("simulate_requeue")
Training, wall_times = requeue.Training, requeue.wall_times

HOUR = 3600.0
SYNC = Training(work=48 * HOUR, nodes=8, interval=HOUR, stall=40.0, load=90.0)
ASYNC = replace(SYNC, stall=5.0, write=200.0)
NEVER = {"node_mtbf": math.inf}
DAYS = {"limit": 24 * HOUR}


def test_without_failures_the_wall_time_is_a_sum():
    """A start, the work, and 48 stalls, of which the last is that of the end."""
    wall = wall_times(replace(SYNC, **NEVER), 3)
    assert wall.tolist() == [300 + 48 * HOUR + 48 * 40] * 3
    # In the background 47 times, and waited for once.
    assert wall_times(replace(ASYNC, **NEVER), 1).item() == 300 + 48 * HOUR + 48 * 5 + 200
    # A write that takes longer than the interval is waited for by the next save.
    slow = replace(ASYNC, write=HOUR + 60, **NEVER)
    assert wall_times(slow, 1).item() == 300 + 48 * HOUR + 48 * 5 + 47 * 60 + HOUR + 60


def test_time_limits_cost_starts_and_no_work():
    training = replace(SYNC, queue=0.0, **NEVER, **DAYS)
    first = 24 * HOUR - 80 - 300  # trains until two saves are left
    second = first - 90
    works = [time - 40 * math.floor((time + 40) / (HOUR + 40)) for time in (first, second)]
    rest = 48 * HOUR - sum(works)
    ended = 24 * HOUR - 40 + 120  # saved, and queued again
    last = 300 + 90 + rest + 40
    assert wall_times(training, 1).item() == pytest.approx(2 * ended + last, rel=1e-12)


@pytest.mark.parametrize("nodes", [1, 8, 64, 256])
@pytest.mark.parametrize("minutes", [7.0, 60.0, 400.0])
def test_the_mean_is_the_expected_one(nodes, minutes):
    training = replace(SYNC, nodes=nodes, interval=60 * minutes)
    wall = wall_times(training, 4000)
    error = wall.std() / math.sqrt(len(wall))
    assert abs(wall.mean() - requeue.expected_wall(training)) < 4 * error + 1e-6


def test_the_expected_time_of_one_segment_is_the_known_one():
    """(1/lambda + R) (e^(lambda (tau + C)) - 1), where nothing fails while it restarts."""
    training = replace(SYNC, work=HOUR, start=0.0, load=0.0, nodes=256)
    rate, down = 256 / training.node_mtbf, 320 + 120 + 600
    known = (1 / rate + down) * (math.exp(rate * (HOUR + 40)) - 1)
    assert requeue.expected_wall(training) == pytest.approx(known, rel=1e-12)
    assert wall_times(training, 40_000).mean() == pytest.approx(known, rel=0.01)


def replay(training, draws):
    """One run, event by event; `draws` are of failure, preemption, queue and repair."""
    t, saved, wall = training, 0.0, 0.0
    for failure, preemption, queue, repair in draws:
        ready = t.start + (t.load if saved else 0.0)
        trained, marks, finish = timeline(t, ready, saved)

        def work_at(x, trained=trained, saved=saved):
            past = [(begin, end, work) for begin, end, work in trained if begin <= x]
            return past[-1][2] + min(x, past[-1][1]) - past[-1][0] if past else saved

        def whole_at(x, marks=marks, saved=saved):
            return max([work for begin, end, work in marks if end <= x], default=saved)

        asked, killed = min(preemption, t.limit), min(preemption, t.limit)
        if t.graceful:
            in_time = t.limit - 2 * t.save
            asked = max(ready, min(preemption, in_time))
            killed = preemption + t.grace if preemption < in_time else t.limit
            writing = max([end - asked for begin, end, _ in marks if begin <= asked], default=0)
            ended = asked + max(writing, 0) + t.save
        else:
            ended = math.inf
        if finish <= min(failure, ended, killed):
            return wall + finish
        if failure < min(ended, killed):
            wall, saved = wall + failure + t.detection + t.requeue + repair, whole_at(failure)
        else:
            held = min(ended, killed)
            saved = work_at(asked) if ended <= killed else min(whole_at(killed), work_at(asked))
            if saved >= t.work:
                return wall + held
            wall += held + t.requeue + queue
    raise AssertionError("more draws are needed")


def timeline(t, ready, saved):
    """Spans of training with the work they begin with, checkpoints, and the end of all."""
    time, work, trained, marks, written = ready, saved, [], [], -math.inf
    while True:
        part = min(t.interval, t.work - work)
        trained.append((time, time + part, work))
        time, work = max(time + part, written), work + part
        written = time + t.stall + t.write
        if work >= t.work:
            return trained, marks, written
        marks.append((time, written, work))
        time += t.stall


@pytest.mark.parametrize("seed", range(40))
def test_runs_are_those_of_a_replay(seed, monkeypatch):
    """Of machines of all kinds; both get the same draws."""
    random = np.random.default_rng(seed)
    training = Training(
        work=random.uniform(1, 40) * HOUR,
        nodes=int(random.integers(1, 200)),
        interval=random.uniform(60, 9000),
        stall=random.uniform(1, 100),
        write=random.choice([0.0, random.uniform(1, 4000)]),
        load=random.uniform(0, 300),
        limit=random.choice([math.inf, 24 * HOUR]),
        preempted=random.choice([math.inf, 7 * HOUR]),
        grace=random.choice([30.0, 1000.0]),
        graceful=bool(random.integers(2)),
        repair=random.choice([None, 2 * HOUR]),
    )
    draws = random.exponential(size=(3000, 4, 5))
    t, given = training, iter(draws)
    fake = SimpleNamespace(
        default_rng=lambda seed: SimpleNamespace(exponential=lambda size: next(given))
    )
    monkeypatch.setattr(requeue.np, "random", fake)
    wall = wall_times(training, 5)
    means = np.array([t.mtbf, t.preempted, t.queue, t.back])
    expected = [replay(training, means * draws[:, :, run]) for run in range(5)]
    assert wall.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_checkpoint_that_is_being_written_is_lost():
    quick, slow = (replace(ASYNC, nodes=64, write=seconds) for seconds in (10.0, 1500.0))
    assert wall_times(slow, 500).mean() > wall_times(quick, 500).mean() + 64 * 60


def test_more_nodes_and_no_save_at_the_end_of_a_job_cost_goodput():
    by_nodes = [wall_times(replace(ASYNC, nodes=nodes, **DAYS), 500).mean() for nodes in (1, 8, 64)]
    assert by_nodes == sorted(by_nodes)
    for change in (DAYS, {"preempted": 6 * HOUR}):
        saved = replace(ASYNC, **change)
        assert (
            wall_times(saved, 500).mean() < wall_times(replace(saved, graceful=False), 500).mean()
        )


def test_waiting_for_a_repair_costs_more_than_another_node():
    waiting = replace(ASYNC, nodes=64, repair=4 * HOUR)
    assert wall_times(waiting, 500).mean() > wall_times(replace(waiting, repair=None), 500).mean()


def test_runs_repeat_by_their_seed():
    first, again, other = (wall_times(ASYNC, 50, seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_youngs_interval_is_near_the_best_of_the_formula():
    training = replace(SYNC, nodes=64)
    best = min(
        requeue.expected_wall(replace(training, interval=60.0 * minutes))
        for minutes in range(5, 200)
    )
    at_young = requeue.expected_wall(replace(training, interval=training.young))
    assert at_young == pytest.approx(best, rel=0.001)


def test_a_quick_run_ends_with_its_rows(tmp_path):
    rows = []
    results = SimpleNamespace(
        add=lambda name, value, unit, **more: rows.append((name, value, unit))
    )
    options = SimpleNamespace(quick=True, runs=5, node_mtbf_hours=requeue.NODE_MTBF)
    requeue.measure(options, results)
    shares = [value for _, value, unit in rows if unit == "%"]
    assert len(shares) > 100
    assert all(0 < share <= 100 for share in shares)
