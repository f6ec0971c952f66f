"""Other ways than train.sbatch to start the ranks of two nodes: all make the same steps."""

import os
import re
import sys
from pathlib import Path

import pytest

from sumzero.errors import EXIT_PREEMPTED
from sumzero.status import status

from .runs import SCRIPTS, Runs, events, steps
from .sshd import listening, why_no_ssh

FEW = "train.max_steps=20"
MANY = "train.max_steps=1000"
RANK = re.compile(r"\S*python\S* -u -m sumzero\.train ")


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory, model_folder):
    return Runs(cluster, tmp_path_factory.mktemp("user"), model_folder)


@pytest.fixture(scope="module")
def environment(cluster):
    """Of a user on the login node."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{cluster.environment['PATH']}"
    # As env.sh does for jobs of a core a task: the sum of a product depends on the threads.
    ours = {"PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return cluster.environment | ours | {"PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def by_srun(cluster, runs, environment):
    """A run whose ranks are told by `srun` alone, as in train.sbatch, where they are to meet."""
    run = runs.new("srun")
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "python", "-m", "sumzero.train"]
    command += [runs.file, "name=srun", FEW]
    cluster.run(command, cwd=runs.folder, env=environment, timeout=180)
    assert_trained_by_two(run)
    return run


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The sbatch script of slurm/README.md, as it stands there."""
    lines = (SCRIPTS / "README.md").read_text(encoding="utf-8").splitlines()
    begin = lines.index("    #!/bin/bash")
    end = next(i for i in range(begin, len(lines)) if not lines[i].startswith("    "))
    file = tmp_path_factory.mktemp("script") / "deepspeed.sbatch"
    file.write_text("".join(line.removeprefix("    ") + "\n" for line in lines[begin:end]))
    return file


@pytest.fixture(scope="module")
def path_with_ssh(cluster, environment):
    """The PATH of a user who reaches the nodes by ssh."""
    if hindrance := why_no_ssh():
        pytest.skip(hindrance)
    with listening(cluster) as folder:
        yield f"{folder}{os.pathsep}{environment['PATH']}"


def assert_trained_by_two(run):
    assert [x["ranks"] for x in events(run, "start")] == [2]
    assert status(run)["state"] == "finished"


def by_deepspeed(runs, script, run, *arguments):
    """The job of a training by DeepSpeed's runner for Slurm."""
    shape = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    return runs.sbatch(script, *shape, runs.file, f"name={run.root.name}", *arguments)


def marker(runs, job):
    """The exit code that rank 0 of a job wrote."""
    (file,) = runs.folder.glob(f"*-{job}.exit")
    return int(file.read_text())


def test_deepspeeds_runner_for_slurm_makes_the_steps_of_srun_alone(cluster, runs, by_srun, script):
    run = runs.new("deepspeed")
    job = by_deepspeed(runs, script, run, FEW)
    cluster.wait(job, {"COMPLETED"}, timeout=180)
    assert marker(runs, job) == 0
    assert_trained_by_two(run)
    assert steps(run) == steps(by_srun)


def test_under_deepspeeds_runner_the_ranks_get_slurms_signals(cluster, runs, script):
    run = runs.new("signalled")
    job = by_deepspeed(runs, script, run, MANY)
    cluster.until(lambda: len(events(run, "step")) > 3, 120, "it makes steps")
    for node in ("node1", "node2"):
        assert len(list(filter(RANK.match, cluster.processes(node).values()))) == 1
    cluster.run(["scancel", "--signal=USR1", str(job)])
    record = cluster.wait(job, {"FAILED"}, timeout=60)
    assert record["ExitCode"] == f"{EXIT_PREEMPTED}:0"
    assert marker(runs, job) == EXIT_PREEMPTED
    found = status(run)
    assert found["state"] == "preempted"
    assert found["checkpoint_step"] == found["step"]


def test_pdsh_makes_the_same_steps(cluster, runs, environment, by_srun, path_with_ssh):
    run = runs.new("pdsh")
    (runs.folder / "hosts").write_text("".join(f"{node} slots=1\n" for node in cluster.nodes))
    carried = ("PATH", "OMP_NUM_THREADS", "DS_ACCELERATOR")
    values = {name: environment[name] for name in carried}
    values["SUMZERO_EXIT_FILE"] = runs.folder / "pdsh.exit"
    lines = [f"{name}={value}\n" for name, value in values.items()]
    (runs.folder / "pdsh.env").write_text("".join(lines))
    command = ["deepspeed", "--hostfile", "hosts", "--launcher", "pdsh"]
    command += ["--module", "sumzero.train", runs.file, "name=pdsh", FEW]
    # Its default, .deepspeed_env, would be read by the other tests' launches too.
    user = environment | {"PATH": path_with_ssh, "DS_ENV_FILE": "pdsh.env"}
    cluster.run(command, cwd=runs.folder, env=user, timeout=180)
    assert values["SUMZERO_EXIT_FILE"].read_text() == "0\n"
    assert_trained_by_two(run)
    assert steps(run) == steps(by_srun)
