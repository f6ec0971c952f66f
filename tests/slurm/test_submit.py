"""`sumzero submit`, `cancel` and `status` against a real queue: nothing twice, nothing half."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from .cluster import Cluster
from .programs import find
from .runs import Runs, events, steps, write_rows

LATER = "--sbatch=--begin=now+1hour"  # what is submitted stays in the queue
SMALL = "--sbatch=--cpus-per-task=1"
STEPS = ["prepare", "train", "export", "generate", "score"]


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory, model_folder):
    runs = Runs(cluster, tmp_path_factory.mktemp("user"), model_folder)
    with runs.file.open("a") as file:
        file.write('[data.test]\npath = "rows.jsonl"\n')
    return runs


def queue(cluster):
    """The user's jobs in the queue: their names by number."""
    said = cluster.run(["squeue", "-h", "-o", "%F|%j"]).stdout
    return dict(line.split("|") for line in said.splitlines())


def wrapped(runs, folder, command, script):
    """The user's environment with another command in place of one of Slurm's."""
    (folder / command).write_text(f"#!/bin/bash\n{script}")
    (folder / command).chmod(0o755)
    environment = runs.environment
    return environment | {"PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


def submitted(runs, name):
    jobs = json.loads((runs.folder / "runs" / name / "jobs.json").read_text())
    return {job["step"]: job["id"] for job in jobs}


def test_a_chain_is_submitted_once_however_often_it_is_asked_for(cluster, runs):
    said = runs.sumzero("submit", runs.file, "name=once", LATER, SMALL)
    jobs = submitted(runs, "once")
    assert list(jobs) == STEPS
    assert queue(cluster) == {jobs[step]: f"once-{step}" for step in STEPS}
    for step in STEPS:
        assert f"{step:<8}  {jobs[step]}" in said
    for before, after in itertools.pairwise(STEPS):
        record = cluster.job(f"{jobs[after]}_0" if after == "generate" else jobs[after])
        assert record["Dependency"].startswith(f"afterok:{jobs[before]}")
    again = runs.sumzero("submit", runs.file, "name=once", LATER, SMALL)
    assert again.count("in the queue: PENDING") == 5
    assert submitted(runs, "once") == jobs
    assert len(queue(cluster)) == 5


def test_what_is_in_the_queue_is_not_changed_under_way(cluster, runs):
    runs.sumzero("submit", runs.file, "name=changed", LATER, SMALL)
    settings = (runs.folder / "runs/changed/submitted.toml").read_bytes()
    said = runs.sumzero("submit", runs.file, "name=changed", "train.lr=1e-5", SMALL, code=2)
    assert "(train): is in the queue with other settings" in said
    assert "`sumzero cancel runs/changed`" in said
    assert len(said.splitlines()) == 1
    said = runs.sumzero("submit", runs.file, "name=changed", "--nodes=2", SMALL, code=2)
    assert "another shape" in said
    assert (runs.folder / "runs/changed/submitted.toml").read_bytes() == settings
    assert len(queue(cluster)) == 5


def test_a_run_that_is_cancelled_leaves_the_queue_and_can_be_submitted_again(cluster, runs):
    runs.sumzero("submit", runs.file, "name=gone", "--steps=prepare,train", LATER, SMALL)
    first = submitted(runs, "gone")
    assert "no jobs were submitted" in runs.sumzero("cancel", runs.file, "name=typo", code=2)
    assert not (runs.folder / "runs" / "typo").exists()
    said = runs.sumzero("cancel", "runs/gone")  # though no stage has begun
    assert f"prepare: job {first['prepare']} is cancelled; it was PENDING" in said
    cluster.until(lambda: not queue(cluster), 20, "the queue is empty")
    assert "no job is in the queue" in runs.sumzero("cancel", "runs/gone")
    found = json.loads(runs.sumzero("status", runs.file, "name=gone", "--json"))
    assert [(job["step"], job["state"]) for job in found["jobs"]] == [
        ("prepare", "CANCELLED"),
        ("train", "CANCELLED"),
    ]
    runs.sumzero("submit", runs.file, "name=gone", "--steps=prepare,train", LATER, SMALL)
    assert set(submitted(runs, "gone").values()).isdisjoint(first.values())


def test_no_answer_of_slurms_is_not_taken_for_an_empty_queue(cluster, runs, tmp_path):
    argv = ("submit", runs.file, "name=silent", "--gpus-per-node=0", LATER, SMALL)
    runs.sumzero(*argv)
    environment = wrapped(runs, tmp_path, "squeue", "echo squeue: Socket timed out >&2; exit 1\n")
    for command in (argv, ("cancel", "runs/silent")):
        said = runs.sumzero(*command, code=2, env=environment)
        assert "Socket timed out" in said
    assert len(queue(cluster)) == 5
    found = json.loads(runs.sumzero("status", "runs/silent", "--json", env=environment))
    assert {job["state"] for job in found["jobs"]} == {"UNKNOWN"}


def test_later_steps_wait_for_what_is_in_the_queue_and_have_its_settings(cluster, runs):
    runs.sumzero("submit", runs.file, "name=later", "--steps=prepare,train", LATER, SMALL)
    settings = (runs.folder / "runs/later/submitted.toml").read_bytes()
    argv = ("submit", runs.file, "name=later", "--steps=export,generate,score", LATER, SMALL)
    said = runs.sumzero(*argv, "train.lr=1e-5", code=2)
    assert "(prepare): is in the queue" not in said
    assert "(train): is in the queue with other settings" in said
    assert (runs.folder / "runs/later/submitted.toml").read_bytes() == settings
    runs.sumzero(*argv)
    jobs = submitted(runs, "later")
    assert cluster.job(jobs["export"])["Dependency"].startswith(f"afterok:{jobs['train']}")
    assert len(queue(cluster)) == 5
    dry = runs.sumzero(*argv, "--dry-run")
    assert dry == "nothing: all is done, or in the queue\n"


def test_the_log_of_a_job_that_is_cancelled_does_not_call_it_well_done(cluster, runs, tmp_path):
    script = '#!/bin/bash\n. "$SUMZERO_SLURM/job.sh" || exit 2\necho at work\nattended sleep 600\n'
    for text in (script, script.replace("attended ", "")):
        job = cluster.submit(text, cwd=tmp_path, env=runs.environment)
        log = tmp_path / f"slurm-{job}.out"
        cluster.until(lambda log=log: log.is_file() and log.read_text(), 30, "it is at work")
        cluster.run(["scancel", str(job)])
        line = f"sumzero: job {job} ended with exit code 143"
        cluster.until(lambda log=log, line=line: line in log.read_text(), 30, line)


def test_more_steps_are_put_behind_those_that_are_in_the_queue(cluster, runs):
    runs.sumzero("submit", runs.file, "name=more", "--steps=prepare,train", LATER, SMALL)
    runs.sumzero("submit", runs.file, "name=more", LATER, SMALL)
    jobs = submitted(runs, "more")
    assert len(queue(cluster)) == 5
    assert cluster.job(jobs["export"])["Dependency"].startswith(f"afterok:{jobs['train']}")


def test_a_run_goes_on_with_other_nodes_after_a_conversion(cluster, runs):
    run = runs.new("smaller")
    argv = ("submit", runs.file, "name=smaller", "--steps=train", SMALL)
    runs.sumzero(*argv, "--nodes=2")
    first = submitted(runs, "smaller")["train"]
    cluster.until(lambda: len(events(run, "step")) > 3, 120, "it trains")
    cluster.run(["scancel", "--signal=USR1", first])
    cluster.wait(first, {"PENDING"}, restarts=1, timeout=60)
    runs.sumzero("cancel", "runs/smaller")
    said = runs.sumzero(*argv, "--nodes=1")
    jobs = submitted(runs, "smaller")
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [
        ["convert", jobs["convert"]],
        ["train", jobs["train"]],
    ]
    cluster.wait(jobs["train"], {"COMPLETED"}, timeout=180)
    assert cluster.job(jobs["convert"])["JobState"] == "COMPLETED"
    assert [x["ranks"] for x in events(run, "start")] == [2, 1]
    assert sorted(steps(run)) == list(range(1, 101))
    # What is finished is not converted and trained again for the sake of another shape.
    assert "done" in runs.sumzero(*argv, "--nodes=2").splitlines()[1]


def test_gpus_a_node_are_those_that_slurm_says(state_folder, cluster, runs):
    with Cluster(state_folder(), gpus=2) as other:
        environment = runs.environment | {
            "PATH": f"{other.state}/bin{os.pathsep}{runs.environment['PATH']}",
            "SLURM_CONF": f"{other.state}/etc/slurm.conf",
        }
        argv = ["submit", str(runs.file), "name=gpus", "--nodes=2", "--dry-run"]
        done = subprocess.run(
            [sys.executable, "-m", "sumzero.cli", *argv],
            cwd=runs.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert "--ntasks-per-node=2" in lines[1]
    assert "--gpus-per-node=2" in lines[1]
    assert "--gpus-per-node=1" in lines[2]
    assert "--array=0-3" in lines[3]


def test_a_chain_that_slurm_refuses_leaves_nothing_in_the_queue(cluster, runs):
    said = runs.sumzero(
        *("submit", runs.file, "name=refused", LATER, SMALL, "--sbatch=generate:--partition=none"),
        code=2,
    )
    assert "invalid partition specified: none" in said
    assert len(said.splitlines()) == 1
    cluster.until(lambda: not queue(cluster), 20, "the queue is empty")
    assert submitted(runs, "refused") == {}


def test_a_job_that_slurm_took_without_an_answer_is_withdrawn_too(cluster, runs, tmp_path):
    lost = f'{find("sbatch")} "$@" > {tmp_path}/number\necho Socket timed out >&2; exit 1\n'
    environment = wrapped(runs, tmp_path, "sbatch", lost)
    said = runs.sumzero("submit", runs.file, "name=lost", LATER, SMALL, code=2, env=environment)
    assert "Socket timed out" in said
    assert (tmp_path / "number").read_text().strip(), "Slurm took it"
    cluster.until(lambda: not queue(cluster), 20, "the queue is empty")
    assert submitted(runs, "lost") == {}


def test_a_kill_between_sbatch_and_its_answer_doubles_nothing(cluster, runs, tmp_path):
    real = f"{cluster.state}/bin/sbatch"
    # Submits the second job, and ends `sumzero submit` before it has its number.
    environment = wrapped(
        *(runs, tmp_path, "sbatch"),
        f'[ -e {tmp_path}/first ] || {{ touch {tmp_path}/first; exec {real} "$@"; }}\n'
        f'{real} "$@" && kill -KILL $PPID\n',
    )
    argv = ["submit", str(runs.file), "name=torn", LATER, SMALL]
    done = subprocess.run(
        [*(sys.executable, "-m", "sumzero.cli"), *argv],
        cwd=runs.folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert sorted(queue(cluster).values()) == ["torn-prepare", "torn-train"]
    assert submitted(runs, "torn")["train"] is None
    said = runs.sumzero(*argv)
    assert said.count("in the queue: PENDING") == 2
    assert sorted(queue(cluster).values()) == sorted(f"torn-{step}" for step in STEPS)
    assert set(submitted(runs, "torn").values()) == set(queue(cluster))


def test_a_dry_run_prints_what_a_shell_could_run_and_makes_nothing(cluster, runs):
    said = runs.sumzero(
        *("submit", runs.file, "name=dry", "--nodes=2", "--gpus-per-node=8", "--dry-run"),
        "--sbatch=train:--time=48:00:00",
    )
    lines = [shlex.split(line) for line in said.splitlines()]
    assert [line[0] for line in lines] == ["sbatch"] * 5
    train = lines[1]
    for option in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=48:00:00"):
        assert option in train
    assert "--dependency=afterok:<prepare>" in train
    assert "--kill-on-invalid-dep=yes" in train
    assert "--array=0-15" in lines[3]
    assert "--gpus-per-node=1" in lines[3]
    assert not (runs.folder / "runs" / "dry").exists()
    assert not queue(cluster)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=prepare,trian"], "--steps: no step 'trian'; there are prepare, train, export"),
        (["--steps=train"], "no prepared data for `train`; add prepare to --steps"),
        (["--steps=score"], "nothing generated for `score`; add generate to --steps"),
        (["--sbatch=qos"], "--sbatch qos: write --sbatch=--OPTION=VALUE"),
        (["--sbatch=tarin:--qos=x"], "or --sbatch=STEP:--OPTION=VALUE"),
        (["--sbatch=--dependency=singleton"], "--dependency=singleton: the chain has its own"),
        (["--sbatch=train:-N4"], "--sbatch train:-N4: use --nodes and the like"),
        (["--sbatch=--array=0-3"], "use --shards"),
        (["--score-checkpoints"], "set data.validation.path"),
        (["data.test=[]"], "data.test: no records to generate for"),
        (["runs=back\\\\slash"], "Slurm cannot write logs in a folder with \\ in its name"),
        (["train.lr=-1"], "train.lr: "),
    ],
)
def test_what_cannot_be_submitted_is_said_at_once(cluster, runs, arguments, message):
    said = runs.sumzero("submit", runs.file, "name=never", *arguments, LATER, SMALL, code=2)
    assert message in said
    assert not queue(cluster)
    assert not (runs.folder / "runs" / "never").exists()


def test_a_fault_in_a_job_stops_the_chain_and_status_says_why(cluster, runs):
    write_rows(runs.folder / "bad.jsonl", [{"id": 1, "document": "x"}])
    argv = (runs.file, "name=stopped", "data.train.path=bad.jsonl")
    runs.sumzero("submit", *argv, SMALL)
    jobs = submitted(runs, "stopped")
    record = cluster.wait(jobs["prepare"], {"FAILED"})
    assert (record["ExitCode"], record["Restarts"]) == ("2:0", "0")
    cluster.until(lambda: not queue(cluster), 60, "the others have left the queue")
    found = json.loads(runs.sumzero("status", *argv, "--json"))
    states = {job["step"]: job["state"] for job in found["jobs"]}
    assert states == {"prepare": "FAILED", **dict.fromkeys(STEPS[1:], "CANCELLED")}
    said = runs.sumzero("status", *argv)
    log = runs.folder / f"runs/stopped/logs/prepare-{jobs['prepare']}.log"
    assert log.read_text().splitlines()[-1] == (
        f"sumzero: job {jobs['prepare']} ended with exit code 2"
    )
    assert f"the end of runs/stopped/logs/{log.name}:" in said
    assert "bad.jsonl" in said.split("the end of")[1]
    # Mended, the chain goes on from the step that failed.
    write_rows(runs.folder / "bad.jsonl", [{"id": 1, "document": "x", "target": "y"}] * 9)
    again = runs.sumzero("submit", *argv, "--steps=prepare", SMALL)
    assert "submitted" in again
    cluster.wait(submitted(runs, "stopped")["prepare"], {"COMPLETED"})
    again = runs.sumzero("submit", *argv, "--steps=prepare,train", LATER, SMALL)
    assert again.splitlines()[1].split()[::2] == ["prepare", "done"]
    again = runs.sumzero("submit", *argv, "--steps=prepare", "--again", LATER, SMALL, code=2)
    train = submitted(runs, "stopped")["train"]
    assert f"prepare is to be done, but job {train} (train), which comes after it" in again
