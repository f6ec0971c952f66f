"""Nodes that are not fit are named before a training starts."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sumzero.errors import RunError
from sumzero.pipeline import free_port
from sumzero.train.node_facts import Facts, Speeds, faults

GIB = 2**30
NODES = [f"node{n}" for n in range(1, 5)]


def facts(**changes):
    """Of four nodes with two ranks each; `changes` by name of a node."""
    good = Facts(
        **{"node": "", "device": "H100", "device_memory": 80 * GIB, "versions": "torch 2.13"},
        **{"shared_memory": 8 * GIB, "temporary": 9 * GIB, "run_folder": 99 * GIB, "clock": 1e9},
    )
    return [replace(good, node=node, **changes.get(node, {})) for node in NODES for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "none: 1 devices for 2 ranks", "device_memory": 0}, "none: 1 devices for 2"),
        ({"device_memory": 40 * GIB}, "accelerators: H100, 40.0 GiB; elsewhere: H100, 80.0 GiB"),
        ({"versions": "torch 2.12"}, "versions: torch 2.12; elsewhere: torch 2.13"),
        ({"shared_memory": 2**26}, "/dev/shm has 64 MiB free; 256 are needed"),
        ({"temporary": 0}, "the temporary folder has 0 MiB free; 1,024 are needed"),
        ({"clock": 1e9 - 3600}, "its clock is -3600 s from the others'"),
    ],
)
def test_the_one_node_that_is_worse_is_named_with_what_is_wrong(change, told):
    (found,) = faults(facts(node3=change)).items()
    assert found[0] == "node3"
    (said,) = found[1]
    assert said.startswith(told)


def test_nodes_that_are_alike_are_fit():
    assert faults(facts()) == {}
    assert faults(facts(), Speeds(9.0, dict.fromkeys(NODES, 3.0))) == {}


def test_what_is_wrong_everywhere_is_no_nodes_fault():
    with pytest.raises(RunError, match=r"all nodes: the run's folder has 5 MiB free"):
        faults(facts(**{node: {"run_folder": 5 * 2**20} for node in NODES}))
    halves = {node: {"versions": "torch 2.12"} for node in NODES[:2]}
    with pytest.raises(RunError, match=r"versions differ: node\d has torch 2\.1\d; node\d has"):
        faults(facts(**halves))


def test_a_node_with_two_slow_links_is_named_and_not_its_neighbours():
    speeds = {"node1": 3.0, "node2": 3.1, "node3": 0.4, "node4": 2.9}
    found = faults(facts(), Speeds(0.4, speeds))
    assert found == {"node3": ["its links carry 0.40 GB/s; the others' 2.95"]}
    two = [one for one in facts() if one.node in NODES[:2]]
    assert faults(two, Speeds(0.4, {"node1": 0.4, "node2": 3.0})) == {}  # whose fault is it?


def launch(run_file, ranks, world, *options):
    """Starts some of the ranks of a launch; returns (exit code, what it said) of each."""
    names = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sumzero.train.preflight", *options, str(run_file)],
            env={
                **os.environ,
                **{name: str(value) for name, value in names.items()},
                **{"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
                "SLURMD_NODENAME": f"node{rank + 1}",
                "SUMZERO_NODES": "\n".join(f"node{n + 1}" for n in range(world)),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for rank in ranks
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.fixture
def run_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\n[model]\npath = "model"\n')
    return file


def test_two_ranks_that_are_fit_are_told_of_with_their_bandwidth(run_file):
    (code, said), (other, _) = launch(run_file, [0, 1], 2)
    assert (code, other) == (0, 0), said
    for node in ("node1: 1 x cpu", "node2: 1 x cpu"):
        assert node in said
    assert "GB/s" in said


def test_a_node_that_does_not_answer_is_named_for_the_scheduler(run_file, tmp_path):
    bad = tmp_path / "bad"
    options = ("--seconds", "20", "--bad-nodes", str(bad))
    (code, said), (other, quiet) = launch(run_file, [0, 2], 3, *options)
    assert code == 77, said
    assert "sumzero: node node2: no answer" in said
    assert bad.read_text() == "node2"
    assert other == 0
    assert "Traceback" not in quiet


def test_where_most_do_not_answer_none_is_called_bad(run_file, tmp_path):
    bad = tmp_path / "bad"
    options = ("--seconds", "1", "--bad-nodes", str(bad))
    ((code, said),) = launch(run_file, [0], 3, *options)
    assert code == 76
    assert "sumzero: 2 of 3 nodes give no answer, node2 first" in said
    assert not bad.exists()


def test_one_dead_accelerator_of_two_nodes_is_its_nodes_fault():
    two = [one for one in facts(node2={"device": "none: ECC error"}) if one.node in NODES[:2]]
    assert faults(two) == {"node2": ["none: ECC error"]}
