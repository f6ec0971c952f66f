"""Checkpoints that are whole or absent: written beside, renamed, and only then pointed to.

    checkpoints/step-000400/  one shard a rank and `sumzero.json` (step, plan, settings)
    checkpoints/latest        a link to the newest whole one

A kill at any moment leaves the previous checkpoint as it was. Loading always names the folder:
DeepSpeed, given none, warns and starts from zero.
"""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sumzero.config import Train
from sumzero.errors import RunError
from sumzero.ranks import Ranks
from sumzero.runfolder import read_json, write_json
from sumzero.train.engine import Engine

_STATE = "sumzero.json"
_KEPT = 2


@dataclass(frozen=True)
class Resume:
    name: str
    state: dict[str, Any]
    universal: bool = False


def name_of(step: int) -> str:
    return f"step-{step:06d}"


def point_best(folder: Path, name: str) -> None:
    _point(folder / "best", name)


def find(folder: Path, expected: dict[str, Any], who: Ranks) -> Resume | None:
    name = newest(folder)
    if name is None:
        return None
    state = read_state(folder, name)
    check_resumable(state, expected, folder / name)
    return Resume(name, state)


def save(
    engine: Engine, folder: Path, step: int, state: dict[str, Any], *, main: bool, train: Train
) -> float:
    """Saves as step-N and points `latest` to it; all ranks call it together.

    `state` is written by rank 0 as JSON. Older checkpoints than the last two are removed.
    """
    begun = time.monotonic()
    name = name_of(step)
    partial = folder / f"{name}.partial"
    if main:
        shutil.rmtree(partial, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    try:
        engine.save(folder, partial.name, {})
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)  # gives a full disk its room back
        raise
    if main:
        write_json(partial / _STATE, {"step": step, **state})
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        _point(folder / "latest", name)
        for old in whole(folder)[:-_KEPT]:
            shutil.rmtree(folder / old)
    dist.barrier()
    return time.monotonic() - begun


def whole(folder: Path) -> list[str]:
    """Names of the whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    names = (
        entry.name
        for entry in folder.iterdir()
        if re.fullmatch(r"step-\d{6,}", entry.name) and (entry / _STATE).is_file()
    )
    return sorted(names, key=lambda name: int(name.removeprefix("step-")))


def newest(folder: Path) -> str | None:
    """The name of the newest whole checkpoint."""
    names = whole(folder)
    return names[-1] if names else None


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """What rank 0 wrote beside the shards of a checkpoint. Raises RunError where it is damaged."""
    state: dict[str, Any] = read_json(folder / name / _STATE, "deepspeed --module sumzero.train")
    return state


def check_resumable(state: dict[str, Any], expected: dict[str, Any], where: Path) -> None:
    """Raises RunError where the checkpoint is of other data, settings or number of ranks."""
    changed = [key for key, value in expected.items() if state.get(key) != value]
    if changed:
        details = ", ".join(f"{key} ({state.get(key)} -> {expected[key]})" for key in changed)
        raise RunError(
            f"{where}: cannot be used: {details} changed since; give the run another name, or "
            "remove its checkpoints folder to train from the start"
        )


def _point(link: Path, name: str) -> None:
    new = link.with_name(link.name + ".new")
    new.unlink(missing_ok=True)
    os.symlink(name, new)
    new.replace(link)
