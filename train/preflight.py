"""Are these nodes fit for a training? Asked of all of them before it starts, in seconds.

    srun python -m sumzero.train.preflight [--bad-nodes FILE] RUN.toml [key=value ...]

Every rank tells rank 0, through a store, what it has: accelerator, versions, free space, its clock.
Then all of them sum a tensor, and neighbouring nodes exchange one, which gives a bandwidth a node.
A node is bad that does not answer, or has less than the others, or whose links are both slow. It is
named, and written to a file for the scheduler. What is wrong on all nodes is the user's fault.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from sumzero import log
from sumzero.errors import BadNodes, RankLost, RunError, SumZeroError, guarded
from sumzero.log import logger
from sumzero.ranks import Ranks, ranks, tell_exit
from sumzero.runfile import load, run_file
from sumzero.runfolder import RunFolder
from sumzero.signals import end_as_preempted
from sumzero.train.bandwidth import measured
from sumzero.train.node_facts import Facts, Speeds, faults, own_facts

_TO_LEAVE = 10.0  # seconds


class Meeting:
    """Where ranks tell each other things, in a store that rank 0 keeps; it is the last to leave.

    Rank 0 waits `seconds` for every subject, and the others far longer for rank 0.
    """

    def __init__(self, who: Ranks, seconds: float) -> None:
        self._who, self._seconds = who, seconds
        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            *(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])),
            is_master=who.is_main,
            timeout=timedelta(seconds=5 * seconds + 60),
            wait_for_workers=False,
        )

    def tell(self, subject: str, said: str = "yes") -> None:
        """By any rank."""
        self.store.set(f"{subject}/{self._who.rank}", said)

    def wait_for_leave(self) -> None:
        """By rank 0: until those that are there know its word."""
        self.tell("left")
        self.told("left", _TO_LEAVE)

    def told(self, subject: str, seconds: float | None = None) -> dict[int, str]:
        """What ranks have told, by rank, once all have or the time is over."""
        found, end = {}, time.monotonic() + (seconds or self._seconds)
        for rank in range(self._who.world):
            key = f"{subject}/{rank}"
            with suppress(dist.DistStoreError):
                if (left := end - time.monotonic()) > 0:
                    self.store.wait([key], timedelta(seconds=left))
            if self.store.check([key]):
                found[rank] = self.store.get(key).decode()
        return found

    def let_go_on(self, subject: str, *, yes: bool = True) -> None:
        """By rank 0, which lets the others go on, or leave."""
        self.store.set(subject, "yes" if yes else "no")

    def may_go_on(self, subject: str) -> bool:
        """By the others: waits for rank 0's word."""
        self.store.wait([subject])
        return bool(self.store.get(subject) == b"yes")


_SUBJECTS = ("facts", "speeds", "end")


def preflight(run_folder: Path, who: Ranks, seconds: float) -> None:
    """Examines all nodes of a launch; every rank calls it, and rank 0 logs what was found.

    Raises, on rank 0, BadNodes where nodes are not fit or have not answered for `seconds`, RankLost
    where nobody can tell whose fault it is, and RunError where none of them is fit.
    """
    if who.world % who.local_world:
        raise RunError(f"{who.world} tasks are not as many on each node: set --ntasks-per-node")
    meeting = Meeting(who, seconds)
    meeting.tell("here")
    if not who.is_main:
        _answer(meeting, run_folder, who, seconds)
        return
    try:
        facts, speeds = _examine(meeting, run_folder, who, seconds)
    except SumZeroError:
        for subject in _SUBJECTS:
            meeting.let_go_on(subject, yes=False)
        meeting.wait_for_leave()
        raise
    meeting.let_go_on("end")
    meeting.wait_for_leave()
    _log(facts, speeds)


def _answer(meeting: Meeting, run_folder: Path, who: Ranks, seconds: float) -> None:
    """What the other ranks do."""
    if meeting.may_go_on("facts"):
        meeting.tell("facts", _own(run_folder, who))
        if meeting.may_go_on("speeds"):
            meeting.tell("speeds", _measure(meeting, who, seconds))
            meeting.may_go_on("end")
    meeting.tell("left")


