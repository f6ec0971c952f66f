"""The rows of a generation that are there: for each input, in which file and where in it.

    generations/FINGERPRINT/shard-*.jsonl

Rows stay on disk; 12 bytes an input say where. A torn last line is one that is being written, or
that a kill has left: no row.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sumzero.errors import RunError
from sumzero.infer.inputs import Inputs

Row = dict[str, Any]
_TOGETHER = 1024  # rows that are looked up at once
_OPEN_FILES = 128


class Rows:
    """What `there` has found; `has` (N) tells which inputs have a row."""

    def __init__(self, where: Path, num_inputs: int) -> None:
        self._where = where
        self._files: list[Path] = []
        self._file: NDArray[np.int32] = np.full(num_inputs, -1, np.int32)
        self._offset: NDArray[np.int64] = np.zeros(num_inputs, np.int64)
        self._num_unknown = 0
        self._first_unknown = ""

    def __len__(self) -> int:
        return int(self.has.sum())

    @property
    def has(self) -> NDArray[np.bool_]:
        """Whether each input has its row (N)."""
        return self._file >= 0

    def prove(self, inputs: Inputs) -> None:
        """Raises RunError where an input has no row, or a row no input."""
        missing = np.flatnonzero(~self.has)
        if len(missing) or self._num_unknown:
            first = min(inputs.ids(missing), default=self._first_unknown)
            raise RunError(
                f"{self._where}: {len(missing)} inputs have no row, {self._num_unknown} rows have "
                f"no input, {first!r} first"
            )

    def in_order(self, inputs: Inputs) -> Iterator[tuple[str, Row]]:
        """The rows, each as its line and as what it says, in the order of the inputs.

        Raises RunError where a line is not the input's row any more.
        """
        opened: dict[int, IO[bytes]] = {}
        try:
            for start in range(0, len(inputs), _TOGETHER):
                numbers = np.arange(start, min(start + _TOGETHER, len(inputs)))
                files, offsets = self._file[numbers].tolist(), self._offset[numbers].tolist()
                for file, offset, id_ in zip(files, offsets, inputs.ids(numbers), strict=True):
                    if file not in opened:
                        if len(opened) == _OPEN_FILES:  # there may be more than a process may have
                            opened.pop(next(iter(opened))).close()
                        opened[file] = self._files[file].open("rb")
                    if opened[file].tell() != offset:
                        opened[file].seek(offset)
                    line = opened[file].readline()
                    yield line.decode(), _row(self._files[file], line, id_)
        finally:
            for content in opened.values():
                content.close()

    def add_file(self, file: Path, inputs: Inputs) -> None:
        """Notes the whole rows of a file. Raises RunError where one is damaged or doubled."""
        self._files.append(file)
        with file.open("rb") as lines:
            numbered = enumerate(_offsets(lines), start=1)
            while some := list(islice(numbered, _TOGETHER)):
                ids = [_id(file, number, line) for number, (_, line) in some]
                for (number, (offset, _)), id_, of in zip(some, ids, inputs.find(ids), strict=True):
                    if of < 0:
                        self._num_unknown += 1
                        self._first_unknown = min(self._first_unknown or id_, id_)
                    elif self._file[of] >= 0:
                        raise RunError(
                            f"{file}:{number}: id {id_!r} stands there twice; remove the file and "
                            "generate again"
                        )
                    else:
                        self._file[of] = len(self._files) - 1
                        self._offset[of] = offset


def there(where: Path, inputs: Inputs) -> Rows:
    """All whole rows of a generation. Raises RunError where one is damaged, or there twice."""
    rows = Rows(where, len(inputs))
    for file in sorted(where.glob("shard-*.jsonl")):
        rows.add_file(file, inputs)
    return rows


def whole_bytes(content: IO[bytes]) -> int:
    """How many bytes of a file, open for reading, are whole lines."""
    end = content.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 2**16)
        content.seek(start)
        newline = content.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _offsets(lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Whole lines and where they begin; none after a torn one, which may grow meanwhile."""
    offset = 0
    for line in lines:
        if not line.endswith(b"\n"):
            return
        yield offset, line
        offset += len(line)


def _row(file: Path, line: bytes, id_: str) -> Row:
    with suppress(ValueError, TypeError, KeyError):
        row: Row = json.loads(line)
        if row["id"] == id_:
            return row
    raise RunError(f"{file}: changed while it was read; run it again")


def _id(file: Path, number: int, line: bytes) -> str:
    try:
        id_ = json.loads(line)["id"]
    except (ValueError, KeyError, TypeError):
        id_ = None
    if not isinstance(id_, str):
        raise RunError(f"{file}:{number}: damaged; remove the file and generate again")
    return id_
