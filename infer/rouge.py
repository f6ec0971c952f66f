"""ROUGE-1, 2, L and Lsum as Google's rouge-score defines them, with a signature that says how.

English is cut and stemmed as Google does, other languages as words.py says, without stems. Lsum
compares sentence by sentence; both sides are split by `sumzero.sentences`. With several references
the best one counts, per metric. `rouge-score-rs` is bit-equal to `rouge-score` and written in Rust;
it is used where it is installed, and the signature says which.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sumzero.infer.words import GOOGLE, UNICODE, Tokenizer, tokenizer_of
from sumzero.sentences import sentences

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
FloatArray = NDArray[np.float64]
_HOW = {GOOGLE: "stem:porter|tok:google", UNICODE: "stem:no|tok:unicode"}


class _Scorer(Protocol):
    def score(self, target: str, prediction: str) -> Any: ...


def rouge(
    references: Sequence[Sequence[str]], texts: Sequence[str], language: str = "en"
) -> dict[str, FloatArray]:
    """F-measures by metric, in [0, 1], one a text: (n) each.

    `references[i]` are the reference texts of `texts[i]`. Raises ValueError where the numbers
    differ or a text has no reference.
    """
    if len(references) != len(texts):
        raise ValueError("every text needs its references")
    scorer = Rouge()
    found = [
        scorer.score(scorer.targets(targets, language), text)
        for targets, text in zip(references, texts, strict=True)
    ]
    scores = np.array(found).reshape(-1, len(METRICS))
    return {name: scores[:, column] for column, name in enumerate(METRICS)}


@dataclass(frozen=True, slots=True)
class Targets:
    """References that are ready to be compared with."""

    tokenizer: str
    """As `words.tokenizer_of` says."""
    lines: tuple[str, ...]


class Rouge:
    """Scores texts one by one."""

    def __init__(self, package: str | None = None) -> None:
        """`package` is "rouge-score-rs" or "rouge-score"; default: the first that is installed."""
        module, _ = _scorers(package)
        self._scorers: dict[str, _Scorer] = {
            GOOGLE: module.RougeScorer(list(METRICS), use_stemmer=True),
            UNICODE: module.RougeScorer(list(METRICS), tokenizer=Tokenizer()),
        }

    def targets(self, references: Sequence[str], language: str = "en") -> Targets:
        """References of a language. Raises ValueError where there are none."""
        if not references:
            raise ValueError("every text needs at least one reference")
        return Targets(tokenizer_of(language, references), tuple(map(_split, references)))

    def score(self, targets: Targets, text: str) -> list[float]:
        """The F-measures of a text, in [0, 1], in the order of METRICS."""
        scorer, split = self._scorers[targets.tokenizer], _split(text)
        found = [scorer.score(target, split) for target in targets.lines]
        return [max(one[name].fmeasure for one in found) for name in METRICS]


def signature(tokenizers: Iterable[str] = (GOOGLE,)) -> str:
    """How the scores are made, in the manner of sacreBLEU's signatures.

    Where texts were cut in more than one way, each by its language, it names both.
    """
    _, package = _scorers()
    how = "+".join(_HOW[name] for name in sorted(set(tokenizers)))
    return f"{how}|split:rule|refs:max|impl:{package}-{metadata.version(package)}"


def _scorers(package: str | None = None) -> tuple[ModuleType, str]:
    try:
        if package != "rouge-score":
            from rouge_score_rs import rouge_scorer

            return rouge_scorer, "rouge-score-rs"
    except ImportError:
        if package is not None:
            raise
    from rouge_score import rouge_scorer

    return rouge_scorer, "rouge-score"


def _split(text: str) -> str:
    """One sentence a line, which is what Lsum goes by; the other metrics do not see lines."""
    return "\n".join(sentences(text))