def _examine(
    meeting: Meeting, run_folder: Path, who: Ranks, seconds: float
) -> tuple[list[Facts], Speeds]:
    nodes = _nodes(who)
    _all_there(meeting.told("here"), nodes)
    meeting.let_go_on("facts")
    meeting.tell("facts", _own(run_folder, who))
    told = meeting.told("facts")
    _all_there(told, nodes)
    facts = [Facts(**json.loads(told[rank])) for rank in range(who.world)]
    _refuse(faults(facts))
    meeting.let_go_on("speeds")
    meeting.tell("speeds", _measure(meeting, who, seconds))
    told = meeting.told("speeds")
    found = {rank: json.loads(said) for rank, said in told.items()}
    for rank, said in found.items():
        if isinstance(said, str):
            raise RankLost(
                f"{nodes[rank]}, rank {rank}: a collective failed: {said}; where it does so again, "
                "name the network's interface in slurm/env.sh (GLOO_SOCKET_IFNAME, "
                "NCCL_SOCKET_IFNAME)"
            )
    _all_there(told, nodes)
    links: dict[str, float] = {}
    for rank, one in enumerate(facts):
        links[one.node] = max(links.get(one.node, 0.0), found[rank]["link"])
    speeds = Speeds(found[0]["all"], {} if len(links) == 1 else links)
    _refuse(faults(facts, speeds))
    return facts, speeds


def _own(run_folder: Path, who: Ranks) -> str:
    return json.dumps(asdict(own_facts(run_folder, who)))


def _measure(meeting: Meeting, who: Ranks, seconds: float) -> str:
    try:
        return json.dumps(measured(meeting.store, who, seconds))
    except RuntimeError as error:
        return json.dumps(str(error).splitlines()[0])


def _nodes(who: Ranks) -> list[str]:
    """The node of each rank, as Slurm lays them: as many on each, one node after the other."""
    names = os.environ.get("SUMZERO_NODES", "").split()
    if len(names) * who.local_world != who.world:
        return [f"of rank {rank}" for rank in range(who.world)]
    return [names[rank // who.local_world] for rank in range(who.world)]


def _all_there(told: Mapping[int, str], nodes: Sequence[str]) -> None:
    every = len(set(nodes))
    silent = list(dict.fromkeys(node for rank, node in enumerate(nodes) if rank not in told))
    if 2 * len(silent) > every:  # rank 0's own network, rather
        raise RankLost(f"{len(silent)} of {every} nodes give no answer, {silent[0]} first")
    _refuse({node: ["no answer"] for node in silent})


def _refuse(found: Mapping[str, Sequence[str]]) -> None:
    if found:
        said = "; ".join(f"node {node}: {', '.join(faults)}" for node, faults in found.items())
        raise BadNodes(said, list(found))


def _log(facts: Sequence[Facts], speeds: Speeds) -> None:
    for node in dict.fromkeys(one.node for one in facts):
        there = [one for one in facts if one.node == node]
        shared = min(one.shared_memory for one in there) / 2**30
        said = f"{node}: {len(there)} x {there[0].device}, /dev/shm {shared:.1f} GiB"
        logger.info("%s%s", said, f", {speeds.nodes[node]:.2f} GB/s" if speeds.nodes else "")
    logger.info("%s; all-reduce %.2f GB/s", facts[0].versions, speeds.all_ranks)


def main() -> int:
    """Reads the arguments and examines."""
    parser = argparse.ArgumentParser(prog="python -m sumzero.train.preflight")
    parser.add_argument("--bad-nodes", type=Path, help="the file to write names of bad nodes to")
    parser.add_argument("--seconds", type=float, default=300.0, help="to wait for a node")
    parser.add_argument("run", help="the TOML run file")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    who = ranks()
    log.configure(who)
    end_as_preempted()
    config = load(run_file(options.run), options.overrides)
    try:
        preflight(RunFolder.of(config).root, who, options.seconds)
    except BadNodes as error:
        if options.bad_nodes:
            options.bad_nodes.write_text("\n".join(error.nodes))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(tell_exit(guarded(main, is_main_rank=ranks().is_main)))
