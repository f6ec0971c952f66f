"""Rows of a source -> records: each becomes a `Record`, or a `Reject` with file, line and reason.

read = kept + rejected, always: a bad row never ends the reading and never goes unmentioned.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sumzero import readers
from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.formats import Block, describe
from sumzero.log import logger

_SHOWN_REJECTS = 5
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Record:
    """One document and its reference texts. `targets` may be empty where none are needed."""

    id: str
    document: str
    targets: tuple[str, ...] = ()
    instruction: str | None = None  # the row's own; in task "answer" its question
    language: str = "en"
    lead: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)  # of its file, from 1

    def beside(self) -> dict[str, Any]:
        """What is written beside all that is made of it."""
        return {"metadata": self.metadata} if self.metadata else {}


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used. `line` counts from 1; `id` where the row has one."""

    file: str
    line: int
    reason: str
    id: str | None = None

    @property
    def kind(self) -> str:
        """The reason without the row's own details, to count by."""
        return re.split(r" \(| '|:", self.reason)[0]


class Seen(Protocol):
    """The ids that were seen: a set of them, or what does as much in less memory."""

    def __contains__(self, id_: object, /) -> bool: ...

    def add(self, id_: str, /) -> None:
        """Takes an id."""


class _RowFault(Exception):
    """Why a row is refused."""


def read_block(block: Block, source: Source, *, need_targets: bool) -> Iterator[Record | Reject]:
    """A Record or a Reject for every row of a block of the source, in order.

    Ids are not compared here: who sees all of them does that.
    """
    name = readers.label(source, block.file)
    for number, row in readers.rows(block):
        identity = None
        try:
            if isinstance(row, str):
                raise _RowFault(row)
            identity = _identity(row, source, f"{name}:{number}")
            yield _record(row, identity, source, need_targets, number)
        except _RowFault as fault:
            yield Reject(block.file, number, str(fault), identity)


def read(source: Source, *, need_targets: bool) -> Iterator[Record | Reject]:
    """A Record or a Reject for every row of the source, in order; ids may repeat.

    Raises DataError and ConfigError as `readers.blocks` does.
    """
    for block in readers.blocks(source):
        yield from read_block(block, source, need_targets=need_targets)


def read_all(sources: Sequence[Source], *, need_targets: bool) -> tuple[list[Record], list[Reject]]:
    """All usable records of the sources, of each id the first, and the rejects.

    Raises DataError where no row of a source is usable.
    """
    seen: set[str] = set()
    records: list[Record] = []
    rejected: list[Reject] = []
    for source in sources:
        rejects = Rejects()
        kept = list(rejects.sift(first_of_each_id(source, need_targets=need_targets, seen=seen)))
        rejects.finish(source, len(kept))
        records += kept
        rejected += rejects.rows
    return records, rejected


def first_of_each_id(
    source: Source, *, need_targets: bool, seen: Seen
) -> Iterator[Record | Reject]:
    """A Record or a Reject for every row of the source; rejected is what has an id in `seen`.

    `seen` grows by all ids. A rejected row claims its id too: with and without targets, a record is
    the same one. Raises DataError and ConfigError as `readers.blocks` does.
    """
    for block in readers.blocks(source):
        for row in read_block(block, source, need_targets=need_targets):
            if row.id is not None and row.id in seen:
                yield Reject(block.file, row.line, f"duplicate id {row.id!r}", row.id)
                continue
            if row.id is not None:
                seen.add(row.id)
            yield row


