"""What metrics are called where people read of them, and in which group they stand."""

from collections.abc import Sequence

TITLES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "exact match",
    "f1": "F1 of answers",
    "nli": "entailment",
    "judge": "judge",
    "novel_1grams": "novel words",
    "novel_2grams": "novel 2-grams",
    "novel_3grams": "novel 3-grams",
    "repeated_3grams": "repeated 3-grams",
    "words": "words",
    "length_ratio": "length by the one asked for",
    "length_kept": "asked length kept",
    "document_truncated": "document cut",
}
REFERENCES = "Against the references"
FAITHFULNESS = "Faithfulness to the document"
_MANNER = "What is taken over, and what repeated"
_LENGTH = "Length and ends"
_OTHERS = "Others"
GROUPS = {
    REFERENCES: (
        *("rouge1", "rouge2", "rougeL", "rougeLsum"),
        *("bleu", "chrf", "exact_match", "f1"),
    ),
    FAITHFULNESS: ("nli", "judge"),
    _MANNER: (
        *("coverage", "density", "compression"),
        *("novel_1grams", "novel_2grams", "novel_3grams", "repeated_3grams"),
    ),
    _LENGTH: (
        *("words", "length_ratio", "length_kept"),
        *("stopped_by_length", "document_truncated", "empty", "errors"),
    ),
}
QUALITY = frozenset((*GROUPS[REFERENCES], *GROUPS[FAITHFULNESS]))
"""Metrics from 0 to 100 of which more is better."""
RATIOS = frozenset(("density", "compression", "words", "length_ratio"))
"""Metrics that are no shares, and so not in percent."""
SHARES = frozenset(name for names in GROUPS.values() for name in names) - RATIOS
"""Metrics from 0 to 100."""


TOLD_OTHERWISE = frozenset(("words", "stopped_by_length", "document_truncated", "empty", "errors"))
"""Metrics that a single row is not shown with: it is shown to be so in words."""


def title(metric: str) -> str:
    """A metric's name for people."""
    return TITLES.get(metric, metric.replace("_", " "))


def grouped(metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The metrics by group, each group with its title; those that are not known stand last."""
    known = [(name, [m for m in members if m in metrics]) for name, members in GROUPS.items()]
    members = {metric for _, some in known for metric in some}
    others = [metric for metric in metrics if metric not in members]
    return [(name, some) for name, some in [*known, (_OTHERS, others)] if some]
