"""Checkpoints that are whole or absent: written beside, verified, renamed, only then pointed to.

    checkpoints/step-000400/  one shard a rank and `sumzero.json` (state, files, checksums)
    checkpoints/latest, best  links to the newest and the best whole one

A kill at any moment leaves the checkpoints before it as they were. Loading always names the folder:
DeepSpeed, given none, warns and starts from zero.
"""

import errno
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from sumzero.errors import RunError, SumZeroError
from sumzero.log import logger
from sumzero.ranks import Ranks
from sumzero.train import universal
from sumzero.train.identity import check_resumable as check_resumable
from sumzero.train.layout import shard_layout
from sumzero.train.manifest import STATE, content_fault, is_best, sizes_fault
from sumzero.train.manifest import read_state as read_state
from sumzero.train.shards import flush_folder

_T = TypeVar("_T")
PARTIAL, OLD, DAMAGED = ".partial", ".old", ".damaged"  # what is no checkpoint, or no more


@dataclass(frozen=True)
class Resume:
    """The checkpoint to go on from; `universal` where it is loaded in its converted form."""

    name: str
    state: dict[str, Any]
    universal: bool


def find(
    folder: Path, expected: dict[str, Any], who: Ranks, settings: dict[str, Any]
) -> Resume | None:
    """The newest whole checkpoint, verified and, where the ranks are others, converted.

    All ranks call it together, within a process group; each reads a share of the files, which all
    must be able to see. `expected` is the run's `identity`, `settings` DeepSpeed's. A damaged
    checkpoint is named in a warning, set aside and an older one taken. None where there is none.
    Raises RunError where all are damaged, or the newest whole one is of another run.
    """
    names = on_main(who, partial(_tidied, folder))
    damaged: dict[str, str] = {}
    for name in reversed(names):
        state, fault = on_main(who, partial(_examined, folder, name, expected))
        if fault is None:
            faults: list[str | None] = [None] * who.world
            own = content_fault(folder / name, state, who.rank, who.world)
            dist.all_gather_object(faults, own)
            fault = next((fault for fault in faults if fault is not None), None)
        if fault is not None:
            damaged[name] = fault
            continue
        layout = shard_layout(settings, who.world)
        converted = universal.needs_conversion(state, layout, folder / name)
        if converted:
            on_main(who, partial(universal.make, folder, name, state))
        for other, fault in damaged.items():
            aside = folder / f"{other}{DAMAGED}"
            on_main(who, partial(_set_aside, folder, other))
            if who.is_main:
                logger.warning("%s: damaged (%s); kept as %s", folder / other, fault, aside.name)
        on_main(who, partial(_point_again, folder, name))
        return Resume(name, state, converted)
    if damaged:
        faults_ = "; ".join(f"{name}: {fault}" for name, fault in damaged.items())
        raise RunError(
            f"{folder}: no checkpoint is whole ({faults_}); bring one back, or remove the folder "
            "to train from the start"
        )
    return None


def verified(folder: Path, name: str) -> dict[str, Any]:
    """The state of a checkpoint whose files are all as written. Raises RunError otherwise."""
    state = read_state(folder, name)
    fault = sizes_fault(folder / name, state) or content_fault(folder / name, state, 0, 1)
    if fault:
        raise RunError(f"{folder / name}: damaged ({fault})")
    return state


def whole(folder: Path) -> list[str]:
    """Names of the whole checkpoints, oldest first; their files are not read."""
    if not folder.is_dir():
        return []
    names = (
        entry.name
        for entry in folder.iterdir()
        if re.fullmatch(r"step-\d{6,}", entry.name) and (entry / STATE).is_file()
    )
    return sorted(names, key=step_of)


def newest(folder: Path) -> str | None:
    """The name of the newest whole checkpoint."""
    names = whole(folder)
    return names[-1] if names else None


def resolve(folder: Path, name: str | None = None) -> str:
    """The whole checkpoint that is meant: "step-000400", "400", or a link such as "best"; or the
    newest.

    Raises RunError, with what is there, where it is not.
    """
    there = whole(folder)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    links = [path.name for path in paths if path.is_symlink() and path.name not in there]
    meant = there[-1] if name is None and there else name
    if name in links:
        meant = (folder / name).readlink().name
    elif name and (number := re.fullmatch(r"(?:step-)?(\d+)", name)):
        meant = f"step-{int(number[1]):06d}"
    if meant is None or meant not in there:
        raise RunError(
            f"{folder}: no whole checkpoint{f' {meant}' if meant else ''} "
            f"(there: {', '.join(there + links) or 'none'}); train first: deepspeed --module "
            "sumzero.train RUN.toml"
        )
    return meant


def step_of(name: str) -> int:
    """The step of a checkpoint by its name."""
    return int(name.removeprefix("step-"))


def point(folder: Path, link: str, name: str) -> None:
    """Makes `link` ("latest" or "best") point to a checkpoint, atomically."""
    new = folder / f"{link}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(name)
    new.replace(folder / link)
    flush_folder(folder)


def on_main(who: Ranks, work: Callable[[], _T]) -> _T:
    """Does it on rank 0; all ranks return the same, or raise the same fault.

    What is no fault of the user's keeps its type and traceback on rank 0.
    """
    box: list[Any] = [None, None]
    bug: Exception | None = None
    if who.is_main:
        try:
            box[0] = work()
        except (SumZeroError, OSError) as error:
            box[1] = error
        except Exception as error:
            bug = error
            box[1] = RunError(f"rank 0: {type(error).__name__}: {error}")
    dist.broadcast_object_list(box, src=0)
    if bug is not None:
        raise bug
    if box[1] is not None:
        raise box[1]
    result: _T = box[0]
    return result


def remove(left: Path) -> None:
    """Removes what is no checkpoint. Files that NFS keeps, since they are read, stay for later."""
    try:
        shutil.rmtree(left)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise
        logger.warning("%s: cannot be removed yet (%s)", left, error.strerror)


def _tidied(folder: Path) -> list[str]:
    """Removes what a kill has left; returns the names of what may be checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    for left in (*folder.glob(f"*{PARTIAL}"), *folder.glob("*.new")):
        is_folder = left.is_dir() and not left.is_symlink()
        remove(left) if is_folder else left.unlink()
    for old in folder.glob(f"*{OLD}"):
        name = folder / old.name.removesuffix(OLD)
        remove(old) if name.exists() else old.rename(name)
    names = [path.name for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(names, key=step_of)


def _examined(
    folder: Path, name: str, expected: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """A checkpoint's state and its fault. Raises RunError where it is of another run."""
    try:
        state = read_state(folder, name)
    except RunError as error:
        return {}, str(error)
    check_resumable(state, expected, folder / name)
    return state, sizes_fault(folder / name, state)


def _point_again(folder: Path, newest_: str) -> None:
    """Mends the links: a kill can come before them, and what they name may be set aside."""
    point(folder, "latest", newest_)
    names = [name for name in whole(folder) if step_of(name) <= step_of(newest_)]
    best = [name for name in names if is_best(folder, name)]
    if best:
        point(folder, "best", best[-1])
    elif (folder / "best").is_symlink() and not (folder / "best").exists():
        (folder / "best").unlink()


def _set_aside(folder: Path, name: str) -> None:
    shutil.rmtree(folder / f"{name}{DAMAGED}", ignore_errors=True)
    (folder / name).rename(folder / f"{name}{DAMAGED}")
