"""The files that one rank writes of a checkpoint: hashed as they are written, then flushed to disk.

DeepSpeed hands what is to be saved to its checkpoint engine, an object with the methods below;
`ShardFiles` is ours. It writes at once, or copies everything to host memory and writes in a thread
while training goes on. Reading a file back right after it was written would mostly read the
kernel's cache, so the checksum is that of the bytes handed over; a resume reads and compares them.

XXH3 (128 bits) finds accidental damage at memory speed; it does not protect against forgery.
"""

import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import torch
import xxhash
from torch.serialization import get_crc32_options, set_crc32_options

_CHUNK = 1 << 24  # bytes read at a time


class ShardFiles:
    """What DeepSpeed saves through, for one save of one rank.

    `records` has {"bytes", "xxh3"} by path below `folder`; `error` the first fault, after which
    nothing more is written. Faults are kept and not raised: the other ranks wait in collectives.
    """

    def __init__(self, folder: Path, *, later: bool) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None
        self._folder = folder
        self._later = later
        self._waiting: list[tuple[Any, Path]] = []
        self._thread: threading.Thread | None = None

    def save(self, state_dict: Any, path: str) -> None:
        """Writes one file now, or keeps a copy of its content to be written by `start`."""
        if self._later:
            self._waiting.append((to_host(state_dict), Path(path)))
        else:
            self._write(state_dict, Path(path))

    def start(self, then: Callable[[dict[str, Any]], None]) -> None:
        """Writes what was kept, in a thread where it may be later, and calls `then` with records.

        Files that are there already are hashed too.
        """
        if self._later:
            self._thread = threading.Thread(target=self._write_waiting, args=(then,), daemon=True)
            self._thread.start()
        else:
            self._write_waiting(then)

    def join(self) -> None:
        """Waits until all is written."""
        if self._thread is not None:
            self._thread.join()

    def add_folder(self, folder: Path) -> None:
        """Files that DeepSpeed copied by itself, such as optimizer state that lies on NVMe."""
        if folder.is_dir():
            self._waiting += [(None, file) for file in sorted(folder.rglob("*")) if file.is_file()]

    def _write_waiting(self, then: Callable[[dict[str, Any]], None]) -> None:
        while self._waiting:
            content, path = self._waiting.pop(0)
            if content is None:
                self._guarded(path, partial(self._hash, path))
            else:
                self._write(content, path)
        self._guarded(self._folder, lambda: then(self.records))

    def _write(self, content: Any, path: Path) -> None:
        self._guarded(path, partial(self._write_one, content, path))

    def _guarded(self, path: Path, work: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            work()
        except OSError as error:
            unnamed = error.errno is not None and error.filename is None
            self.error = OSError(error.errno, error.strerror, str(path)) if unnamed else error
        except Exception as error:
            self.error = error

    def _write_one(self, content: Any, path: Path) -> None:
        self._record(path, *_write(content, path))

    def _hash(self, path: Path) -> None:
        self._record(path, *_hash_flushed(path))

    def _record(self, path: Path, size: int, digest: str) -> None:
        name = path.relative_to(self._folder).as_posix()
        self.records[name] = {"bytes": size, "xxh3": digest}

    # What else DeepSpeed asks of a checkpoint engine.

    def create(self, info: Any) -> None:
        """Nothing is to be prepared."""

    def commit(self, info: Any) -> bool:
        """Whether a save is whole is decided by `checkpoint`."""
        return True

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes the folder of a file."""
        self._guarded(Path(path), lambda: os.makedirs(path, exist_ok=exist_ok))

    def is_decoupled(self) -> bool:
        """DeepSpeed need not wait for us before the next update: what it gave us was copied."""
        return False

    def preserves_storage_sharing(self) -> bool:
        """torch.save writes a storage once."""
        return True

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        """Rank 0 writes what is the same on all."""
        return dp_rank == 0


def to_host(content: Any) -> Any:
    """A copy of nested containers with their tensors in host memory; tied tensors stay tied."""
    copies: dict[Any, torch.Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
            if key not in copies or not value.numel():
                copies[key] = value.detach().to("cpu", copy=True)
            return copies[key]
        if isinstance(value, dict):
            return type(value)((key, copy(x)) for key, x in value.items())
        if type(value) in (list, tuple):
            return type(value)(copy(x) for x in value)
        return value

    return copy(content)


def checksum(path: Path) -> str:
    """The XXH3 checksum of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder last: new, renamed and removed ones."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _HashedFile:
    """A file that hashes what is written to it, and keeps the fault that torch hides."""

    def __init__(self, file: io.FileIO) -> None:
        self.size = 0
        self.digest = xxhash.xxh3_128()
        self.error: OSError | None = None
        self._file = file

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""


def _write(content: Any, path: Path) -> tuple[int, str]:
    """Writes a file by torch.save; returns its size and checksum once it is on the disk."""
    with path.open("wb", buffering=0) as file:
        out = _HashedFile(file)
        before = get_crc32_options()
        set_crc32_options(False)  # a second, slower checksum, which torch.load never looks at
        try:
            torch.save(content, cast(IO[bytes], out))
        except RuntimeError:
            if out.error is None:
                raise
            raise out.error from None
        finally:
            set_crc32_options(before)
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    if size != out.size:
        raise OSError(f"{path}: {size} bytes arrived of {out.size}")
    return size, out.digest.hexdigest()


def _hash_flushed(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size, checksum(path)
