"""Parts of the scored rows that are looked at by themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EDGES = (0, 100, 300, 1000, 3000, 10_000)  # words of a document


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common: `rows` (N) says which."""

    by: str
    label: str
    rows: NDArray[np.bool_]


def slices(columns: Mapping[str, Any]) -> list[Slice]:
    """The slices of rows with these columns (row_scores.ABOUT); none is empty, none is all rows.

    By "task", "language" (of the references), "document_words", and "cut": "whole" is neither cut
    nor failed, "document" had its document cut, "summary" was stopped by the limit of tokens. With
    several tasks, all but the first are by task too, and labelled "summarize, zh".
    """
    tasks = np.asarray(columns["task"])
    found: list[Slice] = []
    of_task = [Slice("task", str(task), tasks == task) for task in dict.fromkeys(columns["task"])]
    for one in of_task:
        title = f"{one.label}, " if len(of_task) > 1 else ""
        for part in _parts(columns):
            rows = part.rows & one.rows
            if rows.any() and (rows != one.rows).any():
                found.append(Slice(part.by, title + part.label, rows))
    order = dict.fromkeys(part.by for part in found)
    by_kind = [part for by in order for part in found if part.by == by]
    return [*(of_task if len(of_task) > 1 else []), *by_kind]


def _parts(columns: Mapping[str, Any]) -> Iterator[Slice]:
    languages = np.asarray(columns["language"])
    for language in dict.fromkeys(columns["language"]):
        yield Slice("language", str(language), languages == language)
    words = np.asarray(columns["document_words"])
    for low, high in pairwise((*_EDGES, None)):
        label = f"{low}-{high - 1}" if high else f"{low} or more"
        yield Slice("document_words", label, (words >= low) & (words < (high or np.inf)))
    document, failed = (np.asarray(columns[name], np.bool_) for name in ("truncated", "failed"))
    summary = np.asarray(columns["finish_reason"]) == "length"
    yield Slice("cut", "whole", ~(document | summary | failed))
    yield Slice("cut", "document", document)
    yield Slice("cut", "summary", summary)
