"""What a rank of a launch has, and which nodes have less than the others."""

import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

from sumzero.errors import RunError
from sumzero.ranks import Ranks

_PACKAGES = ("torch", "deepspeed", "transformers", "peft", "sumzero")
_SHARED_MEMORY = Path("/dev/shm")
_MIN_SHARED_MEMORY = 256 * 2**20  # NCCL's buffers of 8 local ranks; Docker's default is 64 MiB
_MIN_TEMPORARY = 2**30
_MIN_RUN_FOLDER = 2**30
_MAX_CLOCK = 30.0  # seconds apart: file servers' leases and certificates bear no more
_SLOW = 0.5  # of the median bandwidth


@dataclass(frozen=True)
class Facts:
    """What a rank has; sizes in bytes, the clock in seconds since the epoch."""

    node: str
    device: str
    device_memory: int
    versions: str
    shared_memory: int
    temporary: int
    run_folder: int
    clock: float


@dataclass(frozen=True)
class Speeds:
    """GB/s: of an all-reduce over all ranks, and of each node's better link to a neighbour."""

    all_ranks: float
    nodes: dict[str, float]


def own_facts(run_folder: Path, who: Ranks) -> Facts:
    """Of this rank, now."""
    clock = time.time()  # first: a driver may take long to start
    device, size = _device(who)
    folder = run_folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return Facts(
        node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        device=device,
        device_memory=size,
        versions=", ".join([f"python {sys.version.split()[0]}", *map(_version, _PACKAGES)]),
        shared_memory=_free(_SHARED_MEMORY),
        temporary=_free(Path(os.environ.get("TMPDIR", "/tmp"))),
        run_folder=_free(there),
        clock=clock,
    )


def _device(who: Ranks) -> tuple[str, int]:
    """Name and bytes of this rank's accelerator; a name that begins with "none" tells why not."""
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    if not torch.cuda.is_available():
        return ("cpu", 0) if given in ("", "0") else (f"none: torch sees no GPU of {given}", 0)
    if who.local_rank >= torch.cuda.device_count():
        return f"none: {torch.cuda.device_count()} devices for {who.local_world} ranks", 0
    try:
        found = torch.cuda.get_device_properties(who.local_rank)
        torch.ones(1, device=f"cuda:{who.local_rank}").add_(1).item()
    except RuntimeError as error:  # a broken one
        return f"none: {str(error).splitlines()[0]}", 0
    return found.name, found.total_memory


def faults(facts: Sequence[Facts], speeds: Speeds | None = None) -> dict[str, list[str]]:
    """What is wrong, in words, by node; of a node that is as it should be nothing.

    Raises RunError where it is wrong on every node, or nobody can tell which of two is right.
    """
    found: dict[str, list[str]] = {}

    def look(is_wrong: Callable[[Facts], str | None]) -> None:
        wrong = {one.node: said for one in facts if (said := is_wrong(one))}
        if wrong.keys() == {one.node for one in facts}:
            raise RunError(f"all nodes: {next(iter(wrong.values()))}")
        for node, said in wrong.items():
            found.setdefault(node, []).append(said)

    look(lambda one: one.device if one.device.startswith("none") else None)
    look(lambda one: _too_little("the run's folder", one.run_folder, _MIN_RUN_FOLDER))
    look(lambda one: _too_little("/dev/shm", one.shared_memory, _MIN_SHARED_MEMORY))
    look(lambda one: _too_little("the temporary folder", one.temporary, _MIN_TEMPORARY))
    middle = median(one.clock for one in facts)
    look(
        lambda one: (
            f"its clock is {one.clock - middle:+.0f} s from the others'"
            if abs(one.clock - middle) > _MAX_CLOCK
            else None
        )
    )
    sound = [one for one in facts if one.node not in found]
    for name, value in (
        ("accelerators", lambda one: f"{one.device}, {one.device_memory / 2**30:.1f} GiB"),
        ("versions", lambda one: one.versions),
    ):
        by_node: dict[str, set[str]] = {}
        for one in sound:
            by_node.setdefault(one.node, set()).add(value(one))
        shown = {node: "; ".join(sorted(values)) for node, values in by_node.items()}
        usual = _usual(name, shown)
        for node, has in shown.items():
            if has != usual:
                found.setdefault(node, []).append(f"{name}: {has}; elsewhere: {usual}")
    if speeds and len(speeds.nodes) > 2:  # of two, nobody knows whose fault a slow link is
        usual_speed = median(speeds.nodes.values())
        for node, speed in speeds.nodes.items():
            if speed < _SLOW * usual_speed:
                said = f"its links carry {speed:.2f} GB/s; the others' {usual_speed:.2f}"
                found.setdefault(node, []).append(said)
    return found


def _usual(name: str, by_node: Mapping[str, str]) -> str:
    """What most nodes have. Raises RunError where as many have something else."""
    counts = Counter(by_node.values()).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        nodes = {value: node for node, value in by_node.items()}
        raise RunError(
            f"{name} differ: {nodes[counts[0][0]]} has {counts[0][0]}; "
            f"{nodes[counts[1][0]]} has {counts[1][0]}; take the same environment on all nodes"
        )
    return counts[0][0]


def _too_little(what: str, free: int, least: int) -> str | None:
    if free >= least:
        return None
    return f"{what} has {free / 2**20:,.0f} MiB free; {least / 2**20:,.0f} are needed"


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free if path.is_dir() else 0


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} missing"
