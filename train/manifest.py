"""`sumzero.json` of a checkpoint: the run's state, and every file with its size and checksum.

    {"step": ..., (state of the run), "checkpoint": {"layout", "trained", "files": {path: ...}}}

Each rank says what it wrote in `written-RANK.json` beside its shard; rank 0 makes one manifest of
them, so that nothing needs to be sent, also while training goes on.
"""

from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.runfolder import read_json, write_json
from sumzero.train.shards import checksum

STATE = "sumzero.json"
_MADE_BY = "deepspeed --module sumzero.train"


def write_part(folder: Path, rank: int, records: dict[str, Any]) -> None:
    """Says what a rank has written to a checkpoint that is being made."""
    write_json(_part(folder, rank), records)


def is_written(folder: Path, world: int) -> bool:
    """Whether every rank has written its part."""
    return all(_part(folder, rank).is_file() for rank in range(world))


def write_manifest(
    folder: Path, world: int, state: dict[str, Any], about: dict[str, Any]
) -> dict[str, Any]:
    """Joins the parts of all ranks, and compares with what lies there; returns the manifest.

    Raises RunError where a file is missing or of another size.
    """
    files: dict[str, Any] = {}
    for rank in range(world):
        files |= read_json(_part(folder, rank), _MADE_BY)
    manifest = {**state, "checkpoint": {**about, "files": files}}
    if fault := sizes_fault(folder, manifest):
        raise RunError(f"{folder}: {fault}")
    for rank in range(world):
        _part(folder, rank).unlink()
    write_json(folder / STATE, manifest)
    return manifest


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """What rank 0 wrote beside the shards of a checkpoint. Raises RunError where it is damaged."""
    file = folder / name / STATE
    state = read_json(file, _MADE_BY)
    if not isinstance(state, dict) or "step" not in state:
        raise RunError(f"{file} is damaged (it says no step); run `{_MADE_BY}` again")
    return state


def is_best(folder: Path, name: str) -> bool:
    """Whether a checkpoint had the best evaluation when it was saved; no where it is damaged."""
    try:
        return bool(read_state(folder, name)["checkpoint"]["best"])
    except (RunError, KeyError, TypeError):
        return False


def sizes_fault(folder: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with the files of a checkpoint by their sizes alone, in words."""
    files = _files(manifest)
    if not files:
        return "its manifest names no files"
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != record["bytes"]:
            return f"{name} has {size} bytes in place of {record['bytes']}"
    return None


def content_fault(folder: Path, manifest: dict[str, Any], share: int, shares: int) -> str | None:
    """What is wrong with this rank's share of the files by their checksums, in words."""
    for name, record in list(sorted(_files(manifest).items()))[share::shares]:
        try:
            found = checksum(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != record["xxh3"]:
            return f"{name} is not what was written (checksum {found})"
    return None


def _files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    files = manifest.get("checkpoint", {}).get("files", {})
    return files if isinstance(files, dict) else {}


def _part(folder: Path, rank: int) -> Path:
    return folder / f"written-{rank:05d}.json"
