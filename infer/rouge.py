"""ROUGE-1, 2, L and Lsum as Google's rouge-score defines them, with a signature that says how.

Stemming is on. Lsum compares sentence by sentence; both sides are split by `sumzero.sentences`.
With several references the best one counts, per metric. `rouge-score-rs` is bit-equal to
`rouge-score` and written in Rust; it is used where it is installed, and the signature says which.
"""

from array import array
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sumzero.sentences import sentences

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
FloatArray = NDArray[np.float64]


class _Scorer(Protocol):
    def score(self, target: str, prediction: str) -> Any: ...


def rouge(references: Sequence[Sequence[str]], texts: Sequence[str]) -> dict[str, FloatArray]:
    """F-measures by metric, in [0, 1], one a text: (n) each.

    `references[i]` are the reference texts of `texts[i]`. Raises ValueError where the numbers
    differ or a text has no reference.
    """
    if len(references) != len(texts):
        raise ValueError("every text needs its references")
    scores = RougeScores()
    for targets, text in zip(references, texts, strict=True):
        scores.add(targets, text)
    return scores.by_metric()


class RougeScores:
    """F-measures of texts that come one by one; of each its four numbers are kept."""

    def __init__(self) -> None:
        self._scorer, _ = _make_scorer()
        self._values = array("d")

    def add(self, targets: Sequence[str], text: str) -> None:
        """Scores a text against its references. Raises ValueError where it has none."""
        if not targets:
            raise ValueError("every text needs at least one reference")
        split = _split(text)
        found = [self._scorer.score(_split(target), split) for target in targets]
        self._values.extend(max(one[name].fmeasure for one in found) for name in METRICS)

    def by_metric(self) -> dict[str, FloatArray]:
        """What `rouge` returns, of the texts so far."""
        scores = np.array(self._values).reshape(-1, len(METRICS))
        return {name: scores[:, column] for column, name in enumerate(METRICS)}


def signature() -> str:
    """How the scores are made, in the manner of sacreBLEU's signatures."""
    _, package = _make_scorer()
    return f"stem:porter|tok:google|split:rule|refs:max|impl:{package}-{metadata.version(package)}"


def _make_scorer() -> tuple[_Scorer, str]:
    try:
        from rouge_score_rs import rouge_scorer

        package = "rouge-score-rs"
    except ImportError:
        from rouge_score import rouge_scorer

        package = "rouge-score"
    return rouge_scorer.RougeScorer(list(METRICS), use_stemmer=True), package


def _split(text: str) -> str:
    """One sentence a line, which is what Lsum goes by; the other metrics do not see lines."""
    return "\n".join(sentences(text))
