"""The parts of a document that can be left out of it: its sentences, or neighbours joined.

Only what a model has read can be left out: of a document that was cut to fit, the sentences that it
has not read are no sources, and one that was cut in two is the part that it has read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from sumzero.sentences import sentence_ends

Span = tuple[int, int]
"""Characters of a text: the first, and the one after the last."""


def sentence_spans(text: str) -> list[Span]:
    """The sentences of a text without the white space around them; none is empty."""
    spans = []
    for begin, end in pairwise([0, *sentence_ends(text), len(text)]):
        part = text[begin:end]
        start = begin + len(part) - len(part.lstrip())
        if stop := len(part.rstrip()):
            spans.append((start, begin + stop))
    return spans


@dataclass(frozen=True)
class Sources:
    """`spans` are all parts of the document; `read` are the ranges of it that a model has read."""

    document: str
    spans: tuple[Span, ...]
    read: tuple[Span, ...]
    sentences: int  # that the document has

    @classmethod
    def of(cls, document: str, read: Sequence[Span], most: int) -> "Sources":
        """The sentences; where the model has read more than `most`, as many groups of neighbours.

        So are those that it has not read.
        """
        sentences = sentence_spans(document)
        was_read = [bool(_clipped(span, read)) for span in sentences]
        sizes = {flag: -(-was_read.count(flag) // most) for flag in (True, False)}
        spans: list[Span] = []
        start = 0
        for at in range(1, len(sentences) + 1):
            ends = at == len(sentences) or was_read[at] != was_read[start]
            if ends or at - start == sizes[was_read[start]]:
                spans.append((sentences[start][0], sentences[at - 1][1]))
                start = at
        return cls(document, tuple(spans), tuple(read), len(sentences))

    @cached_property
    def there(self) -> tuple[int, ...]:
        """Which of the spans are sources: those that were read, at least in part."""
        return tuple(i for i, span in enumerate(self.spans) if _clipped(span, self.read))

    @cached_property
    def cut_in_two(self) -> tuple[int, ...]:
        """Which of the spans were read in part only."""
        read = {i: _clipped(self.spans[i], self.read) for i in self.there}
        return tuple(i for i in self.there if read[i] != [self.spans[i]])

    def text(self, kept: Iterable[bool]) -> str:
        """What is left of the document, given for each source whether it stays.

        Each but the first has before it what stands before it in the document.
        """
        parts: list[str] = []
        for index, stays in zip(self.there, kept, strict=True):
            if not stays:
                continue
            begin, end = self.spans[index]
            if parts:
                begin = self.spans[index - 1][1]
            parts += [self.document[a:b] for a, b in _clipped((begin, end), self.read)]
        return "".join(parts)


def _clipped(span: Span, ranges: Iterable[Span]) -> list[Span]:
    """What lies of a span in ranges that do not touch."""
    found = ((max(span[0], begin), min(span[1], end)) for begin, end in ranges)
    return [(begin, end) for begin, end in found if begin < end]
