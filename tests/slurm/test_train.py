"""slurm/train.sbatch on a real cluster: it ends well, in time, and goes on after every stop."""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sumzero.status import status

from .runs import Runs, events, steps


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory, model_folder):
    return Runs(cluster, tmp_path_factory.mktemp("user"), model_folder)


@pytest.fixture(scope="module")
def whole(cluster, runs):
    """A run that was never stopped, and its job."""
    run = runs.new("whole")
    job = runs.train(run)
    cluster.wait(job, {"COMPLETED"}, timeout=180)
    return run, job


def until_trains(cluster, run, starts=1, more=3):
    """Waits until a run has logged some steps after so many starts."""

    def trains():
        begun = events(run, "start")
        logged = [x["step"] for x in events(run, "step")]
        return len(begun) == starts and logged and logged[-1] >= begun[-1]["step"] + more

    cluster.until(trains, 120, f"{run.root.name} makes steps after {starts} starts")


def ranks(cluster, *nodes):
    """The process of the training's rank on each node."""
    found = []
    for node in nodes:
        lines = cluster.processes(node).items()
        found += [n for n, line in lines if "-m sumzero.train " in line and "srun" not in line]
    assert len(found) == len(nodes), found
    return found


def stop(cluster, *nodes):
    """Holds ranks where they are, so that what is to come does not come too late."""
    held = ranks(cluster, *nodes)
    for process in held:
        os.kill(process, signal.SIGSTOP)
    return held


def is_signalled(process, number):
    """Whether a signal waits for a process that is stopped, or has let it go on."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    facts = dict(line.split(":", 1) for line in lines)
    waits = any(int(facts[x], 16) >> (number - 1) & 1 for x in ("SigPnd", "ShdPnd"))
    return waits or not facts["State"].strip().startswith("T")


def assert_as_whole(run, whole):
    assert steps(run) == steps(whole)
    assert status(run)["state"] == "finished"


def test_a_training_on_two_nodes_ends_well_after_a_look_at_the_nodes(runs, whole):
    run, job = whole
    assert [x["ranks"] for x in events(run, "start")] == [2]
    assert status(run)["state"] == "finished"
    log = runs.log(job)
    for node in ("node1", "node2"):
        assert f"{node}: 1 x cpu, /dev/shm" in log
    assert "GB/s" in log
    assert f"job {job}: finished" in log


def test_a_job_that_is_preempted_saves_goes_back_into_the_queue_and_on(cluster, runs, whole):
    run = runs.new("preempted")
    job = runs.train(run)
    until_trains(cluster, run)
    stop(cluster, "node1", "node2")  # Slurm lets them go on when it signals them
    urgent = cluster.submit(
        "#!/bin/sh\ntrue\n", "--partition=high", "--nodes=2", "--exclusive", cwd="/"
    )
    cluster.wait(urgent, {"COMPLETED"}, timeout=90)
    cluster.wait(job, {"COMPLETED"}, restarts=1, timeout=180)
    assert len(events(run, "preempted")) == 1
    # Put back by our script, or by Slurm where the time of grace is over first.
    assert re.search("it goes back into the queue|DUE TO PREEMPTION", runs.log(job))
    assert_as_whole(run, whole[0])


@pytest.mark.slow  # a minute or more: Slurm looks so seldom; test_chain.py has this signal too
def test_a_job_that_reaches_its_time_limit_goes_on_after_it(cluster, runs, whole):
    run = runs.new("limit")
    submitted = time.monotonic()
    job = runs.train(run, "--time=60", "--signal=USR1@180")
    until_trains(cluster, run)
    held = stop(cluster, "node1", "node2")
    # From here on one or two minutes are left, less than three; Slurm looks twice a minute.
    minutes = 2 + int(time.monotonic() - submitted) // 60
    cluster.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"])
    for process in held:
        cluster.until(lambda p=process: is_signalled(p, signal.SIGUSR1), 60, "Slurm signals")
    for process in held:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    cluster.wait(job, {"PENDING"}, restarts=1, timeout=120)
    cluster.run(["scontrol", "update", f"JobId={job}", "TimeLimit=60"])
    cluster.wait(job, {"COMPLETED"}, restarts=1, timeout=300)
    assert "SIGUSR1: the run is saved after this step, and ends" in runs.log(job)
    assert_as_whole(run, whole[0])


def test_a_job_whose_node_is_lost_goes_on_when_it_is_back(cluster, runs, whole):
    run = runs.new("lost")
    job = runs.train(run, "train.save_every=20")
    until_trains(cluster, run, more=25)
    stop(cluster, "node1", "node2")
    cluster.kill_slurmd("node2")
    cluster.wait(job, {"PENDING"}, restarts=1, timeout=120)
    cluster.start_slurmd("node2")
    cluster.wait(job, {"COMPLETED"}, restarts=1, timeout=240)
    assert len(events(run, "start")) == 2
    assert events(run, "start")[1]["step"] >= 20
    assert_as_whole(run, whole[0])


def test_a_rank_that_is_killed_ends_the_attempt_and_the_next_goes_on(cluster, runs, whole):
    run = runs.new("killed")
    job = runs.train(run, "train.save_every=20")
    until_trains(cluster, run, more=25)
    (rank,) = ranks(cluster, "node2")
    os.kill(rank, signal.SIGKILL)
    cluster.wait(job, {"COMPLETED"}, restarts=1, timeout=240)
    assert "it goes back into the queue" in runs.log(job)
    assert len(events(run, "start")) == 2
    assert_as_whole(run, whole[0])


def test_a_node_that_is_not_fit_is_named_and_left_out(cluster, runs):
    run = runs.new("unfit")
    cluster.run(["mount", "-o", "remount,size=1m", "/dev/shm"], node="node2")
    try:
        job = runs.train(run)
        record = cluster.wait(job, {"PENDING"}, restarts=1, timeout=90)
    finally:
        cluster.run(["mount", "-o", "remount,size=50%", "/dev/shm"], node="node2")
    assert "sumzero: node node2: /dev/shm has 1 MiB free; 256 are needed" in runs.log(job)
    assert record["ExcNodeList"] == "node2"
    assert not events(run, "start")


def test_a_users_fault_ends_the_job_at_once_with_its_line(cluster, runs):
    run = runs.new("fault")
    job = runs.train(run, "train.lr=-1")
    record = cluster.wait(job, {"FAILED"}, timeout=60)
    assert (record["ExitCode"], record["Restarts"]) == ("2:0", "0")
    log = runs.log(job)
    assert "train.lr: " in log
    assert "it goes back into the queue" not in log


def test_a_job_that_its_user_cancels_is_not_run_again(cluster, runs):
    run = runs.new("cancelled")
    job = runs.train(run)
    until_trains(cluster, run)
    cluster.run(["scancel", str(job)])
    cluster.wait(job, {"CANCELLED"}, timeout=60)
    cluster.until(lambda: not cluster.run(["squeue", "-h"]).stdout, 60, "it is gone")
    assert cluster.job(job)["Restarts"] == "0"
