"""BLEU and chrF of a corpus by sacrebleu, from counts of each row that can be summed again.

A row's counts are sacrebleu's own, so that a score of any rows is `corpus_bleu` or `corpus_chrf`
of them, to the last digit, and resampling rows costs no text. BLEU's tokenizer is that of the
target language, as sacrebleu chooses it; where it needs a package that is not installed, and for
Thai, Lao, Khmer and Burmese, single characters take its place. The signature says so.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from sumzero.infer.words import UNSPACED_LANGUAGES, code
from sumzero.log import logger

METRICS = ("bleu", "chrf")
FloatArray = NDArray[np.float64]
WIDTHS = {"bleu": 10, "chrf": 18}
"""How many numbers are summed: lengths, matches and totals of 4 orders; 3 numbers of 6 orders."""
_OWN = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # sacrebleu's tokenizers by language


def statistics(references: Sequence[str], text: str, language: str) -> dict[str, list[float]]:
    """Of each metric a row's counts; `language` is that of the translation."""
    streams = [[reference] for reference in references]
    return {
        name: list(map(float, metric._extract_corpus_statistics([text], streams)[0]))
        for name, metric in (("bleu", _bleu(tokenizer_of(language))), ("chrf", _CHRF))
    }


def corpus_score(metric: str, sums: FloatArray) -> float:
    """The score in percent of rows whose counts (K) are summed."""
    counts = [round(value) for value in sums.tolist()]
    by = _CHRF if metric == "chrf" else _bleu("13a")  # the tokenizer does not matter any more
    return float(by._compute_score_from_stats(counts).score)


def signature(metric: str, languages: Iterable[str], references: Iterable[int]) -> str:
    """Sacrebleu's signature; `references` are the numbers of references that rows have.

    Rows in languages with different tokenizers are counted each by its own: it names all of them.
    """
    numbers, languages = set(references), set(languages)
    if metric == "bleu":
        for language in sorted(languages):
            _say_what_is_missing(language)
    tokenizers = sorted({tokenizer_of(language) for language in languages}) or ["13a"]
    scorers = [_CHRF] if metric == "chrf" else [_bleu(name) for name in tokenizers]
    found = []
    for scorer in scorers:
        scorer.num_refs = numbers.pop() if len(numbers) == 1 else -1  # -1: it differs
        numbers.add(scorer.num_refs)
        found.append(str(scorer.get_signature()))
    return " + ".join(found)


@lru_cache
def tokenizer_of(language: str) -> str:
    """The name of sacrebleu's tokenizer for a language, of those that work here."""
    short = code(language)
    if short not in _OWN:
        return "char" if short in UNSPACED_LANGUAGES else "13a"
    name = _OWN[short]
    try:
        _bleu(name)
    except (RuntimeError, ImportError):
        return "char"
    return name


@lru_cache
def _say_what_is_missing(language: str) -> None:
    """Once, and not in the processes that score."""
    short = code(language)
    if short in _OWN and tokenizer_of(language) != _OWN[short]:
        logger.warning(
            "BLEU of %s goes by characters, since sacrebleu's %s is not installed; "
            "pip install 'sacrebleu[%s]'",
            *(language, _OWN[short], short),
        )


@lru_cache
def _bleu(tokenizer: str) -> BLEU:
    return BLEU(tokenize=tokenizer, force=True)  # force: no remark on text that looks tokenised


_CHRF = CHRF()
