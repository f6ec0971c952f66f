"""What is generated for: records in one memory-mapped Arrow file, read from their sources once.

    inputs/KEY.arrow    the records, and hashes of ids and documents
           KEY.rejected.jsonl   rows that are no records: file, line, reason, id
           KEY.json     counts, digest over all records; there when the others are whole

KEY is a hash over the sources' settings and contents. All systems and all tasks of a run share the
file, and none holds more of it in memory than numbers: 32 bytes a record, however long it is.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from sumzero import readers
from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.infer.fingerprint import digest_of, input_digest
from sumzero.infer.questions import each_record
from sumzero.log import logger, progress
from sumzero.records import Record, Reject
from sumzero.runfolder import alone, read_json, write_json, write_jsonl

_FORMAT = 2
_BATCH_ROWS = 1024
_BATCH_BYTES = 4 * 2**20
_PATIENCE = 3600.0  # seconds: another task may be reading many records
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("document", pa.string()),
    ("instruction", pa.string()),
    ("lead", pa.string()),
    ("metadata", pa.string()),  # as JSON
    ("language", pa.string()),
    ("source", pa.int32()),  # index among the sources
    ("line", pa.int64()),
    ("id_hash", pa.uint64()),
    ("document_hash", pa.uint64()),
    ("document_bytes", pa.int64()),
]
_SCHEMA = pa.schema(_COLUMNS)
_RECORD = _SCHEMA.names[:8]


class Inputs:
    """The records of a file that `write_inputs` made, by their number from 0."""

    def __init__(
        self, file: Path, sources: Sequence[Source], documents: str, rejected: int = 0
    ) -> None:
        """`documents` is the digest over all records; see `fingerprint.input_digest`.

        `rejected` is how many rows of the sources are no records.
        """
        self.documents = documents
        self.rejected = rejected
        self._sources = sources
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        ends = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._starts = ends[:-1]
        self._count = int(ends[-1])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Record, Source]]:
        """All records in their order, each with its source."""
        return self.of(np.arange(self._count))

    def of(self, numbers: NDArray[np.int64]) -> Iterator[tuple[Record, Source]]:
        """The records of these numbers, each with its source."""
        start = 0
        while start < len(numbers):
            some = numbers[start : start + _BATCH_ROWS]
            fit = int(np.searchsorted(self.sizes[some].cumsum(), _BATCH_BYTES, side="right"))
            some = some[: max(1, fit)]
            yield from map(self._record, *self._values(some, _RECORD))
            start += len(some)

    def ids(self, numbers: NDArray[np.int64]) -> list[str]:
        """The ids of the records of these numbers."""
        return self._values(numbers, ["id"])[0]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each document (N)."""
        return self._column("document_bytes")

    @cached_property
    def document_hashes(self) -> NDArray[np.uint64]:
        """A hash of each document's text (N)."""
        return self._column("document_hash")

    def all_ids(self) -> Iterator[str]:
        """The ids of all records, in their order."""
        for start in range(0, self._count, _BATCH_ROWS):
            yield from self.ids(np.arange(start, min(start + _BATCH_ROWS, self._count)))

    def find(self, ids: Sequence[str]) -> list[int]:
        """The number of each id; -1 where no record has it."""
        hashes = np.array([_hash(id_) for id_ in ids], np.uint64)
        sorted_hashes, order = self._by_id
        if not self._count:
            return [-1] * len(ids)
        lows = np.searchsorted(sorted_hashes, hashes)
        likely = order[np.minimum(lows, self._count - 1)]
        found: list[int] = likely.tolist()
        for index, (id_, other) in enumerate(zip(ids, self.ids(likely), strict=True)):
            if id_ != other:
                found[index] = self._search(id_, int(lows[index]) + 1, int(hashes[index]))
        return found

    def _search(self, id_: str, start: int, hash_: int) -> int:
        """Among the further ids with the same hash, the one that reads the same."""
        sorted_hashes, order = self._by_id
        while start < self._count and int(sorted_hashes[start]) == hash_:
            if self.ids(order[start : start + 1]) == [id_]:
                return int(order[start])
            start += 1
        return -1

    @cached_property
    def _by_id(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        hashes: NDArray[np.uint64] = self._column("id_hash")
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _column(self, name: str) -> NDArray[Any]:
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _values(self, numbers: NDArray[np.int64], names: list[str]) -> list[list[Any]]:
        """The values of columns, in the order of the numbers."""
        batches = np.searchsorted(self._starts, numbers, side="right") - 1
        order = np.argsort(batches, kind="stable")
        sorted_batches = batches[order]
        cuts = np.flatnonzero(np.diff(sorted_batches, prepend=-1, append=-1))
        parts = []
        for begin, end in pairwise(cuts.tolist()):
            index = int(sorted_batches[begin])
            rows = numbers[order[begin:end]] - self._starts[index]
            parts.append(self._batches[index].select(names).take(rows))
        back = np.argsort(order, kind="stable")
        table = pa.Table.from_batches(
            parts, pa.schema([_SCHEMA.field(name) for name in names])
        ).take(back)
        return [column.to_pylist() for column in table.columns]

    def _record(
        self,
        id_: str,
        document: str,
        instruction: str | None,
        lead: str | None,
        metadata: str,
        language: str,
        source: int,
        line: int,
    ) -> tuple[Record, Source]:
        beside = json.loads(metadata)
        record = Record(id_, document, (), instruction, language, lead, beside, line)
        return record, self._sources[source]


def open_inputs(folder: Path, sources: Sequence[Source]) -> Inputs:
    """The records of the sources; the first process that wants them reads them into the folder.

    Rows that are no records are listed beside them. Raises DataError as `questions.each_record`,
    and where the sources change meanwhile.
    """
    contents = [readers.digest(source) for source in sources]
    settings = [asdict(source) for source in sources]
    key = digest_of([json.dumps([_FORMAT, settings, contents], sort_keys=True)])[:16]
    file, about, others = (folder / f"{key}.{end}" for end in ("arrow", "json", "rejected.jsonl"))
    with alone(folder, "sumzero generate, reading its input", _PATIENCE, lock=f".{key}.lock"):
        if not about.is_file():
            rejected: list[Reject] = []
            each = each_record(sources, need_targets=False, rejected=rejected)
            made = write_inputs(file, progress(each, "reading", unit=" records"), sources)
            if [readers.digest(source) for source in sources] != contents:
                raise DataError(
                    f"{sources[0].path}: the records have changed while they were read; run it "
                    "again"
                )
            write_jsonl(others, map(asdict, rejected))
            facts: dict[str, Any] = {"rows": len(made), "documents": made.documents}
            facts["rejected"] = len(rejected)
            write_json(about, facts)
        else:
            logger.info("%s: the records were read already", file)
            facts = read_json(about, "sumzero generate")
    if facts["rejected"]:
        logger.warning("%s: lists the rows that are rejected, %d", others, facts["rejected"])
    return Inputs(file, sources, facts["documents"], facts["rejected"])


def write_inputs(
    file: Path, records: Iterable[tuple[Record, Source]], sources: Sequence[Source]
) -> Inputs:
    """Writes records, each of one of the sources, whose ids differ; the file is whole or absent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    number_of = {source: number for number, source in enumerate(sources)}
    partial = file.with_name(file.name + ".partial")

    def kept() -> Iterator[tuple[Record, str]]:
        """Writes each as it passes."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        with pa.OSFile(str(partial), "wb") as out, pa.ipc.new_file(out, _SCHEMA) as to:
            for record, source in records:
                rows.append(_row(record, number_of[source]))
                size += rows[-1][-1]
                if len(rows) == _BATCH_ROWS or size > _BATCH_BYTES:
                    to.write_batch(_batch(rows))
                    rows, size = [], 0
                yield record, ""
            if rows:
                to.write_batch(_batch(rows))

    try:
        documents = input_digest(kept())
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return Inputs(file, sources, documents)


def _row(record: Record, source: int) -> tuple[Any, ...]:
    """The values of _SCHEMA's columns."""
    document = record.document.encode()
    return (
        record.id,
        record.document,
        record.instruction,
        record.lead,
        json.dumps(record.metadata),
        record.language,
        source,
        record.line,
        _hash(record.id),
        xxhash.xxh3_64_intdigest(document),
        len(document),
    )


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _hash(id_: str) -> int:
    return xxhash.xxh3_64_intdigest(id_.encode())
