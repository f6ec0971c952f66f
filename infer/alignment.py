"""Which sentences of a document say what a summary's sentence says: shared n-grams, no model.

A rare word that both have tells more than a common one: n-grams are weighted by how few sentences
of the document have them. It sees what was copied, not what was said in other words.

Cost: the words of the document, for each sentence of the summary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

from sumzero.infer.words import tokens

_LENGTHS = (1, 2, 3)


def alignment(document: Sequence[str], summary: Sequence[str]) -> NDArray[np.float64]:
    """How much of each summary sentence stands in each document sentence (S, N), from 0 to 1.

    Of n-grams of each length from 1 to 3 that the summary's sentence has, it is the share, by
    weight and with repeats, that the document's sentence has too; and of that the mean over the
    lengths. 1 is a document's sentence that has all of them; 0 none, or a sentence without words.
    """
    found = np.zeros((len(summary), len(document)))
    theirs, ours = ([tokens(text) for text in side] for side in (document, summary))
    for number, wanted in enumerate(ours):
        lengths = [length for length in _LENGTHS if length <= len(wanted)]
        for length in lengths:
            found[number] += _shares(theirs, Counter(_grams(wanted, length)), length)
        found[number] /= max(1, len(lengths))
    return np.minimum(found, 1.0)


def _shares(
    theirs: Sequence[Sequence[str]], wanted: Counter[tuple[str, ...]], length: int
) -> NDArray[np.float64]:
    """By sentence of the document the weighted share of what is wanted."""
    have = [
        Counter(gram for gram in _grams(sentence, length) if gram in wanted) for sentence in theirs
    ]
    sentences = Counter(gram for counts in have for gram in counts)
    weight = {gram: log1p(len(theirs) / (1 + sentences[gram])) for gram in wanted}
    whole = sum(count * weight[gram] for gram, count in wanted.items())
    shares = (
        sum(min(count, wanted[gram]) * weight[gram] for gram, count in counts.items()) / whole
        for counts in have
    )
    return np.fromiter(shares, np.float64, len(have))


def _grams(sentence: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(sentence[start:] for start in range(length)), strict=False)
