"""The rows of a generation that are there: for each input, in which file and where in it.

    generations/FINGERPRINT/shard-*.jsonl

Rows stay on disk; 12 bytes an input say where. A torn last line is one that is being written, or
that a kill has left: no row. A row that has `of` is a node's, of a long document's tree
(forest.py): it is no input's, and counts as long as the input it is of has no row.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sumzero.errors import RunError
from sumzero.infer.engine import Completion, Failure
from sumzero.infer.inputs import Inputs
from sumzero.records import Record

Row = dict[str, Any]
Parts = Callable[[str], dict[str, Row]]
"""The rows of a record's parts that are there, by their ids; given the record's id."""
_TOGETHER = 1024  # rows that are looked up at once
_OPEN_FILES = 128


def prompt_facts(record: Record, tokens: int, kept: int, prompt_tokens: int, rule: str) -> Row:
    """What a row says of the prompt: tokens of the document, of them in it, and in all."""
    return {
        "document_tokens": tokens,
        "document_kept": kept,
        "prompt_tokens": prompt_tokens,
        "truncated": kept < tokens,
        "truncation": rule,
        **record.beside(),
    }


def answer_row(done: Completion | Failure, facts: Row) -> Row:
    """The row of what became of a request; `facts` are those of its prompt."""
    if isinstance(done, Failure):
        return {"id": done.id, "error": done.reason, **facts}
    return {
        "id": done.id,
        "text": done.text.strip(),
        **facts,
        "output_tokens": done.output_tokens,
        "finish_reason": done.finish_reason,
        "seconds": round(done.seconds, 4),
    }


class Nodes:
    """The rows of nodes that are there, of inputs that have none; the first of each node."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, tuple[Path, int]]] = {}  # by input, then by node

    def of(self, input_id: str) -> dict[str, Row]:
        """The rows of an input's nodes, by their ids. Raises RunError where a file has changed."""
        rows = {}
        for id_, (file, offset) in self._places.get(input_id, {}).items():
            with file.open("rb") as content:
                content.seek(offset)
                rows[id_] = _row(file, content.readline(), id_)
        return rows

    def add(self, input_id: str, id_: str, file: Path, offset: int) -> None:
        """Notes where a node's row is."""
        self._places.setdefault(input_id, {}).setdefault(id_, (file, offset))

    def drop(self, input_id: str) -> None:
        """Forgets the nodes of an input, which is answered."""
        self._places.pop(input_id, None)


class Rows:
    """What `there` has found; `has` (N) tells which inputs have a row.

    `nodes` are parts of rows that are still to come.
    """

    def __init__(self, where: Path, num_inputs: int) -> None:
        self.nodes = Nodes()
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
                pairs = [_ids(file, number, line) for number, (_, line) in some]
                numbers = inputs.find([of or id_ for id_, of in pairs])
                for (line, (offset, _)), pair, of in zip(some, pairs, numbers, strict=True):
                    self._add(file, line, offset, *pair, of)

    def _add(
        self, file: Path, line: int, offset: int, id_: str, node_of: str | None, of: int
    ) -> None:
        if of < 0:
            self._num_unknown += 1
            self._first_unknown = min(self._first_unknown or id_, id_)
        elif node_of is not None:
            if self._file[of] < 0:
                self.nodes.add(node_of, id_, file, offset)
        elif self._file[of] >= 0:
            raise RunError(
                f"{file}:{line}: id {id_!r} stands there twice; remove the file and generate again"
            )
        else:
            self._file[of] = len(self._files) - 1
            self._offset[of] = offset
            self.nodes.drop(id_)


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


def _ids(file: Path, number: int, line: bytes) -> tuple[str, str | None]:
    """The id of a row, and of a node's row that of its input."""
    try:
        row = json.loads(line)
        id_, of = row["id"], row.get("of")
    except (ValueError, KeyError, TypeError, AttributeError):
        id_ = of = None
    if not isinstance(id_, str) or not isinstance(of, str | None):
        raise RunError(f"{file}:{number}: damaged; remove the file and generate again")
    return id_, of
