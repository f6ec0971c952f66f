"""Where the engines of this machine run: each on GPUs of its own, or on CPU cores of its own.

vLLM refuses to run one dense model several times within an engine, and engines that share cores
slow each other down far below one: what each has is decided here, before any is started.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sumzero.config import Generate
from sumzero.errors import ConfigError
from sumzero.infer.installed_vllm import is_on_cpu
from sumzero.log import logger

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """The GPUs that an engine sees, as CUDA names them, or the cores that it is bound to.

    Without either it has all that its process has.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


def places(settings: Generate) -> list[Place]:
    """A place for each engine of this machine. Raises ConfigError where there is none for one."""
    if is_on_cpu():
        return core_groups(settings.engines or 1, _cores())
    return gpu_groups(settings.engines, settings.tensor_parallel, _gpus())


def gpu_groups(engines: int | None, each: int, gpus: Sequence[str]) -> list[Place]:
    """Groups of `each` GPUs, as many as there are or `engines`."""
    room = len(gpus) // each
    if not room:
        raise ConfigError(
            f"generate.tensor_parallel: {each} GPUs an engine, and there are {len(gpus)} here"
        )
    if engines is not None and engines > room:
        raise ConfigError(
            f"generate.engines: {engines} of {each} GPUs each, and there are {len(gpus)} here"
        )
    if engines is None and (idle := len(gpus) % each):
        logger.warning("generate.tensor_parallel: %d of %d GPUs stay idle", idle, len(gpus))
    starts = range(0, (engines or room) * each, each)
    return [Place(gpus=tuple(gpus[start : start + each])) for start in starts]


def core_groups(engines: int, cores: Sequence[int]) -> list[Place]:
    """The cores dealt out in their order; a lone engine is bound to none."""
    if engines > len(cores):
        raise ConfigError(f"generate.engines: {engines}, and there are {len(cores)} cores here")
    if engines == 1:
        return [Place()]
    cuts = [len(cores) * index // engines for index in range(engines + 1)]
    return [Place(cores=tuple(cores[a:b])) for a, b in pairwise(cuts)]


def _gpus() -> list[str]:
    """The GPUs that this process sees, by what CUDA_VISIBLE_DEVICES calls them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def _cores() -> list[int]:
    """The cores that this process may use; the threads of one follow each other."""
    return sorted(os.sched_getaffinity(0), key=lambda core: (_first_thread(core), core))


def _first_thread(core: int) -> int:
    """The first of the hardware threads that share a core, where the system tells."""
    file = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return int(file.read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return core
