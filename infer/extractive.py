"""How much a summary takes over from its document, and how much it repeats itself.

Tokens are those of words.py. Coverage, density and compression are Newsroom's (Grusky et al. 2018,
section 4): the summary S is cut greedily, from its left, into the longest runs that stand in the
document A; coverage is the share of tokens in such runs, density the sum of their squared lengths
over |S|, compression |A| / |S|. Novel n-grams are the share of the summary's distinct n-grams that
the document has not; repetition the share of its n-grams that came before in it.

Each token of the summary is given a character, all others of the document one that stands for none:
a run is in the document if its string is in the document's, which C searches. That costs about
O(|A|) a run in C, after O(|A| + |S|) in Python, where Newsroom's own loop is O(|A| |S|) in Python.
"""

from dataclasses import dataclass
from itertools import repeat

import numpy as np

METRICS = (
    "coverage",
    "density",
    "compression",
    "novel_1grams",
    "novel_2grams",
    "novel_3grams",
    "repeated_3grams",
)
SIGNATURE = "tok:unicode|case:fold|stem:no|fragments:greedy|novel:distinct"
_OTHER = "\0"
_NOVEL = (1, 2, 3)
_REPEATED = 3


@dataclass(frozen=True, slots=True)
class Fragment:
    """A run of tokens that summary and document share: where it begins in each, and its length."""

    summary: int
    document: int
    length: int


def fragments(document: list[str], summary: list[str]) -> list[Fragment]:
    """The runs of a summary's tokens that stand in the document, greedily, from left to right.

    Of a run that stands there several times it is the first place.
    """
    return _fragments(*_as_characters(document, summary))


def extractive(document: list[str], summary: list[str]) -> list[float]:
    """The statistics of a summary's tokens in the order of METRICS; shares are in [0, 1].

    Density is in tokens, compression a ratio. NaN is what a summary is too short for.
    """
    text, mine = _as_characters(document, summary)
    size = len(mine)
    if not size:
        return [np.nan] * len(METRICS)
    lengths = [fragment.length for fragment in _fragments(text, mine)]
    found = [sum(lengths) / size, sum(x * x for x in lengths) / size, len(text) / size]
    for n in _NOVEL:
        grams = _grams(mine, n)
        distinct = set(grams)
        new = sum(gram not in text for gram in distinct)
        found.append(new / len(distinct) if distinct else np.nan)
        if n == _REPEATED:
            repeated = 1 - len(distinct) / len(grams) if grams else np.nan
    return [*found, repeated]


def _grams(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def _as_characters(document: list[str], summary: list[str]) -> tuple[str, str]:
    """A character a token, of both."""
    codes: dict[str, str] = {}
    mine = "".join([codes.setdefault(token, chr(len(codes) + 1)) for token in summary])
    return "".join(map(codes.get, document, repeat(_OTHER))), mine


def _fragments(text: str, mine: str) -> list[Fragment]:
    found, start = [], 0
    while start < len(mine):
        place, end = text.find(mine[start]), start + 1
        if place < 0:
            start += 1
            continue
        while end < len(mine):
            # A longer run stands no earlier than a shorter one.
            further = text.find(mine[start : end + 1], place)
            if further < 0:
                break
            place, end = further, end + 1
            while (
                end < len(mine) and text[place + end - start : place + end - start + 1] == mine[end]
            ):
                end += 1
        found.append(Fragment(start, place, end - start))
        start = end
    return found
