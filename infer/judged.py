"""Answers of a judge that others serve, kept so that none is paid for twice.

    runs/NAME/judged/KEY.jsonl     {"of": DIGEST OF WHAT WAS ASKED, "yes": P, "no": P}

KEY is of the server, the model and the settings of the request: of others, nothing is taken. An
answer is written as it comes, so that a scoring that was killed goes on where it was.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sumzero.infer.rows import Row
from sumzero.infer.shards import appending
from sumzero.log import logger
from sumzero.runfolder import alone, read_jsonl

Chances = tuple[float, float]
"""P(yes) and P(no)."""


class Judged:
    """The answers that are there, by what was asked, and those that come."""

    def __init__(self, known: dict[str, Chances], write: Callable[[Row], None]) -> None:
        self._known = known
        self._write = write

    def of(self, asked: str) -> Chances | None:
        """What was answered to this text; None where it was not."""
        return self._known.get(_digest(asked))

    def keep(self, asked: str, chances: Chances) -> None:
        """Takes an answer."""
        of, (yes, no) = _digest(asked), chances
        self._known[of] = chances
        self._write({"of": of, "yes": float(yes), "no": float(no)})


@contextmanager
def judged(folder: Path, made_by: str) -> Iterator[Judged]:
    """The answers that a judge of this kind gave, in a folder that no other process writes to.

    `made_by` says all that an answer depends on but the text. Raises RunError where another process
    is at work there.
    """
    file = folder / f"{_digest(made_by)[:16]}.jsonl"
    with alone(folder, "sumzero score"), appending(file) as write:
        known = {line["of"]: (line["yes"], line["no"]) for line in read_jsonl(file) if _is(line)}
        if known:
            logger.info("%s: %d answers of the judge are there already", file, len(known))
        yield Judged(known, write)


def _is(line: Any) -> bool:
    """Whether a line is an answer; one that a full disk or an editor has damaged is asked again."""
    return (
        isinstance(line, dict)
        and isinstance(line.get("of"), str)
        and all(isinstance(line.get(word), float) for word in ("yes", "no"))
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
