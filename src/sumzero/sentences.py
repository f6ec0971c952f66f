"""Splits text into sentences by rule: no model, no download, the same on every machine.

A sentence ends at `.`, `!` or `?` (with closing quotes or brackets) before white space and
something that can begin a sentence, at a Chinese or Japanese full stop, or at a blank line. Common
abbreviations and initials do not end one. Chinese journals also write a Latin full stop without a
space; behind a Chinese character and before another or a digit it ends one, unless a numeral alone
stands before it, as of a heading, or a zero behind it, as of a decimal. Used by the lead baseline
and by ROUGE-Lsum alike.
"""

import re

_ABBREVIATIONS = {
    "al", "approx", "ca", "cf", "dr", "e.g", "eq", "etc", "fig", "figs", "i.e", "inc", "jr",
    "ltd", "mr", "mrs", "ms", "no", "pp", "prof", "ref", "refs", "sec", "sr", "st", "vs", "viz",
}  # fmt: skip
_LONGEST_WORD = 20  # that is looked up
_NUMERALS = frozenset("\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341")  # 1 to 10
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
# A run of full stops or white space is looked at from its first character only (lookbehinds, and
# `+` after a quantifier): table leaders and ruled lines would else take quadratic time.
_END = re.compile(
    r"(?<![.!?])[.!?]++[\"'\u201d\u2019)\]]*+(?=\s++[\"'\u201c\u2018(\[]*[^\sa-z])"
    rf"|(?<=[{_HAN}\u300b\u201d)\uff09])[.!?\uff0e][\u201d\u2019)\uff09]*(?=[{_HAN}\u201c\u300a])"
    rf"|(?<=[{_HAN}])[.!?\uff0e](?=[1-9])"
    r"|[\u3002\uff01\uff1f]+[\"'\u201d\u2019\u300d\u300f)\uff09]*"
    r"|(?<!\s)[^\S\n]*+\n\s*\n"
)


def sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped, with inner line breaks folded to spaces; none is empty."""
    found, start = [], 0
    for end in [*sentence_ends(text), len(text)]:
        found.append(text[start:end])
        start = end
    return [folded for part in found if (folded := " ".join(part.split()))]


def sentence_ends(text: str) -> list[int]:
    """Where sentences end: positions in `text`, rising. A text's own end need not be among them."""
    found, start = [], 0
    for match in _END.finditer(text):
        before = text[max(start, match.start() - _LONGEST_WORD) : match.start()]
        if match.group().strip().startswith((".", "\uff0e")) and _is_abbreviation(before):
            continue
        start = match.end()
        found.append(start)
    return found


def first_sentence(text: str) -> str:
    """The first sentence of `text`, or an empty string where there is none."""
    return first_sentences(text, 1)


def first_sentences(text: str, count: int) -> str:
    """The first `count` sentences of `text`, with a space between, or as many as there are."""
    # Lead baselines see long documents; sentences are sought in their head only.
    for head in (text[: 2000 * count], text):
        found = sentences(head)
        if len(found) > count or len(head) == len(text):
            return " ".join(found[:count])
    return ""


def _is_abbreviation(before: str) -> bool:
    word = before.rsplit(None, 1)[-1].lstrip("([\"'") if before.strip() else ""
    is_initial = len(word) == 1 and word.isalpha() and word.isupper()
    is_numeral = bool(word) and _NUMERALS.issuperset(word)
    return is_initial or is_numeral or word.lower() in _ABBREVIATIONS
