"""Parts of the scored rows that are looked at by themselves."""

from collections.abc import Mapping
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
    nor failed, "document" had its document cut, "summary" was stopped by the limit of tokens.
    """
    found = [
        Slice(by, str(label), np.asarray(columns[by]) == label)
        for by in ("task", "language")
        for label in dict.fromkeys(columns[by])
    ]
    words = np.asarray(columns["document_words"])
    for low, high in pairwise((*_EDGES, None)):
        label = f"{low}-{high - 1}" if high else f"{low} or more"
        rows = (words >= low) & (words < (high or np.inf))
        found.append(Slice("document_words", label, rows))
    document, failed = (np.asarray(columns[name], np.bool_) for name in ("truncated", "failed"))
    summary = np.asarray(columns["finish_reason"]) == "length"
    found += [
        Slice("cut", "whole", ~(document | summary | failed)),
        Slice("cut", "document", document),
        Slice("cut", "summary", summary),
    ]
    return [part for part in found if part.rows.any() and not part.rows.all()]
