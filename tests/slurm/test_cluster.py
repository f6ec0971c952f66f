import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from . import programs
from .cluster import Cluster

CONNECT = """
import os, socket, sys
address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["SLURM_PROCID"] == "0":
    with socket.create_server((address, port)) as server:
        open("listening", "w").close()  # a pipe: both sides wait until the other opens it
        peer, (host, _) = server.accept()
        print("from", host, "to", socket.gethostbyname(address), peer.recv(99).decode())
else:
    open("listening").close()
    with socket.create_connection((address, port)) as peer:
        peer.sendall(f"by {socket.gethostname()}".encode())
"""
# Runs a step until it is ended, and then the step's exit code is the job's.
STEP = "#!/bin/bash\nexec srun --kill-on-bad-exit=1 sleep 1000\n"


def sleepers(cluster, node):
    lines = cluster.processes(node).items()
    return [pid for pid, line in lines if line.endswith("sleep 1000") and "srun" not in line]


def start_step(cluster, folder, *options):
    """The number of a job whose ranks run."""
    job = cluster.submit(STEP, *options, cwd=folder)
    cluster.wait(job, {"RUNNING"})
    nodes = cluster.nodes[: int(cluster.job(job)["NumNodes"])]
    cluster.until(lambda: all(sleepers(cluster, node) for node in nodes), 10, "the ranks run")
    return job


