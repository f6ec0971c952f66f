"""Records and what each system made of them, read side by side, in the order that both have."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sumzero.config import RunConfig, Source
from sumzero.errors import RunError
from sumzero.infer.fingerprint import InputDigest, input_digest
from sumzero.infer.generation import Generation
from sumzero.infer.measures import Batch, Text, Wanted
from sumzero.infer.questions import each_record, references
from sumzero.infer.rows import Row
from sumzero.instructions import instruction_set
from sumzero.records import Record
from sumzero.runfolder import RunFolder

_BATCH = 128  # records that are measured at once


@dataclass(slots=True)
class Ends:
    """Of rows whether their document was cut, they failed, and how they finished."""

    truncated: bytearray = field(default_factory=bytearray)
    failed: bytearray = field(default_factory=bytearray)
    finish_reason: list[str] = field(default_factory=list)

    def add(self, text: Text) -> None:
        """Takes a row."""
        self.truncated.append(bool(text.truncated))
        self.failed.append(text.failed)
        self.finish_reason.append(sys.intern(text.finish_reason))


class Pairs:
    """Iterated over once; then it tells what it has seen."""

    def __init__(self, config: RunConfig, generations: dict[str, Generation]) -> None:
        self.about: dict[str, list[Any]] = {"id": [], "task": [], "language": []}
        """Of each record; the language is that of its references."""
        self.ends = {system: Ends() for system in generations}
        """Of each system's rows."""
        self.translated: set[tuple[str, int]] = set()
        """Language and number of references of records of task "translate"."""
        self.left_out: dict[str, RunError] = {}
        """Why systems are not scored: their rows are not of these records."""
        self._config = config
        self._generations = generations
        self._references = hashlib.sha256()
        self._documents = InputDigest()

    @property
    def references(self) -> str:
        """A digest over ids and references."""
        return self._references.hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        """The records that have references, and the systems' texts.

        Raises RunError where no generation is of these records.
        """
        lines = {system: _Rows(made) for system, made in self._generations.items()}
        batch = Batch([], {})
        for record, source in each_record(self._config.data.test, need_targets=True):
            self._documents.add(record, "")
            batch.wanted.append(self._want(record, source))
            for system, its in lines.items():
                text = its.of(record.id)
                if text is None:
                    self._leave_out(system)
                    text = Text("")
                self.ends[system].add(text)
                batch.texts.setdefault(system, []).append(text)
            if len(batch.wanted) == _BATCH:
                yield batch
                batch = Batch([], {})
        if batch.wanted:
            yield batch
        self._compare_documents()

    def _want(self, record: Record, source: Source) -> Wanted:
        targets = references(record, source, self._config)
        language = sys.intern(source.target_language or record.language)
        unanswerable = None
        if source.task == "answer":
            asks = instruction_set(source, self._config.data, record.language)
            unanswerable = asks.unanswerable
        self._references.update(json.dumps([record.id, targets]).encode() + b"\0")
        for name, value in (("id", record.id), ("task", source.task), ("language", language)):
            self.about[name].append(value)
        if source.task == "translate":
            self.translated.add((language, len(targets)))
        spoken = language, record.language
        return Wanted(record.document, targets, source.task, *spoken, unanswerable)

    def _compare_documents(self) -> None:
        """Leaves those out that were made from other documents."""
        digests = [self._documents.hexdigest()]
        for system, made in self._generations.items():
            if system in self.left_out or made.manifest["documents"] in digests:
                continue
            if len(digests) == 1:  # records without targets, generated for and not scored, count
                every = each_record(self._config.data.test, need_targets=False)
                digests.append(input_digest((record, "") for record, _ in every))
            if made.manifest["documents"] not in digests:
                self._leave_out(system)

    def _leave_out(self, system: str) -> None:
        """Raises RunError where no other system is left."""
        if system not in self.left_out:
            fault = _mismatch(self._config, system, self._generations[system])
            self.left_out[system] = fault
            if len(self.left_out) == len(self._generations):
                raise next(iter(self.left_out.values()))


def unfinished(folder: RunFolder) -> list[str]:
    """What to say of each generation that has some of its rows and is not finished."""
    found = []
    for where in sorted({file.parent for file in folder.generations.glob("*/shard-*.jsonl")}):
        if (where / "manifest.json").is_file():
            continue
        if count := sum(map(_lines, where.glob("shard-*.jsonl"))):
            found.append(
                f"{where}: not finished, {count} rows so far; run `sumzero generate` to its end, "
                "`sumzero merge` once all shards are done, or remove the folder"
            )
    return found


def _lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


class _Rows:
    """The texts of a generation, asked for in their order."""

    def __init__(self, made: Generation) -> None:
        self._rows = made.each_row()
        sampling = made.manifest.get("sampling", {})
        self._asked: tuple[int | None, int | None] = (
            sampling.get("words"),
            sampling.get("sentences"),
        )

    def of(self, id_: str) -> Text | None:
        """The text of the next row with this id; None where there is none."""
        for row in self._rows:
            if row["id"] == id_:
                return self._text(row)
        return None

    def _text(self, row: Row) -> Text:
        truncated = row.get("truncated")
        return Text(
            str(row.get("text") or ""),
            "error" in row,
            None if truncated is None else bool(truncated),
            str(row.get("finish_reason") or ""),
            *self._asked,
        )


def _mismatch(config: RunConfig, system: str, generation: Generation) -> RunError:
    """What to say of a generation that is not of the records."""
    have = {row["id"] for row in generation.each_row()}
    wanted = [record.id for record, _ in each_record(config.data.test, need_targets=True)]
    lacking = [id_ for id_ in wanted if id_ not in have]
    if lacking:
        return RunError(
            f"{generation.folder}: {len(lacking)} of the {len(wanted)} records are not in it, "
            f"{lacking[0]!r} first; run `sumzero generate` for these records"
        )
    return RunError(
        f"{generation.folder}: made from other documents of the same ids; run `sumzero generate "
        f"RUN.toml` again, for the system {system}"
    )
