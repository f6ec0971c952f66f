"""An engine without a model: it returns the head of the document, always the same.

For trying a recipe without a model, and for tests of volume. It has the interface that generation
uses of `engine.Engine`, with texts for token ids; its tokens are words, or single characters of
Chinese, Japanese and Korean, so that they need no export.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sumzero.infer.engine import Completion

VERSION = "echo-1"
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(f"[{_CJK}]|[^\\s{_CJK}]+")


@dataclass(frozen=True)
class EchoRequest:
    """A document to be echoed."""

    id: str
    document: str


def tokens(text: str) -> Iterator[re.Match[str]]:
    """The tokens that the engine sees in a text."""
    return _TOKEN.finditer(text)


def count_tokens(text: str) -> int:
    """How many tokens the engine sees in a text."""
    return len(_TOKEN.findall(text))


class Echo:
    """Answers each request with the first `max_new_tokens` tokens of its document."""

    def __init__(self, max_new_tokens: int) -> None:
        self._most = max_new_tokens

    def generate(self, requests: Iterable[EchoRequest]) -> Iterator[Completion]:
        """Yields completions in the order of the requests, each before the next is read."""
        for request in requests:
            begun = time.perf_counter()
            count = end = 0
            is_cut = False
            for token in tokens(request.document):
                if count == self._most:
                    is_cut = True
                    break
                count, end = count + 1, token.end()
            text = request.document[:end]
            reason = "length" if is_cut else "stop"
            yield Completion(request.id, text, (), count, reason, time.perf_counter() - begun)
