"""What metrics are called where people read of them, and in which group they stand."""

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
}
_AGAINST_REFERENCES = "Against the references"
_FAITHFULNESS = "Faithfulness to the document"
_MANNER = "What the summaries are like"
_GROUPS = {
    _AGAINST_REFERENCES: (
        *("rouge1", "rouge2", "rougeL", "rougeLsum"),
        *("bleu", "chrf", "exact_match", "f1"),
    ),
    _FAITHFULNESS: ("nli", "judge"),
}
SHARES = frozenset(name for names in _GROUPS.values() for name in names)
"""Metrics from 0 to 100."""


def title(metric: str) -> str:
    """A metric's name for people."""
    return TITLES.get(metric, metric.replace("_", " "))


def grouped(metrics: list[str]) -> list[tuple[str, list[str]]]:
    """The metrics by group, each group with a title; those that are not known stand last."""
    known = [(name, [m for m in metrics if m in members]) for name, members in _GROUPS.items()]
    rest = [metric for metric in metrics if metric not in SHARES]
    return [(name, some) for name, some in [*known, (_MANNER, rest)] if some]
