"""For a shown summary, which sentences of its document carry each of its own.

attributions.jsonl says so of the summaries that `sumzero explain` has looked at; of others, words
in common do. Of a sentence's weights the largest few are kept: a page must stay small.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sumzero.infer.alignment import alignment
from sumzero.infer.sources import Span, sentence_spans

ATTRIBUTIONS = "attributions.jsonl"
METHODS = {"weights": "ablation", "alignment": "overlap"}
"""What the file calls a method's weights, and what the page calls the method."""
_KEPT = 8  # sources of a sentence
_LEAST = 0.01  # of the largest weight, below which a source is left out
Spans = list[Span]


@dataclass(frozen=True)
class Support:
    """Spans are of characters. `methods` has of each summary sentence (index, weight) of its
    sources, by falling weight; a document sentence that weighs nothing is not among them."""

    document: Spans
    summary: Spans
    methods: dict[str, list[list[tuple[int, float]]]]
    certainty: "Certainty | None" = None


@dataclass(frozen=True)
class Certainty:
    """How probable a summary was to the model that is said to have written it.

    `tokens` are few bytes for a page: where the first token begins, then of each token how many
    characters it has, and its probability in percent. `mean` is their geometric mean, in percent.
    """

    tokens: list[int]
    mean: int

    @property
    def end(self) -> int:
        """Where the last token ends."""
        return self.tokens[0] + sum(self.tokens[1::2])


@dataclass(frozen=True)
class Explanations:
    """Those of some summaries, by system and id; `about` is the first line of the file."""

    about: dict[str, Any] = field(default_factory=dict)
    of: dict[tuple[str, str], Support] = field(default_factory=dict)

    def are_of(self, generation: Path) -> bool:
        """Whether they are of the rows in this folder; else they are older or newer."""
        return bool(self.about.get("generation", generation.name) == generation.name)


def read_explanations(folder: Path, ids: Collection[str]) -> Explanations:
    """What a run's `attributions.jsonl` says of the records with these ids; nothing without one.

    Lines that a kill has torn, and those that are not of the format, are left out.
    """
    file = folder / ATTRIBUTIONS
    if not file.is_file():
        return Explanations()
    about: dict[str, Any] = {}
    found = {}
    for line in _lines(file):
        if line.get("kind") == "explanation":
            about = line
        elif isinstance(id_ := line.get("id"), str) and id_ in ids and (support := _support(line)):
            found[str(line.get("system")), id_] = support
    return Explanations(about, found)


def by_words(document: str, texts: Sequence[str]) -> list[Support | None]:
    """What words in common say of each text; None of one without a sentence."""
    theirs = sentence_spans(document)
    ours = [sentence_spans(text) for text in texts]
    parts = [text[a:b] for text, spans in zip(texts, ours, strict=True) for a, b in spans]
    weights = alignment([document[a:b] for a, b in theirs], parts).tolist()
    found: list[Support | None] = []
    for spans in ours:
        own = [strongest(weights.pop(0)) for _ in spans]
        found.append(Support(theirs, spans, {METHODS["alignment"]: own}) if own else None)
    return found


def strongest(weights: Sequence[float]) -> list[tuple[int, float]]:
    """The largest weights above 0 with their places, by falling weight."""
    above = [(i, w) for i, w in enumerate(weights) if math.isfinite(w) and w > 0]
    above.sort(key=lambda pair: -pair[1])
    return [(i, float(f"{w:.3g}")) for i, w in above[:_KEPT] if w >= _LEAST * above[0][1]]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def _support(line: dict[str, Any]) -> Support | None:
    try:
        document, summary = (_spans(line[f"{side}_sentences"]) for side in ("document", "summary"))
        methods = {}
        for key, name in METHODS.items():
            rows = line.get(key)
            if rows and len(rows) == len(summary) and all(len(r) == len(document) for r in rows):
                methods[name] = [strongest([float(w) for w in row]) for row in rows]
    except (KeyError, TypeError, ValueError):
        return None
    return Support(document, summary, methods, certainty(line)) if methods else None


def certainty(line: dict[str, Any]) -> Certainty | None:
    """What `token_logprobs` and `token_spans` say; None where there are none, or damaged ones.

    Tokens that share a character, as the bytes of an emoji do, are one, whose probability is the
    product of theirs; a character between tokens goes with the one that follows.
    """
    try:
        spans = _spans(line["token_spans"])
        logprobs = [float(value) for value in line["token_logprobs"]]
    except (KeyError, TypeError, ValueError):
        return None
    if not spans or len(spans) != len(logprobs) or not all(map(math.isfinite, logprobs)):
        return None
    end = spans[0][0]
    merged: list[list[float]] = []  # characters, log-probability
    for (start, stop), logprob in zip(spans, logprobs, strict=True):
        if merged and (start < end or stop <= end):
            merged[-1][0] += max(0, stop - end)
            merged[-1][1] += logprob
        else:
            merged.append([stop - end, logprob])
        end = max(end, stop)
    told = (x for length, total in merged for x in (int(length), _percent(total)))
    return Certainty([spans[0][0], *told], _percent(sum(logprobs) / len(logprobs)))


def _percent(logprob: float) -> int:
    return round(100 * math.exp(min(0.0, logprob)))  # above 0 by rounding at most


def _spans(pairs: Any) -> Spans:
    return [(int(start), int(end)) for start, end in pairs]
