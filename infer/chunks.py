"""A text beyond the model's context -> chunks that fit, cut where a reader would pause.

Chunks are spans of characters that together are the text, none lost and none doubled; what is
rendered of one is its text without the white space around it, and has at most `limit` of the
model's own tokens.

The text is cut into sentences (sumzero.sentences), and sentences too long for a prompt into
clauses, words and at last characters. Each piece is counted once, all in one batch. The chunks are
then laid one after the other: with the tokens that are left and the least number of chunks that
hold them with some room, each one aims at an equal share, and ends at the end of a paragraph near
its aim, else of a sentence. At last the chunks themselves are counted, since pieces together can
have other tokens than one by one; a chunk that is too long after all is cut again.

Cost: the text is tokenised twice, and a third time where it is near `limit`; the rest is linear in
its length. No offsets are asked of the tokenizer, so any will do.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import NamedTuple

from sumzero.errors import DataError
from sumzero.prompt import PromptRenderer
from sumzero.sentences import sentence_ends

Count = Callable[[Sequence[str]], list[int]]
"""The numbers of tokens of texts."""

_CHARACTER, _WORD, _CLAUSE, _SENTENCE, _PARAGRAPH = range(5)
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_SPACE = re.compile(r"\s+")
# Chinese papers are often typed with the keyboard's own stops, and no space after them.
_TYPED_STOP = re.compile(rf"(?<=[{_CJK})\uff09])[.!?](?=[{_CJK}])")
_CLAUSE_END = re.compile(
    r"[,;:\u2014](?=\s|[^\x00-\x7f])|[\uff0c\uff1b\uff1a\u3001\u2026]+[\"'\u201d\u2019\u300d\u300f]*"
)
_FULL = 0.9  # of the limit: the aim at most, so that a good place to cut is within reach
_REACH = 0.25  # of the aim: how far from it a better place is sought
_PARTS = 8  # a word that fills n prompts becomes n times as many pieces


@dataclass(frozen=True, slots=True)
class Chunk:
    """Characters `begin` to `end` of a text, and the tokens of what is rendered of them."""

    begin: int
    end: int
    tokens: int

    def of(self, text: str) -> str:
        """What is rendered: the chunk of its text, without the white space around it."""
        return text[self.begin : self.end].strip()


class _Piece(NamedTuple):
    """Characters that are cut further only where they must be."""

    begin: int
    end: int
    rank: int  # of the place where it ends
    level: int  # it was cut at places of this rank and above
    tokens: int


def counter(renderer: PromptRenderer) -> Count:
    """Counts by the tokenizer of a renderer, as documents are counted that go into prompts."""
    return lambda texts: [len(ids) for ids in renderer.encode_text(texts)]


def split(text: str, limit: int, count: Count) -> list[Chunk]:
    """The chunks of a text, in order, each of at most `limit` tokens by `count`; at least one.

    It is one chunk where the whole text fits. Raises DataError where a single character does not.
    """
    if limit < 1:
        raise DataError(f"there is room for {limit} tokens of a document")
    pieces = _finer(text, _Piece(0, len(text), _PARAGRAPH, _PARAGRAPH, limit + 1), limit, count)
    if limit < sum(piece.tokens for piece in pieces) <= 2 * limit:
        tokens = count([text.strip()])[0]
        if tokens <= limit:
            return [Chunk(0, len(text), tokens)]
    found = []
    groups = _even(pieces, limit)
    while groups:
        spans = [(group[0].begin, group[-1].end) for group in groups]
        counts = count([text[begin:end].strip() for begin, end in spans])
        long = []
        for group, (begin, end), tokens in zip(groups, spans, counts, strict=True):
            if tokens <= limit:
                found.append(Chunk(begin, end, tokens))
            elif len(group) > 1:
                long.append(group)
            else:
                long.append(_finer(text, group[0]._replace(tokens=tokens), limit, count))
        groups = [part for group in long for part in _parts(group)]
    return _closed(text, sorted(found, key=lambda chunk: chunk.begin))


def _closed(text: str, chunks: list[Chunk]) -> list[Chunk]:
    """The same with the white space between two chunks at the end of the first."""
    begins = [0, *(_after_space(text, chunk.begin) for chunk in chunks[1:])]
    ends = [*begins[1:], len(text)]
    return [
        Chunk(begin, end, chunk.tokens)
        for begin, end, chunk in zip(begins, ends, chunks, strict=True)
    ]


def _even(pieces: Sequence[_Piece], limit: int) -> list[list[_Piece]]:
    """The pieces in groups of at most `limit` tokens, or of one piece that has more."""
    sums = [0, *accumulate(piece.tokens for piece in pieces)]
    groups = []
    start = 0
    while (rest := sums[-1] - sums[start]) > limit:
        base = sums[start]
        aim = base + rest / ceil(rest / (_FULL * limit))
        reach = _REACH * (aim - base)
        low = bisect_left(sums, aim - reach, start + 1)
        high = bisect_right(sums, min(aim + reach, base + limit))
        within = [at for at in (low - 1, low) if at > start and sums[at] <= base + limit]
        best = max(
            range(low, high) or within or [start + 1],
            key=lambda at: (pieces[at - 1].rank, -abs(sums[at] - aim)),
        )
        groups.append(list(pieces[start:best]))
        start = best
    return [*groups, list(pieces[start:])] if start < len(pieces) else groups


def _parts(pieces: list[_Piece]) -> list[list[_Piece]]:
    """At least two groups of two pieces or more."""
    total = sum(piece.tokens for piece in pieces)
    return _even(pieces, total - 1) if total > 1 else [[piece] for piece in pieces]


def _finer(text: str, whole: _Piece, limit: int, count: Count) -> list[_Piece]:
    """A piece cut one level finer, and again what is still above the limit."""
    pieces: list[_Piece] = []
    todo = [whole]
    while todo:
        cut = [part for piece in todo for part in _cut(text, piece, limit)]
        counts = count([text[part.begin : part.end] for part in cut])
        parts = [part._replace(tokens=tokens) for part, tokens in zip(cut, counts, strict=True)]
        pieces += [part for part in parts if part.tokens <= limit]
        long = [part for part in parts if part.tokens > limit]
        # What is too long by the white space before it alone is not: it is the first of a chunk.
        bare = count([text[part.begin : part.end].strip() for part in long])
        todo = []
        for part, tokens in zip(long, bare, strict=True):
            if tokens > limit:
                todo.append(part._replace(tokens=tokens))
            else:
                pieces.append(part._replace(tokens=limit))
    return sorted(pieces, key=lambda piece: piece.begin)


def _cut(text: str, piece: _Piece, limit: int) -> list[_Piece]:
    """The parts of a piece at the next finer level, one where it has no place to cut there.

    Raises DataError where it is a single character.
    """
    level = max(piece.level - 1, _CHARACTER)
    if level == _CHARACTER:
        places = dict.fromkeys(_between_characters(text, piece, limit), _CHARACTER)
    else:
        places = _places(text[piece.begin : piece.end], piece.begin, level)
    edges = [piece.begin, *places, piece.end]
    ranks = [*places.values(), piece.rank]
    return [
        _Piece(begin, end, rank, level, 0)
        for begin, end, rank in zip(edges, edges[1:], ranks, strict=False)
    ]


def _places(text: str, offset: int, level: int) -> dict[int, int]:
    """Where a text may be cut at a level, rising, and the rank of each place.

    Each is before white space, where there is any: tokenizers have it with the word after it.
    """
    if level == _WORD:
        ends = [match.start() for match in _SPACE.finditer(text)]
    elif level == _CLAUSE:
        ends = [match.end() for match in _CLAUSE_END.finditer(text)]
    else:
        typed = {match.end() for match in _TYPED_STOP.finditer(text)}
        ends = sorted(typed.union(sentence_ends(text)))
    first, last = _after_space(text, 0), len(text.rstrip())
    places = {}
    for end in ends:
        while end > first and text[end - 1].isspace():
            end -= 1
        if first < end < last:
            # A line that ends with a sentence ends a paragraph too: texts without blank lines.
            breaks = level == _SENTENCE and "\n" in text[end : _after_space(text, end)]
            places[offset + end] = _PARAGRAPH if breaks else level
    return places


def _between_characters(text: str, piece: _Piece, limit: int) -> list[int]:
    begin = _after_space(text, piece.begin)
    length = len(text[begin : piece.end].rstrip())
    if length < 2:
        raise DataError(f"a character has {piece.tokens} tokens and there is room for {limit}")
    parts = min(length, _PARTS * ceil(piece.tokens / limit))
    return [begin + length * part // parts for part in range(1, parts)]


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
