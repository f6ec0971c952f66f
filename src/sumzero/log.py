"""Logging that knows its rank: rank 0 speaks, the others only warn; progress bars; events.jsonl."""

import json
import logging
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from sumzero.ranks import Ranks, ranks

_T = TypeVar("_T")
logger = logging.getLogger("sumzero")


class _AboveBars(logging.StreamHandler[TextIO]):
    """Writes each line on a line of its own, above the progress bar that a terminal shows."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        if not self.stream.isatty():
            return super().emit(record)
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def configure(who: Ranks | None = None) -> None:
    """Sends log lines to stderr; other ranks than 0 show warnings only, with their rank."""
    who = who or ranks()
    prefix = f"[rank {who.rank}] " if who.world > 1 else ""
    handler = _AboveBars(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if who.is_main else logging.WARNING)


def progress(
    items: Iterable[_T], what: str, total: int | None = None, unit: str = "it"
) -> "tqdm[_T]":
    """A progress bar over `items`; one over `()` is updated by hand. Silent on all ranks but 0.

    It appears after half a second, so that short stages stay quiet. Where stderr is no terminal it
    prints at most a line every 10 s.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        delay=0.5,
        mininterval=0.2 if terminal else 10.0,
        disable=not ranks().is_main,
        dynamic_ncols=terminal,
        ascii=None if terminal else True,
    )


class Events:
    """Appends one JSON object a line to `events.jsonl`: {"time": seconds, "event": …, …}."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, event: str, **values: Any) -> None:
        """Appends one event; a reader sees whole lines only, since each is one write.

        JSON has no number that is not finite: it is null.
        """
        values = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with self._file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
