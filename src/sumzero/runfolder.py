"""The run folder: where every stage finds what the one before it left, and what is whole.

A file or folder under its final name is whole: writers write beside it and rename.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import tomli_w

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.log import Events
from sumzero.runfile import as_dict


class RunFolder:
    """The paths of a run. Nothing is created until something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.environment = root / "environment.json"
        self.scratch_model = root / "model"
        self.data = root / "data"
        self.rejected = root / "data" / "rejected.jsonl"
        self.data_report = root / "data" / "data_report.json"
        self.plan = root / "data" / "plan.json"
        self.checkpoints = root / "checkpoints"
        self.tensorboard = root / "tensorboard"
        self.export = root / "export"
        self.adapter = root / "adapter"
        self.inputs = root / "inputs"
        self.generations = root / "generations"
        self.scores = root / "scores.json"
        self.attributions = root / "attributions.jsonl"
        self.report = root / "report.html"
        self.events = Events(root / "events.jsonl")

    @classmethod
    def of(cls, config: RunConfig) -> "RunFolder":
        """The folder of a run: `runs`/`name`."""
        return cls(Path(config.runs) / config.name)

    def begin(self, config: RunConfig) -> None:
        """Creates the folder and writes the resolved settings."""
        self.root.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.config) as out:
            out.write(tomli_w.dumps(as_dict(config)))

    def model_path(self, config: RunConfig) -> str:
        """The model to start from: the folder or Hub name, or the one made from scratch."""
        return str(self.scratch_model) if config.model.path == "scratch" else config.model.path


@contextmanager
def alone(folder: Path, what: str, patience: float = 0.0, *, lock: str = ".lock") -> Iterator[None]:
    """Holds a folder for one process. Raises RunError where another one has it for `patience`.

    Work that does not disturb another in the same folder has a `lock` file of its own. The lock
    ends with the process, however it ends. File systems without locks are not guarded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with (folder / lock).open("a+") as file:
        while not try_lock(file):
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read() or what
                raise RunError(f"{folder}: another `{holder}` is at work there; wait for it")
            time.sleep(0.1)
        file.truncate(0)
        file.write(what)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def is_held(folder: Path, what: str) -> bool:
    """Whether a process holds the folder for `what`, by `alone`."""
    try:
        with (folder / ".lock").open() as file:
            return not try_lock(file, fcntl.LOCK_SH) and file.read() == what
    except FileNotFoundError:
        return False


def try_lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock was got; so it seems where the file system has none."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under `path` whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path` whole, or not at all; one that is there is replaced."""
    partial, old = (path.with_name(path.name + suffix) for suffix in (".partial", ".old"))
    if old.exists() and not path.exists():
        old.rename(path)  # killed between the two renames below
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_file(path) as out:
        json.dump(value, out, indent=2, ensure_ascii=False, sort_keys=False)
        out.write("\n")


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSONL file of ours; none where there is no file.

    Lines that a kill or a full disk has torn are left out: none is ever the only copy of a result.
    """
    if not path.is_file():
        return []
    values = []
    with path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError):  # bytes that are no text too
                values.append(json.loads(line))
    return values


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value a line, atomically."""
    with atomic_file(path) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Reads a JSON file that the stage `made_by` wrote. Raises RunError where it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run `{made_by}` first") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); run `{made_by}` again") from None
