"""What a record's text is measured by, which depends on its task, and the values.

    summarize   ROUGE-1, 2, L, Lsum; extractive statistics; the length that was asked for
    answer      exact match, F1, ROUGE-L
    translate   BLEU, chrF, ROUGE-L
    all         length in words, and the shares of texts that are empty, stopped by length, of a cut
                document, or in place of an error

A share or F-measure is in percent; density is in tokens, compression and `length_ratio` are ratios,
`words` are words, or characters of languages that are written without spaces (words.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sumzero import __version__
from sumzero.infer import bleu, extractive, rouge, squad
from sumzero.infer.metric_names import RATIOS
from sumzero.infer.rouge import Rouge
from sumzero.infer.words import length, tokens
from sumzero.sentences import sentences

FloatArray = NDArray[np.float64]
MAIN = {
    "summarize": rouge.METRICS,
    "answer": (*squad.METRICS, "rougeL"),
    "translate": (*bleu.METRICS, "rougeL"),
}
"""The metrics of a task that a reader looks at first."""
_LENGTH = ("words", "length_ratio", "length_kept")
SHARES = ("stopped_by_length", "document_truncated", "empty", "errors")
COLUMNS = (*rouge.METRICS, *squad.METRICS, *extractive.METRICS, *_LENGTH, *SHARES)
"""The metrics that have a value of each row."""
_FACTORS = np.array([1.0 if name in RATIOS else 100.0 for name in COLUMNS])
_PLACE = {name: place for place, name in enumerate(COLUMNS)}
_ROUGE_L = rouge.METRICS.index("rougeL")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record, as far as texts are measured by it."""

    document: str
    references: tuple[str, ...]
    task: str
    language: str
    """Of the references."""
    document_language: str
    unanswerable: str | None = None
    """In task "answer": what says that the document has no answer."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a system made of a record. `text` is empty where it failed."""

    text: str
    failed: bool = False
    truncated: bool | None = None
    """Whether the document was cut; None where the system has no such thing."""
    finish_reason: str = ""
    words: int | None = None
    """The most words that were asked for."""
    sentences: int | None = None
    """The sentences that were asked for."""


@dataclass(slots=True)
class Measured:
    """Values of N rows."""

    values: FloatArray
    """(N, COLUMNS); NaN where a metric does not apply."""
    counts: dict[str, FloatArray]
    """Of each corpus metric (N, K), NaN where it does not apply; empty where it never does."""
    words: NDArray[np.int64]
    """(N): of each text."""


@dataclass(slots=True)
class Batch:
    """Records and what each system made of them."""

    wanted: list[Wanted]
    texts: dict[str, list[Text]]


@dataclass(slots=True)
class MeasuredBatch:
    """What `measure` finds out."""

    document_words: NDArray[np.int64]
    systems: dict[str, Measured]
    tokenizers: dict[str, set[str]] = field(default_factory=dict)
    """Those that references were cut with, by task."""


@lru_cache
def _rouge() -> Rouge:
    return Rouge()


def measure(batch: Batch) -> MeasuredBatch:
    """All metrics of a batch."""
    num = len(batch.wanted)
    translates = any(wanted.task == "translate" for wanted in batch.wanted)
    corpus = bleu.WIDTHS if translates else {}
    found = MeasuredBatch(
        np.array([length(x.document, x.document_language) for x in batch.wanted], np.int64),
        {
            system: Measured(
                np.full((num, len(COLUMNS)), np.nan),
                {name: np.full((num, width), np.nan) for name, width in corpus.items()},
                np.zeros(num, np.int64),
            )
            for system in batch.texts
        },
    )
    for row, wanted in enumerate(batch.wanted):
        targets = _rouge().targets(wanted.references, wanted.language)
        found.tokenizers.setdefault(wanted.task, set()).add(targets.tokenizer)
        document = tokens(wanted.document) if wanted.task == "summarize" else []
        for system, texts in batch.texts.items():
            text, measured = texts[row], found.systems[system]
            values = measured.values[row]
            scores = _rouge().score(targets, text.text)
            measured.words[row] = size = length(text.text, wanted.language)
            if wanted.task == "summarize":
                _put(values, rouge.METRICS, scores)
                of = extractive.extractive(document, tokens(text.text))
                _put(values, extractive.METRICS, of)
                _put(values, _LENGTH[1:], _against_asked(text, size))
            else:
                values[_PLACE["rougeL"]] = scores[_ROUGE_L]
            if wanted.task == "answer":
                answered = squad.squad(
                    wanted.references,
                    text.text,
                    unanswerable=wanted.unanswerable,
                    language=wanted.language,
                )
                _put(values, squad.METRICS, answered)
            elif wanted.task == "translate":
                of_row = bleu.statistics(wanted.references, text.text, wanted.language)
                for name, counts in of_row.items():
                    measured.counts[name][row] = counts
            values[_PLACE["words"]] = size
            _put(values, SHARES, _shares(text))
    for measured in found.systems.values():
        measured.values *= _FACTORS
    return found


def signatures(
    metrics: Iterable[str],
    tokenizers: dict[str, set[str]],
    translated: Iterable[tuple[str, int]],
) -> dict[str, str]:
    """Of each metric how it was made.

    `tokenizers` are those of `MeasuredBatch`, of all rows; `translated` are language and number of
    references that rows of task "translate" have.
    """
    own = f"v:sumzero-{__version__}"
    pairs = set(translated)
    of_all = set().union(*tokenizers.values())
    of_summaries, of_answers = (tokenizers.get(x, set()) for x in ("summarize", "answer"))
    found = {}
    for name in metrics:
        if name in rouge.METRICS:
            found[name] = rouge.signature(of_all if name == "rougeL" else of_summaries)
        elif name in squad.METRICS:
            found[name] = f"{squad.signature(sorted(of_answers))}|{own}"
        elif name in bleu.METRICS:
            languages, numbers = {x for x, _ in pairs}, {x for _, x in pairs}
            found[name] = bleu.signature(name, languages, numbers)
        elif name in extractive.METRICS:
            found[name] = f"{extractive.SIGNATURE}|{own}"
        elif name in _LENGTH:
            found[name] = f"words:space|unspaced:characters|sentences:rule|{own}"
        else:
            found[name] = f"share:rows|{own}"
    return found


def _put(values: FloatArray, names: Iterable[str], found: Iterable[float]) -> None:
    for name, value in zip(names, found, strict=True):
        values[_PLACE[name]] = value


def _against_asked(text: Text, size: int) -> tuple[float, float]:
    """The length in parts of the one asked for, and whether that was kept; NaN if none was."""
    if text.words:
        return size / text.words, float(0 < size <= text.words)
    if text.sentences:
        count = len(sentences(text.text))
        return count / text.sentences, float(count == text.sentences)
    return np.nan, np.nan


def _shares(text: Text) -> tuple[float, ...]:
    return (
        float(text.finish_reason == "length") if text.finish_reason else np.nan,
        np.nan if text.truncated is None else float(text.truncated),
        float(not text.text.strip()),
        float(text.failed),
    )
