"""Parts -> the rows of the token store: repeats dropped, rows about one document joined.

All of it by 64-bit hashes that are sorted: 8 bytes a record and array. What the hashes call the
same is then compared. A joined example stands where the first of its rows stood.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sumzero.records import Reject
from sumzero.train.parts import SCHEMA as PART
from sumzero.train.parts import Ways
from sumzero.train.store import SCHEMA

Rows = NDArray[np.int64]  # numbers of rows, counted over all parts of a source
Contents = Callable[[Rows], Any]  # a table or column of what some rows hold
_AT_ONCE = 1024  # rows that are compared or written,
_TOKENS = 1 << 24  # and about their documents' tokens
_OPEN = 32  # parts that are mapped at once
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)  # opens a part in half the time


class Parts:
    """The parts of a source, memory-mapped."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._open: OrderedDict[int, pa.Table] = OrderedDict()
        self.starts = np.cumsum([0, *(len(self._table(i)) for i in range(len(files)))])

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    def _table(self, index: int) -> pa.Table:
        """A part; few stay open, so that the pages of the others leave memory."""
        if index not in self._open:
            with pa.memory_map(str(self._files[index])) as file:
                self._open[index] = pa.ipc.open_file(file, options=_OPTIONS).read_all()
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, of all rows."""
        none = np.empty(0, PART.field(name).type.to_pandas_dtype())
        tables = (self._table(index) for index in range(len(self._files)))
        return np.concatenate([none, *(table[name].to_numpy() for table in tables)])

    def ways(self) -> Iterator[list[Ways]]:
        """The list of ways of each part."""
        return ([tuple(way) for way in about["ways"]] for about in self._about())

    def rejects(self) -> Iterator[Reject]:
        """The rows that did not become records."""
        return (Reject(**row) for about in self._about() for row in about["rejects"])

    def _about(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self._files)):
            yield json.loads(self._table(index).schema.metadata[b"part"])

    def part_of(self, rows: Rows) -> Rows:
        """The part in which each row stands."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def take(self, rows: Rows, names: list[str]) -> pa.Table:
        """Columns of some rows, in the order asked for."""
        return self._gather(rows, lambda table, at: table.select(names).take(at))

    def documents(self, rows: Rows) -> Any:
        """The document ids of some rows."""

        def pick(table: pa.Table, at: Rows) -> pa.Table:
            return table.select(["document"]).take(table["document_of"].to_numpy()[at])

        return self._gather(rows, pick)["document"]

    def _gather(self, rows: Rows, pick: Callable[[pa.Table, Rows], pa.Table]) -> pa.Table:
        """What `pick` takes for rows of a part, numbered within it, of all parts."""
        part = self.part_of(rows)
        used = np.unique(part)
        found = pa.concat_tables(
            pick(self._table(i), rows[part == i] - self.starts[i]) for i in used
        ).combine_chunks()
        if len(used) == 1:
            return found
        return found.take(np.argsort(np.argsort(part, kind="stable"), kind="stable"))


@dataclass(frozen=True)
class Families:
    """Rows by document: family f has the rows `rows[starts[f] : starts[f + 1]]`."""

    rows: Rows
    starts: Rows


def repeats(parts: Parts, *, duplicates: bool) -> Iterator[tuple[int, Reject]]:
    """Rows that have an earlier row's id, or with `duplicates` its whole content, and why.

    A row that is refused for its id is no earlier row to the content of others.
    """

    def ids(rows: Rows) -> Any:
        return parts.take(rows, ["id"])

    def contents(rows: Rows) -> Any:
        table = parts.take(rows, ["document_tokens", "question", "targets"])
        return table.append_column("document", parts.documents(rows))

    kept = np.ones(len(parts), dtype=np.bool_)
    for row, _, reject in _equal(parts, "key", ids, kept):
        kept[row] = False
        yield row, replace(reject, reason=f"duplicate id {reject.id!r}")
    if duplicates:
        for row, first, reject in _equal(parts, "row", contents, kept):
            reason = f"duplicate row: the same as that of id {first!r}"
            yield row, replace(reject, reason=reason)


def join(parts: Parts, kept: NDArray[np.bool_]) -> Families:
    """Groups the rows that are kept by document."""
    hashes = parts.column("hash")
    rows = np.argsort(hashes, kind="stable")
    rows = rows[kept[rows]]
    fresh = np.ones(len(rows), dtype=np.bool_)  # no more of the document before it
    hashes = hashes[rows]
    fresh[1:] = hashes[1:] != hashes[:-1]
    del hashes
    again = np.flatnonzero(~fresh)
    fresh[again] = ~_same(rows[again - 1], rows[again], parts.documents)
    # A step at a time: no more than four arrays of the rows are held at once.
    family = np.cumsum(fresh, dtype=np.int64)
    family -= 1
    first = rows[fresh][family]
    del family
    by_first = np.argsort(first, kind="stable")
    rows = rows[by_first]
    first = first[by_first]
    del by_first
    fresh[1:] = first[1:] != first[:-1]
    return Families(rows, np.append(np.flatnonzero(fresh), len(rows)))


