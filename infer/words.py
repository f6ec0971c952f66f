"""Texts -> tokens that overlap is counted in, in any language, and the lengths of texts.

Two ways to cut a text, and which of them is used depends on language and references alone:

    google    English: runs of a-z and 0-9 of the lowercased text, as Google's `rouge-score` has it
    unicode   all other languages, of the text in NFKC, casefolded, and NFKC again: a letter of a
              script that is written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer,
              Myanmar) is a token by itself, with its marks; of other scripts, a run of letters,
              marks and digits is one. So Chinese goes by characters, "2023" and "BERT" in it are
              one token each, and German "für" is one.

A record that is called English and whose references are not, by most of their letters, is cut the
second way: a run without `data.test.language` scores Chinese too.
"""

import re
import unicodedata
from collections.abc import Iterable

import regex

from sumzero.instructions import primary

GOOGLE, UNICODE = "google", "unicode"
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30fc"
_TOKEN = regex.compile(
    rf"(?V1)[{_UNSPACED}&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+"
)
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]")
_LETTER = regex.compile(r"\p{L}")
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")
_ASCII_LETTER = re.compile(r"[A-Za-z]")
_HEAD = 2000  # characters that tell how a text is written
_NAMES = {
    "eng": "en", "english": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh",
    "chinese": "zh", "jpn": "ja", "japanese": "ja", "kor": "ko", "korean": "ko", "tha": "th",
    "thai": "th", "lao": "lo", "khm": "km", "khmer": "km", "mya": "my", "burmese": "my",
}  # fmt: skip
UNSPACED_LANGUAGES = ("zh", "ja", "th", "lo", "km", "my")


def code(language: str) -> str:
    """The two letters of a language that is given as "zh-CN", "zho" or "Chinese"."""
    name = primary(language.strip())
    return _NAMES.get(name, name)


def tokenizer_of(language: str, references: Iterable[str]) -> str:
    """GOOGLE or UNICODE: how texts are cut that are held against these references."""
    if code(language) != "en":
        return UNICODE
    text = "\n".join(references)
    if text.isascii():
        return GOOGLE
    return UNICODE if 2 * len(_ASCII_LETTER.findall(text)) < len(_LETTER.findall(text)) else GOOGLE


def folded(text: str) -> str:
    """The text without differences of case and width."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", text)


def tokens(text: str) -> list[str]:
    """The tokens of UNICODE."""
    text = folded(text)
    found: list[str] = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    return found


class Tokenizer:
    """What `rouge-score` and `rouge-score-rs` take as a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """See `tokens`."""
        return tokens(text)


def is_unspaced(text: str, language: str) -> bool:
    """Whether a text's length is counted in characters, by its language or its own letters."""
    if code(language) in UNSPACED_LANGUAGES:
        return True
    head = text[:_HEAD]
    if head.isascii():
        return False
    return 2 * len(_UNSPACED_LETTER.findall(head)) > len(_LETTER.findall(head))


def length(text: str, language: str) -> int:
    """Words between white space, as `data.length_control` counts them; see `is_unspaced`."""
    words = text.split()
    return sum(map(len, words)) if is_unspaced(text, language) else len(words)
