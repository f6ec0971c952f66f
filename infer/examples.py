"""Which records a report shows, and what of them: few enough for a page that is sent by mail.

Rows are ranked in several ways (worst, best, failed, stopped by length, cut, unfaithful, changed
between runs, a seeded sample), and taken from each in turn. Documents are cut where all of them
whole would be too much; where that does not do, records are left out, those taken last first.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.infer.row_scores import RowScores
from sumzero.infer.scored import quality

MOST = 1000
"""Records that are shown."""
LIMITS = (32_000, 16_000, 8_000, 6_000, 4_000, 3_000, 2_000)
"""Characters to which documents may be cut, the first that does."""
TEXT_LIMIT = 8_000
"""Characters of a summary or reference that are shown."""
FAITHFUL = ("nli", "judge")
"""Metrics of faithfulness, in percent; a row below 50 by one of them is called unfaithful."""


@dataclass(frozen=True)
class Shown:
    """What fits: the records in input order, and what was left out to get there."""

    examples: list[dict[str, Any]]
    rows: int
    """Scored records."""
    limit: int
    """Characters that documents are cut to."""
    cut: int
    """Documents that are cut."""


def flags(rows: RowScores) -> dict[str, NDArray[np.bool_]]:
    """What may be wrong with a row, by name: (N) each."""
    columns = rows.columns
    below = np.zeros(len(rows.ids), bool)
    for name in FAITHFUL:
        if name in columns:
            below |= columns[name] < 50  # NaN is not
    empty = columns.get("empty", np.zeros(len(rows.ids)))
    return {
        "failed": columns["failed"].astype(bool),
        "empty": np.asarray(empty > 0) & ~columns["failed"].astype(bool),
        "truncated": columns["truncated"].astype(bool),
        "length": np.asarray(columns["finish_reason"] == "length"),
        "unfaithful": below,
    }


def chosen(
    rows: RowScores, changes: Sequence[NDArray[np.float64]], *, seed: int, most: int = MOST
) -> list[int]:
    """Numbers of rows, each once, the most telling first; at most `most`.

    `changes` are what each row's quality is in another run less what it is here: (N) each.
    """
    rng = np.random.default_rng(seed)
    good = quality(rows)
    marked = flags(rows)
    shuffled = rng.permutation(len(good))
    ranked = [_those(marked["failed"], shuffled), _those(marked["unfaithful"], shuffled)]
    ranked += [_ordered(-np.abs(change), ~np.isin(change, (0.0,))) for change in changes]
    ranked += [_ordered(good), _ordered(-good)]
    ranked += [_those(marked[name], shuffled) for name in ("length", "truncated")]
    ranked.append(shuffled.tolist())
    taken: dict[int, None] = {}
    for place in range(len(good)):
        for ranking in ranked:
            if place < len(ranking):
                taken.setdefault(ranking[place])
                if len(taken) == min(most, len(good)):
                    return list(taken)
    return list(taken)


def fitted(ranked: Sequence[dict[str, Any]], *, rows: int, room: int) -> Shown:
    """Cuts documents, and leaves out the last examples, until all are within `room` bytes of JSON.

    `ranked` are examples by their rank, each with the `row` that gives their order on the page.
    """
    for limit in LIMITS:
        shown = [_cut(example, limit) for example in ranked]
        sizes = np.array([size(example) for example in shown], np.int64)
        if sizes.sum() <= room:
            break
    fit = int(np.searchsorted(sizes.cumsum(), room, side="right"))
    kept = sorted(shown[:fit], key=lambda example: example["row"])
    return Shown(kept, rows, limit, sum(example["left_out"] > 0 for example in kept))


def size(example: dict[str, Any]) -> int:
    """Bytes of an example in the page."""
    return len(embedded(example).encode("utf-8", "replace")) + 1


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: no character in it ends one, or begins a comment.

    Those are written as escapes, which JSON reads as the characters.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def shortened(text: str) -> str:
    """A summary or reference as it is shown."""
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + " […]"


def _cut(example: dict[str, Any], limit: int) -> dict[str, Any]:
    text = example["document"]
    if len(text) <= limit:
        return example
    left_out = example["left_out"] + len(text) - limit
    return {**example, "document": text[:limit], "left_out": left_out}


def _ordered(values: NDArray[np.float64], where: NDArray[np.bool_] | None = None) -> list[int]:
    """Numbers of rows by rising value; without those that are NaN, or not in `where`."""
    kept = ~np.isnan(values) if where is None else ~np.isnan(values) & where
    order = np.argsort(values, kind="stable")
    return [int(number) for number in order if kept[number]]


def _those(where: NDArray[np.bool_], order: Iterable[int]) -> list[int]:
    return [int(number) for number in order if where[number]]
