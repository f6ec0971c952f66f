"""Blocks of rows -> a part: their records tokenised, in a file of its own, by a worker process.

A part's rows are records, in order. A document that several records of a part are about is encoded
once: the others name the row that has it. Parts are what a stopped preparation goes on from.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sumzero.config import Data, Source
from sumzero.errors import ConfigError, DataError
from sumzero.formats import Block
from sumzero.instructions import VERBATIM, InstructionSet, instruction_set
from sumzero.prompt import PromptRenderer
from sumzero.records import Record, Reject, read_block
from sumzero.train.paraphrases import key_of

IDS: pa.DataType = pa.list_(pa.int32())
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("file", pa.string()),
    ("line", pa.int32()),
    ("key", pa.uint64()),  # hashes: of the id,
    ("row", pa.uint64()),  # of all that is learnt from the row,
    ("hash", pa.uint64()),  # and of the document
    ("document_of", pa.int32()),  # the row of this part that has the document's ids
    ("document", IDS),
    ("document_tokens", pa.int32()),
    ("budget", pa.int32()),  # document tokens that fit with the longest target
    ("question", IDS),
    ("ways", pa.list_(pa.int32())),  # of each target, by the part's own list
    ("targets", pa.list_(IDS)),
]
SCHEMA = pa.schema(_COLUMNS)
Ways = tuple[str, ...]


def hash_of(*texts: str) -> int:
    """64 bits of a hash over texts."""
    state = blake2b(digest_size=8)
    for text in texts:
        state.update(text.encode() + b"\0")
    return int.from_bytes(state.digest(), "little")


def _column(values: Sequence[Any], type_: pa.DataType) -> Any:
    """An Arrow array; of token ids, five times faster than pa.array makes one of lists."""
    if type_ not in (IDS, pa.list_(IDS)):
        return pa.array(values, type=type_)
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    flat = chain.from_iterable(values)
    if type_ == IDS:
        inner = pa.array(np.fromiter(flat, np.int32, count=offsets[-1]))
    else:
        inner = _column(list(flat), IDS)
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), inner)


@dataclass
class Tokeniser:
    """Turns blocks of a source into parts."""

    source: Source
    data: Data
    renderer: PromptRenderer
    _sets: dict[str, InstructionSet] = field(default_factory=dict)
    _longest: dict[Ways, int] = field(default_factory=dict)  # paraphrase, in tokens

    def __call__(self, blocks: Sequence[Block], file: Path) -> None:
        """Writes the part of some blocks; it appears whole or not at all.

        Raises DataError where a document is too long and `data.truncation` is "error".
        """
        records: list[tuple[str, Record]] = []
        rejects: list[Reject] = []
        for block in blocks:
            for row in read_block(block, self.source, need_targets=True):
                if isinstance(row, Record):
                    records.append((block.file, row))
                else:
                    rejects.append(row)
        ways: dict[Ways, int] = {}
        rows = self._rows(records, ways, rejects)
        columns = [[row[i] for row in rows] for i in range(len(SCHEMA))]
        arrays = [_column(x, f.type) for x, f in zip(columns, SCHEMA, strict=True)]
        about = {"ways": list(ways), "rejects": [asdict(reject) for reject in rejects]}
        schema = SCHEMA.with_metadata({"part": json.dumps(about)})
        # An orphan may still be writing its own.
        partial = file.with_suffix(f".{os.getpid()}.partial")
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
                out.write_table(pa.Table.from_arrays(arrays, schema=schema))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _rows(
        self, records: list[tuple[str, Record]], ways: dict[Ways, int], rejects: list[Reject]
    ) -> list[tuple[Any, ...]]:
        """Rows of SCHEMA for the records that fit; numbers new ways and lists rejects."""
        asked = [self._asked(record) for _, record in records]
        encode = self.renderer.encode_text
        texts = list(dict.fromkeys(record.document for _, record in records))
        documents = dict(zip(texts, encode(texts), strict=True))
        questions = iter(encode([ask.question for ask in asked if ask.question is not None]))
        answers = [text for ask in asked for text in ask.targets]
        targets = iter(self.renderer.encode_targets(answers))
        rows: list[tuple[Any, ...]] = []
        row_of: dict[str, int] = {}  # by document
        for (file, record), ask in zip(records, asked, strict=True):
            document = documents[record.document]
            question = [] if ask.question is None else next(questions)
            target_ids = [next(targets) for _ in ask.targets]
            fixed = self._fixed_tokens(ask, len(question))
            longest = max(map(len, target_ids), default=0)
            reason = ask.reason or self._misfit(len(document), fixed, longest)
            if reason:
                if self.data.truncation == "error" and reason.startswith("document too long"):
                    raise DataError(f"{file}:{record.line}: {reason}")
                rejects.append(Reject(file, record.line, reason, record.id))
                continue
            first = row_of.setdefault(record.document, len(rows))
            hash_ = hash_of(record.document)
            about = (str(hash_), record.language, record.instruction or "")
            content = hash_of(*about, *ask.targets)
            keep = self.renderer.truncation.keep
            rows.append(
                (
                    *(record.id, file, record.line, key_of(record.id), content, hash_, first),
                    keep(document, self.data.max_length) if first == len(rows) else [],
                    len(document),
                    self._limit(longest) - fixed,
                    question,
                    [ways.setdefault(way, len(ways)) for way in ask.ways],
                    target_ids,
                )
            )
        return rows

    def _asked(self, record: Record) -> "_Asked":
        """What is asked of a record, and the texts that answer it."""
        targets = record.targets
        if record.instruction is not None and self.source.task != "answer":
            return _Asked(targets, (VERBATIM,) * len(targets), record.instruction)
        if record.language not in self._sets:
            try:
                found = instruction_set(self.source, self.data, record.language)
            except ConfigError as error:
                told = "; ".join(error.problems)
                return _Asked(reason=f"no instructions for language {record.language!r}: {told}")
            self._sets[record.language] = found
        asks = self._sets[record.language]
        if not targets:
            assert asks.unanswerable, "only a question may have no target"
            targets = (asks.unanswerable,)
        ways = tuple(
            asks.ways(
                target,
                target_language=self.source.target_language,
                length_control=self.data.length_control,
            )
            for target in targets
        )
        return _Asked(targets, ways, record.instruction)

    def _fixed_tokens(self, ask: "_Asked", question: int) -> int:
        """Tokens of a prompt without its document, by the longest paraphrase."""
        for way in ask.ways:
            if way not in self._longest:
                self._longest[way] = max(
                    sum(map(len, self.renderer.ask_parts(text))) for text in way
                )
        asked = max((self._longest[way] for way in ask.ways), default=0)
        return len(self.renderer.head_ids) + asked + question + len(self.renderer.tail_ids)

    def _limit(self, target: int) -> int:
        """The prompt's limit beside a target, in tokens."""
        return min(self.data.max_prompt or self.data.max_length, self.data.max_length - target)

    def _misfit(self, document: int, fixed: int, target: int) -> str | None:
        """Why a row cannot be laid out; lengths in tokens."""
        budget = self._limit(target) - fixed
        if self.data.max_prompt is not None and fixed >= self.data.max_prompt:
            return (
                f"instruction too long: {fixed} tokens of template and instruction leave no room "
                f"for the document in data.max_prompt = {self.data.max_prompt}"
            )
        if budget < 1:
            return (
                f"target too long: {target} tokens, with {fixed} of template and instruction, "
                f"leave no room for the document in data.max_length = {self.data.max_length}"
            )
        if document > budget and self.data.truncation in ("drop", "error"):
            return (
                f"document too long: {document} tokens, {budget} fit, and data.truncation = "
                f'"{self.data.truncation}" does not cut'
            )
        return None


@dataclass(frozen=True)
class _Asked:
    """A record's targets, the ways in which each may be asked for, its question; or a reason."""

    targets: tuple[str, ...] = ()
    ways: tuple[Ways, ...] = ()
    question: str | None = None
    reason: str | None = None
