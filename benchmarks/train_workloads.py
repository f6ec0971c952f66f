"""What is trained on: token ids drawn once, the same for every system.

A step is the same few records each time. SumZero lays a document out once for all its targets;
`separate` are the sequences, document + prompt + target each, that other trainers get. Throughput
counts the tokens of the latter for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SUPERVISED = 0.1  # of the tokens laid out
DOCUMENT, BRANCHES, PROMPT, TARGET = 1200, 5, 48, 32  # of the 5-target data


@dataclass(frozen=True)
class Record:
    """A document and its targets, each a prompt and what is to be written, as token ids."""

    document: list[int]
    targets: list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Workload:
    """The records of a step."""

    records: list[Record]

    @property
    def separate(self) -> list[dict[str, list[int]]]:
        """A row a target: `input_ids`, and `labels` that are -100 outside of the target."""
        return [
            {
                "input_ids": record.document + prompt + target,
                "labels": [-100] * len(record.document + prompt) + target,
            }
            for record in self.records
            for prompt, target in record.targets
        ]

    @property
    def tokens(self) -> int:
        """Of the separate sequences: what throughput counts."""
        return sum(len(row["input_ids"]) for row in self.separate)

    @property
    def supervised(self) -> int:
        """Tokens of all targets."""
        return sum(len(target) for record in self.records for _, target in record.targets)

    @property
    def laid_out(self) -> int:
        """Tokens where each document stands once."""
        branches = sum(len(p) + len(t) for record in self.records for p, t in record.targets)
        return branches + sum(len(record.document) for record in self.records)


def workload(name: str, row_tokens: int, vocab: int) -> Workload:
    """The records of one row of `row_tokens`: "single-target" or "5-target".

    Single-target sequences have lengths from half to one and a half of their mean, which is 1,024
    tokens or a quarter of the row. 5-target records are as many as the row holds.
    """
    draw = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return [int(x) for x in draw.integers(1, vocab, count)]

    if name == "single-target":
        lengths = _lengths(row_tokens, max(4, row_tokens // 1024))
        targets = [round(length * SUPERVISED) for length in lengths]
        pairs = zip(lengths, targets, strict=True)
        return Workload([Record(ids(n - target), [([], ids(target))]) for n, target in pairs])
    count = row_tokens // (DOCUMENT + BRANCHES * (PROMPT + TARGET))
    return Workload(
        [
            Record(ids(DOCUMENT), [(ids(PROMPT), ids(TARGET)) for _ in range(BRANCHES)])
            for _ in range(count)
        ]
    )


def _lengths(total: int, count: int) -> Sequence[int]:
    bounds = np.cumsum(np.linspace(0.5, 1.5, count)) * total / count
    return [int(x) for x in np.diff(np.rint(bounds), prepend=0)]
