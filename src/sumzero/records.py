"""Reads files of records: every row becomes a `Record` or a `Reject` with file, line and reason.

read = kept + rejected, always: a bad row never ends the reading and never goes unmentioned.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.log import logger
from sumzero.runfolder import atomic_file

_SHOWN_REJECTS = 5


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


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used. `line` counts from 1; `id` where the row has one."""

    file: str
    line: int
    reason: str
    id: str | None = None


class _RowFault(Exception):
    """Why a row is refused."""


def read(source: Source, *, need_targets: bool) -> Iterator[Record | Reject]:
    """Yields a Record or a Reject for every non-blank line of the source's file, in order.

    Raises DataError where the file is missing or is no JSONL file.
    """
    file = Path(source.path)
    if file.suffix not in (".jsonl", ".ndjson"):
        raise DataError(f"{file}: only .jsonl files can be read; one JSON object a line")
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    seen: set[str] = set()
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            identity = None
            try:
                row = _parse(line)
                identity = _identity(row, source, f"{file.name}:{number}")
                if identity in seen:
                    raise _RowFault(f"duplicate id {identity!r}")
                seen.add(identity)
                yield _record(row, identity, source, need_targets, number)
            except _RowFault as fault:
                yield Reject(str(file), number, str(fault), identity)


def read_all(sources: Sequence[Source], *, need_targets: bool) -> tuple[list[Record], list[Reject]]:
    """All usable records of sources, and the rejects. Raises DataError where none is usable."""
    records: list[Record] = []
    rows: list[Reject] = []
    for source in sources:
        rejects = Rejects()
        found = list(rejects.sift(read(source, need_targets=need_targets)))
        rejects.finish(source, len(found))
        records += found
        rows += rejects.rows
    return records, rows


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
        """Number of rows by kind of reason, without the rows' own details."""
        kinds = Counter(re.split(r" \(| '|:", reject.reason)[0] for reject in self.rows)
        return dict(kinds.most_common())

    def finish(self, source: Source, num_kept: int) -> None:
        """Logs the summary. Raises DataError where no row of the source was kept."""
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.reasons().items())
        if num_kept == 0 and not self.rows:
            raise DataError(f"{source.path}: no records: the file is empty")
        if num_kept == 0:
            first = self.rows[0]
            raise DataError(
                f"{first.file}:{first.line}: {first.reason}; no row of the file can be used "
                f"({counts})"
            )
        if len(self.rows) > _SHOWN_REJECTS:
            logger.warning("%s: %d rows rejected: %s", source.path, len(self.rows), counts)

    def write(self, file: Path) -> None:
        """Lists the rows as JSONL, replacing the file."""
        with atomic_file(file) as out:
            for reject in self.rows:
                out.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _RowFault(f"not UTF-8 (at byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise _RowFault(f"not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise _RowFault(f"not a JSON object but {_kind(row)}")
    return row


def _identity(row: dict[str, Any], source: Source, fallback: str) -> str:
    identity = row.get(source.id)
    if identity is None:
        return fallback
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise _RowFault(f"the id is no string or whole number (column {source.id!r})")
    return _unicode(str(identity), source.id)


def _record(
    row: dict[str, Any], identity: str, source: Source, need_targets: bool, line: int
) -> Record:
    targets: tuple[str, ...] = ()
    if need_targets or row.get(source.targets) is not None:
        value = _column(row, source.targets, "targets")
        texts = value if isinstance(value, list) else [value]
        targets = tuple(
            _text(text, source.targets)
            for text in texts
            if not isinstance(text, str) or text.strip()
        )
        if need_targets and not targets:
            raise _RowFault(f"empty target (column {source.targets!r})")
    return Record(
        identity,
        _text(_column(row, source.document, "document"), source.document),
        targets,
        _optional(row, source.instruction, "instruction"),
        source.language,
        _optional(row, source.lead, "lead"),
        line=line,
    )


def _column(row: dict[str, Any], name: str, setting: str) -> Any:
    if name not in row:
        have = ", ".join(repr(column[:40]) for column in sorted(row)[:8]) or "none"
        raise _RowFault(f"no column {name!r} (columns: {have}); set data.SPLIT.{setting}")
    return row[name]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _RowFault(f"not text but {_kind(value)} (column {column!r})")
    text = _unicode(value, column).strip()
    if not text:
        raise _RowFault(f"empty text (column {column!r})")
    return text


def _optional(row: dict[str, Any], column: str | None, setting: str) -> str | None:
    return None if column is None else _text(_column(row, column, setting), column)


def _unicode(text: str, column: str) -> str:
    """JSON can carry half a surrogate pair, which no tokenizer and no file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _RowFault(f"half a surrogate pair (column {column!r})") from None
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")
