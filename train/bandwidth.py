"""How fast ranks reach each other: an all-reduce, and each node's two neighbours."""

import os
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from sumzero.ranks import Ranks

_NUMBERS = 2**24  # float32: 64 MiB
_REPEATS = 3


def measured(store: Store, who: Ranks, seconds: float) -> dict[str, float]:
    """GB/s of an all-reduce, and of this rank's links where it is its node's first."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", who.local_rank) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a hang becomes an error
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=PrefixStore("collective", store),
        rank=who.rank,
        world_size=who.world,
        timeout=timedelta(seconds=seconds),
    )
    numbers = torch.ones(_NUMBERS, device=device)
    found = {"all": 0.0, "link": 0.0}
    if who.world > 1:
        seconds_each = _timed(lambda: dist.all_reduce(numbers), on_cuda)
        found["all"] = 2 * (who.world - 1) / who.world * numbers.nbytes / seconds_each / 1e9
    for first in (0, 1):  # first with the node after, then with the one before
        seconds_each = _exchange(numbers, who, first, on_cuda)
        if seconds_each:
            found["link"] = max(found["link"], numbers.nbytes / seconds_each / 1e9)
    dist.destroy_process_group()
    return found


def _exchange(numbers: torch.Tensor, who: Ranks, first: int, on_cuda: bool) -> float:
    """Seconds in which the first ranks of two nodes send each other the numbers; 0 without one.

    Nodes form pairs from the one numbered `first`, around the ring; an odd one out is idle.
    """
    count = who.world // who.local_world
    node = who.rank // who.local_world
    place = (node - first) % count
    other = (place ^ 1) + first
    if who.local_rank or count == 1 or place ^ 1 >= count:
        return 0.0
    peer = other % count * who.local_world
    received = torch.empty_like(numbers)

    def swap() -> None:
        for work in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, numbers, peer), dist.P2POp(dist.irecv, received, peer)]
        ):
            work.wait()

    return _timed(swap, on_cuda)


def _timed(work: Callable[[], object], on_cuda: bool) -> float:
    """Seconds of one time, of the best of some after a first one."""
    best = float("inf")
    for _ in range(_REPEATS + 1):
        begun = time.perf_counter()
        work()
        if on_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best