class Rejects:
    """Sifts rejects out of a stream of rows, keeps them, logs the first few and a summary."""

    def __init__(self) -> None:
        self.rows: list[Reject] = []

    def sift(self, rows: Iterable[Record | Reject]) -> Iterator[Record]:
        """The records among `rows`."""
        for row in rows:
            if isinstance(row, Record):
                yield row
            else:
                self.add(row)

    def add(self, reject: Reject) -> None:
        """Takes one row."""
        self.rows.append(reject)
        if len(self.rows) <= _SHOWN_REJECTS:
            logger.warning("%s:%d: %s; row rejected", reject.file, reject.line, reject.reason)

    def reasons(self) -> dict[str, int]:
        """Number of rows by kind of reason."""
        return dict(Counter(reject.kind for reject in self.rows).most_common())

    def finish(self, source: Source, num_kept: int) -> None:
        """Logs the summary. Raises DataError where no row of the source was kept."""
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.reasons().items())
        if num_kept == 0 and not self.rows:
            raise DataError(f"{source.path}: has no rows")
        if num_kept == 0:
            first = self.rows[0]
            raise DataError(
                f"{first.file}:{first.line}: {first.reason}; no row of {source.path} can be used "
                f"({counts})"
            )
        if len(self.rows) > _SHOWN_REJECTS:
            logger.warning("%s: %d rows rejected: %s", source.path, len(self.rows), counts)


def _identity(row: dict[str, Any], source: Source, fallback: str) -> str:
    identity = _find(row, source.id)
    if identity is None or identity is _MISSING:
        return fallback
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise _RowFault(f"the id is no string or whole number (column {source.id!r})")
    return _unicode(str(identity), source.id)


def _record(
    row: dict[str, Any], identity: str, source: Source, need_targets: bool, line: int
) -> Record:
    language = _optional(row, source.language_column, "language_column")
    return Record(
        id=identity,
        targets=_targets(row, source, need_targets),
        document=_text(_column(row, source.document, "document"), source.document),
        instruction=_optional(row, source.instruction, "instruction"),
        language=source.language if language is None else language,
        lead=_optional(row, source.lead, "lead"),
        metadata={name: _json(_column(row, name, "metadata"), name) for name in source.metadata},
        line=line,
    )


def _targets(row: dict[str, Any], source: Source, need_targets: bool) -> tuple[str, ...]:
    value = _find(row, source.targets)
    if not need_targets and (value is None or value is _MISSING):
        return ()
    value = _column(row, source.targets, "targets")
    texts = value if isinstance(value, list) else [value]
    found = [
        _text(text, source.targets) for text in texts if not isinstance(text, str) or text.strip()
    ]
    unanswerable = source.task == "answer" and value == []
    if need_targets and not found and not unanswerable:
        raise _RowFault(f"empty target (column {source.targets!r})")
    return tuple(dict.fromkeys(found))


def _find(value: Any, path: str) -> Any:
    """What lies at `a.b.c`; of a list of objects, what lies there in each; else _MISSING."""
    if value is None:
        return None
    if isinstance(value, list):
        found = [_MISSING if isinstance(item, list) else _find(item, path) for item in value]
        return _MISSING if any(item is _MISSING for item in found) else found
    if not isinstance(value, dict):
        return _MISSING
    if path in value:
        return value[path]
    head, _, rest = path.partition(".")
    return _find(value[head], rest) if rest and head in value else _MISSING


def _column(row: dict[str, Any], name: str, setting: str) -> Any:
    value = _find(row, name)
    if value is _MISSING:
        have = ", ".join(repr(column[:40]) for column in sorted(row)[:8]) or "none"
        raise _RowFault(f"no column {name!r} (columns: {have}); set data.SPLIT.{setting}")
    return value


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _RowFault(f"not text but {describe(value)} (column {column!r})")
    text = _unicode(value, column).strip()
    if not text:
        raise _RowFault(f"empty text (column {column!r})")
    return text


def _optional(row: dict[str, Any], column: str | None, setting: str) -> str | None:
    return None if column is None else _text(_column(row, column, setting), column)


def _json(value: Any, column: str) -> Any:
    """The value, if a JSON file can hold it."""
    try:
        _unicode(json.dumps(value, ensure_ascii=False, allow_nan=False), column)
    except (TypeError, ValueError, RecursionError) as error:
        raise _RowFault(f"not a value of JSON ({error}; column {column!r})") from None
    return value


def _unicode(text: str, column: str) -> str:
    """JSON can carry half a surrogate pair, which no tokenizer and no file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _RowFault(f"half a surrogate pair (column {column!r})") from None
    return text