def number_ways(sources: Iterable[Parts]) -> dict[Ways, int]:
    """A number for each way in which targets are asked for."""
    ways: dict[Ways, int] = {}
    for parts in sources:
        for way in chain.from_iterable(parts.ways()):
            ways.setdefault(way, len(ways))
    return ways


def examples(
    parts: Parts, families: Families, source: int, ways: dict[Ways, int]
) -> Iterator[pa.RecordBatch]:
    """The store's rows of a source."""
    # Numbers only, part after part: the texts of all parts are not held.
    numbers = [np.array([ways[way] for way in of_part], np.int32) for of_part in parts.ways()]
    number = np.concatenate([np.empty(0, np.int32), *numbers])
    begins = np.cumsum([0, *map(len, numbers)])
    choices = np.array([len(way) for way in ways])
    num_families = len(families.starts) - 1
    longest = int(parts.column("document_tokens").max(initial=1))
    at_once = max(1, min(_AT_ONCE, _TOKENS // longest))
    cuts = [*range(0, num_families, at_once), num_families]
    for begin, end in pairwise(cuts):
        starts = families.starts[begin : end + 1]
        rows = families.rows[starts[0] : starts[-1]]
        starts = starts - starts[0]
        yield _batch(parts, rows, starts, source, number, begins, choices)


def _batch(
    parts: Parts,
    rows: Rows,
    starts: Rows,
    source: int,
    number: NDArray[np.int32],
    begins: Rows,
    choices: Rows,
) -> pa.RecordBatch:
    names = ["id", "key", "budget", "question", "ways", "targets"]
    table = parts.take(rows, names)
    num_targets = pc.list_value_length(table["targets"]).to_numpy()
    row_of = np.repeat(np.arange(len(rows)), num_targets)  # of each branch
    offsets = pa.array(np.concatenate([[0], np.cumsum(num_targets)])[starts], pa.int32())
    way = number[pc.list_flatten(table["ways"]).to_numpy() + begins[parts.part_of(rows)][row_of]]
    firsts = rows[starts[:-1]]
    about = parts.take(firsts, ["hash", "document_tokens"])
    documents = parts.documents(firsts).combine_chunks()
    budget = np.minimum.reduceat(table["budget"].to_numpy(), starts[:-1])
    branch_starts = offsets.to_numpy()[:-1]
    one_way = np.equal(
        np.minimum.reduceat(way, branch_starts), np.maximum.reduceat(way, branch_starts)
    )
    # Rows draw their paraphrases each for itself, where there is more than one.
    asked = pc.list_value_length(table["question"]).to_numpy() > 0
    fixed = (choices[way[branch_starts]] == 1) & ~np.logical_or.reduceat(asked, starts[:-1])

    def of_branches(column: Any) -> Any:
        return pa.ListArray.from_arrays(offsets, column)

    def repeated(name: str) -> Any:
        return of_branches(table[name].combine_chunks().take(row_of))

    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(len(firsts), source, dtype=np.int16)),
            about["hash"].combine_chunks(),
            documents,
            about["document_tokens"].combine_chunks(),
            pa.array(np.minimum(budget, pc.list_value_length(documents).to_numpy())),
            pa.array(one_way & ((np.diff(starts) == 1) | fixed)),
            repeated("id"),
            repeated("key"),
            of_branches(pa.array(way)),
            repeated("question"),
            of_branches(pc.list_flatten(table["targets"].combine_chunks())),
        ],
        schema=SCHEMA,
    )


def _equal(
    parts: Parts, name: str, contents: Contents, kept: NDArray[np.bool_]
) -> Iterator[tuple[int, str, Reject]]:
    """Rows that are kept whose hash `name` and contents are those of an earlier one.

    Each with the id of the first of them, and a Reject that has no reason yet.
    """
    hashes = parts.column(name)
    rows = np.argsort(hashes, kind="stable")
    rows = rows[kept[rows]]
    hashes = hashes[rows]
    at = np.flatnonzero(hashes[1:] == hashes[:-1])
    del hashes
    earlier, later = rows[at], rows[at + 1]
    del rows
    is_same = _same(earlier, later, contents)
    earlier, later = earlier[is_same], later[is_same]
    opens = np.ones(len(later), dtype=np.bool_)  # a run of rows that are all the same
    opens[1:] = earlier[1:] != later[:-1]
    first = earlier[np.flatnonzero(opens)][np.cumsum(opens) - 1]
    for begin in range(0, len(later), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        firsts: list[Any] = parts.take(first[some], ["id"])["id"].to_pylist()
        found = parts.take(later[some], ["file", "line", "id"]).to_pylist()
        for row, id_, values in zip(later[some].tolist(), firsts, found, strict=True):
            yield row, id_, Reject(**values, reason="")


def _same(rows: Rows, others: Rows, contents: Contents) -> NDArray[np.bool_]:
    """Whether contents are the same, pair by pair."""
    found = np.zeros(len(rows), dtype=np.bool_)
    order = np.argsort(others)  # those of one part together
    for begin in range(0, len(rows), _AT_ONCE):
        some = order[begin : begin + _AT_ONCE]
        one, other = contents(rows[some]), contents(others[some])
        for index, at in enumerate(some.tolist()):
            found[at] = one.slice(index, 1).equals(other.slice(index, 1))
    return found
