"""Exact match and F1 of answers, by the rules of SQuAD; the best reference counts, per metric.

English: as SQuAD's own script does it (Rajpurkar et al. 2016): lowercased, without ASCII
punctuation and the articles a, an, the; F1 over the bag of words between white space. Other
languages: over the tokens of words.py, so Chinese and Japanese go by characters, with Latin words
and numbers whole, as CMRC 2018 segments them (its own script then takes the longest common
substring, this the bag of tokens, as MLQA does); no articles are dropped.

A question that the document does not answer is answered by the words that were trained for that
(`unanswerable`): who says them is right, all else is wrong, and saying them of a question that has
an answer is wrong; there is no partial credit, as in SQuAD 2. An empty answer is wrong.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from sumzero.infer.words import GOOGLE, tokenizer_of, tokens

METRICS = ("exact_match", "f1")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(
    references: Sequence[str], text: str, *, unanswerable: str | None, language: str = "en"
) -> list[float]:
    """Exact match and F1 of an answer, in [0, 1].

    `references` is (unanswerable,) where the document has no answer. Raises ValueError without
    references.
    """
    if not references:
        raise ValueError("every answer needs at least one reference")
    if not text.strip():
        return [0.0, 0.0]
    cut = _english if tokenizer_of(language, references) == GOOGLE else tokens
    answer, targets = cut(text), [cut(reference) for reference in references]
    exact = float(answer in targets)
    none = None if unanswerable is None else cut(unanswerable)
    if none is not None and (answer == none or none in targets):
        return [exact, exact]
    return [exact, max(_f1(target, answer) for target in targets)]


def signature(tokenizers: Sequence[str]) -> str:
    """How the scores are made."""
    how = {GOOGLE: "norm:squad|tok:space"}
    return (
        "+".join(how.get(name, "norm:fold|tok:unicode") for name in sorted(set(tokenizers)))
        + "|refs:max|unanswerable:as-trained"
    )


def _english(text: str) -> list[str]:
    """The words of SQuAD's normalized answer."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(target: list[str], answer: list[str]) -> float:
    if not target or not answer:
        return float(target == answer)
    common = sum((Counter(target) & Counter(answer)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(target)
    return 2 * precision * recall / (precision + recall)