def traces(state):
    """Processes that were started with a cluster's folder in sight or live among its mounts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for name in ("cmdline", "environ", "mountinfo"):
                if str(state).encode() in (process / name).read_bytes():
                    found.append(f"{process.name} {name}")
    return found


def test_each_node_has_a_name_of_its_own(cluster):
    answers = cluster.run(["srun", "--nodes=2", "--label", "hostname"]).stdout
    assert sorted(answers.splitlines()) == ["0: node1", "1: node2"]
    assert cluster.run(["hostname"]).stdout == "ctl\n"


def test_the_nodes_of_a_job_reach_each_other_and_share_its_folder(cluster, tmp_path):
    (tmp_path / "connect.py").write_text(CONNECT)
    job = cluster.submit(
        f"""#!/bin/bash
        export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_PORT=$((20000 + SLURM_JOB_ID))
        echo "$MASTER_ADDR $SLURM_JOB_NUM_NODES $SLURM_SUBMIT_DIR ${{SLURM_RESTART_COUNT:-first}}"
        srun touch /dev/shm/own /mnt/own
        mkfifo listening
        srun {sys.executable} connect.py
        """,
        *("--nodes=2", "--job-name=a name JobState=FAILED", "--comment=what=ever Restarts=9"),
        cwd=tmp_path,
    )
    record = cluster.wait(job, {"COMPLETED"})
    said = (tmp_path / f"slurm-{job}.out").read_text().splitlines()
    assert said == [f"node1 2 {tmp_path} first", "from 10.213.0.2 to 10.213.0.1 by node2"]
    assert record["JobName"] == "a name JobState=FAILED"
    assert record["Comment"] == "what=ever Restarts=9"
    assert record["WorkDir"] == str(tmp_path)
    for node in cluster.nodes:
        cluster.run(["rm", "/dev/shm/own", "/mnt/own"], node=node)
    assert not Path("/dev/shm/own").exists()


def test_a_process_outside_finds_the_commands_on_its_path(cluster, tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/sh\ncommand -v scontrol\n")
    argv = ["sbatch", "--parsable", "--wait", "job.sh"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = (tmp_path / f"slurm-{done.stdout.strip()}.out").read_text()
    assert said.strip() == shutil.which("scontrol"), "inside, a job has Slurm's own commands"


def test_a_job_that_ended_in_another_way_is_not_waited_for(cluster, tmp_path):
    job = cluster.submit("#!/bin/sh\necho this went wrong; exit 3\n", cwd=tmp_path)
    with pytest.raises(AssertionError, match="FAILED") as failure:
        cluster.wait(job, {"COMPLETED"})
    assert "this went wrong" in str(failure.value)
    assert "_job_complete: JobId" in str(failure.value), "slurmctld's log"
    assert cluster.job(job)["ExitCode"] == "3:0"


def test_a_job_of_the_high_partition_requeues_one_of_main(cluster, tmp_path):
    cluster.set_grace(0)  # Slurm looks only every 30 s whether a time of grace is over
    low = start_step(cluster, tmp_path, "--nodes=2", "--exclusive")
    high = cluster.submit("#!/bin/sh\n", "--nodes=2", "--exclusive", "-p", "high", cwd=tmp_path)
    assert cluster.wait(high, {"COMPLETED"})["Restarts"] == "0"
    cluster.wait(low, {"RUNNING"}, restarts=1)


def test_one_rank_can_be_killed(cluster, tmp_path):
    job = start_step(cluster, tmp_path, "--nodes=2")
    (rank,) = sleepers(cluster, "node2")
    os.kill(rank, signal.SIGKILL)
    assert cluster.wait(job, {"FAILED"})["ExitCode"] in {"137:0", "143:0"}
    assert "node2: task 1: Killed" in (tmp_path / f"slurm-{job}.out").read_text()


def test_ranks_outlive_the_daemon_of_their_node(cluster, tmp_path):
    job = start_step(cluster, tmp_path)
    before = sleepers(cluster, "node1")
    cluster.kill_slurmd("node1")
    cluster.start_slurmd("node1")
    cluster.until(lambda: cluster.node_states()["node1"] == "mixed", 20, "node1 answers")
    assert sleepers(cluster, "node1") == before
    assert cluster.job(job)["JobState"] == "RUNNING"


def test_a_node_that_crashed_boots_and_works_again(cluster):
    cluster.crash("node2")
    assert cluster.processes("node2") == {}
    cluster.boot("node2")
    cluster.until(lambda: set(cluster.node_states().values()) == {"idle"}, 30, "both are idle")
    assert cluster.run(["srun", "--nodelist=node2", "hostname"]).stdout == "node2\n"


@pytest.mark.slow  # 15 to 45 s: Slurm must notice
def test_a_job_whose_node_crashed_is_requeued(cluster, tmp_path):
    job = start_step(cluster, tmp_path, "--nodes=2")
    cluster.crash("node2")
    cluster.wait(job, {"PENDING"}, restarts=1)
    assert cluster.node_states()["node2"] == "down*"
    cluster.boot("node2")
    cluster.wait(job, {"RUNNING"}, restarts=1)


def test_settling_puts_jobs_and_nodes_right(cluster, tmp_path):
    running = start_step(cluster, tmp_path, "--nodes=2", "--exclusive")
    waiting = cluster.submit(STEP, "--exclusive", cwd=tmp_path)
    cluster.crash("node1")
    cluster.kill_slurmd("node2")
    cluster.settle()
    assert cluster.node_states() == {"node1": "idle", "node2": "idle"}
    assert cluster.run(["squeue", "-h"]).stdout == ""
    for job in (running, waiting):
        assert cluster.job(job)["JobState"] in {"CANCELLED", "NODE_FAIL"}
    assert not sleepers(cluster, "node1") + sleepers(cluster, "node2")


def test_a_stopped_cluster_leaves_nothing_and_starts_again(state_folder):
    state = state_folder()
    cluster = Cluster(state, gpus=2)
    for _ in range(2):
        with cluster:
            job = start_step(cluster, state, "--nodes=2", "--gres=gpu:2")
            assert job == 1
            assert cluster.job(job)["TresPerNode"] == "gres:gpu:2"
            assert traces(state)
        assert traces(state) == []
    cluster.stop()


def test_what_hinders_a_cluster_is_said(state_folder, monkeypatch):
    assert programs.why_not() is None
    monkeypatch.setattr(programs, "PLACES", "/nowhere")
    assert programs.why_not() == (
        "a Slurm cluster needs munged, slurmctld, slurmd, sbatch, unshare, nsenter, ip, bash:"
        " apt-get install slurm-wlm munge iproute2"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert programs.why_not() == "a Slurm cluster of namespaces needs root"


def test_a_start_that_fails_half_way_leaves_nothing(state_folder):
    state = state_folder()
    with pytest.raises(RuntimeError, match="NoSuchSetting"):
        Cluster(state, extra=["NoSuchSetting=1"]).start()
    assert traces(state) == []


def test_a_cluster_whose_tests_were_killed_leaves_nothing(cluster, state_folder):
    state = state_folder()
    program = f"from slurm.cluster import Cluster\nCluster('{state}').start()\nprint()\ninput()"
    tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(
        argv, env=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"\n"
        assert traces(state)
        process.kill()
    cluster.until(lambda: not traces(state), 10, "the cluster is gone")
