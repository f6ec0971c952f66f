"""Which task generates which records, and the files that their rows are in.

    generations/FINGERPRINT/shard-00001-of-00004.jsonl   rows as they finish, append-only

Documents are dealt out by estimated cost, longest first, each to the shard that has the least so
far; records of one document stay together, since they share its prefix in the engine's cache. What
is dealt depends on the records alone, so that tasks need not speak with each other. A row counts in
whatever file it stands: the same generation can be finished in another number of shards.
"""

import fcntl
import heapq
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.log import logger
from sumzero.records import Record
from sumzero.runfolder import alone, try_lock

Row = dict[str, Any]
_BYTES_PER_TOKEN = 4  # of the estimate: what counts is the ratio of documents to outputs
_PATIENCE = 600.0  # seconds: a node that Slurm has lost may be at work for a while


@dataclass(frozen=True)
class Shard:
    """Shard `index`, from 0, of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "1/4". Raises ValueError where it is not of that form, or there is no such shard."""
        form = re.fullmatch(r"(\d+)/(\d+)", text)
        if not form or int(form[1]) >= int(form[2]):
            raise ValueError(f"{text!r}: write INDEX/COUNT, from 0/4 to 3/4 say")
        return cls(int(form[1]), int(form[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def file(self, where: Path) -> Path:
        """Where its rows go, in a generation's folder."""
        return where / f"shard-{self.index:05d}-of-{self.count:05d}.jsonl"

    def of(self, records: Sequence[Record], output_tokens: int) -> list[int]:
        """The numbers of its records, those of long documents first."""
        numbers: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            numbers.setdefault(record.document, []).append(number)
        output = _BYTES_PER_TOKEN * output_tokens
        costs = {text: len(text.encode()) + len(of) * output for text, of in numbers.items()}
        loads = [(0, index) for index in range(self.count)]
        mine = []
        for text in sorted(numbers, key=lambda text: -costs[text]):
            load, index = loads[0]
            heapq.heapreplace(loads, (load + costs[text], index))
            if index == self.index:
                mine += numbers[text]
        return mine

    @contextmanager
    def held(self, where: Path) -> Iterator[None]:
        """Holds the shard for one process, and the generation for this number of shards.

        Raises RunError where another process is at the shard, or others in another number of them:
        a record would be generated twice.
        """
        where.mkdir(parents=True, exist_ok=True)
        lock = f".{self.file(where).stem}.lock"
        with (
            alone(where, f"sumzero generate, shard {self}", _PATIENCE, lock=lock),
            (where / ".count").open("a+") as file,
        ):
            if try_lock(file):  # nobody else is at work there
                file.truncate(0)
                file.write(str(self.count))
                file.flush()
            while not try_lock(file, fcntl.LOCK_SH):
                time.sleep(0.01)  # another has just found that nobody is
            file.seek(0)
            if (count := file.read()) != str(self.count):
                raise RunError(f"{where}: is being generated in {count} shards; wait for it")
            yield


def there(where: Path) -> dict[str, Row]:
    """All whole rows of a generation by id. Raises RunError where one stands there twice.

    A torn last line is one that is being written, or that a kill has left: no row.
    """
    rows: dict[str, Row] = {}
    for file in sorted(where.glob("shard-*.jsonl")):
        content = file.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                id_ = row["id"]
            except (ValueError, KeyError, TypeError):
                raise RunError(
                    f"{file}:{number}: damaged; remove the file and generate again"
                ) from None
            if id_ in rows:
                raise RunError(
                    f"{file}:{number}: id {id_!r} stands there twice; remove the file and generate "
                    "again"
                )
            rows[id_] = row
    return rows


def append(file: Path, rows: Iterable[Row]) -> None:
    """Writes each row as it comes, whole or torn; what was torn before is cut off."""
    with file.open("a+b") as out:
        out.seek(0)
        content = out.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logger.warning("%s: cut off a torn last line of %d bytes", file, len(content) - whole)
            out.truncate(whole)
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            out.flush()
