"""A record's prompt with parts of its document left out, and its summary behind it, as token ids.

It is rendered by the same `prompt.py` under the same contract as the generation: with nothing left
out it is the very prompt that the summary was generated from. The summary is what its row says,
encoded as targets are; its end of turn is not scored, since it is said by no sentence.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sumzero.config import RunConfig, Source
from sumzero.errors import DataError
from sumzero.infer.attribution import Floats, Kept
from sumzero.infer.forest import IN_PARTS
from sumzero.infer.questions import question_ids
from sumzero.infer.sources import Sources, Span, sentence_spans
from sumzero.prompt import Prompt, PromptRenderer
from sumzero.records import Record

if TYPE_CHECKING:
    from sumzero.infer.answering import Model


@dataclass(frozen=True)
class Summary:
    """A text as it is scored: its sentences, and of each token the characters and the sentence."""

    sentences: list[Span]
    ids: list[int]
    spans: list[Span]
    sentence_of: list[int]

    @classmethod
    def of(cls, text: str, renderer: PromptRenderer, most: int) -> "Summary":
        """At most the first `most` tokens of a text. A token is of the sentence that it ends in."""
        sentences = sentence_spans(text)
        ids, spans = renderer.target_spans(text)
        ends = [end for _, end in sentences]
        which = [min(bisect_left(ends, end), len(ends) - 1) for _, end in spans[:most]]
        return cls(sentences, ids[:most], spans[:most], which)

    @property
    def sizes(self) -> Floats:
        """Tokens of each sentence (S)."""
        return np.bincount(self.sentence_of, minlength=len(self.sentences)).astype(np.float64)

    def sums(self, logprobs: Sequence[float]) -> Floats:
        """The log-probability of each sentence (S), from those of the tokens, in nats."""
        return np.bincount(self.sentence_of, logprobs, len(self.sentences)).astype(np.float64)


class Ablated:
    """The prompts of one record, and the summary that stands behind each."""

    def __init__(
        self, model: "Model", config: RunConfig, record: Record, source: Source, text: str
    ) -> None:
        """`text` is the summary. Raises DataError where prompt and summary do not fit."""
        renderer, contract = model.renderer, model.contract
        self.record, self.text = record, text
        self._renderer = renderer
        self._asked = question_ids(renderer, model.asked(record, source), record.instruction)
        self._limit = contract.prompt_limit(config.generate.max_new_tokens)
        begin, end = 0, len(record.document)
        if config.generate.long in IN_PARTS:  # which renders chunks without the space around them
            begin = end - len(record.document.lstrip())
            end = max(begin, len(record.document.rstrip()))
        ids, offsets = renderer.document_spans(record.document[begin:end])
        whole = renderer.prompt(ids, self._limit, self._asked)
        # vLLM takes one token less than the model has room for, since it adds one.
        room = contract.max_length - 1 - (len(whole.ids) if whole else contract.max_length)
        if whole is None or room < 1:
            raise DataError(f"prompt and summary do not fit: {len(ids)} document tokens")
        self._whole = whole
        read = [(begin, end)]
        if whole.document_kept < len(ids):
            kept = renderer.truncation.spans(len(ids), whole.document_kept)
            read = [(begin + offsets[a][0], begin + offsets[b - 1][1]) for a, b in kept if a < b]
        self.sources = Sources.of(record.document, read, config.explain.sources)
        self.summary = Summary.of(text, renderer, room)

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt with nothing left out."""
        return len(self._whole.ids)

    def prompts(self, kept_MN: Kept) -> list[list[int]]:
        """For each ablation the ids of its prompt and of the summary."""
        texts = [self.sources.text(kept) for kept in kept_MN]
        prompts = []
        for kept, ids in zip(kept_MN, self._renderer.encode_text(texts), strict=True):
            rendered: Prompt | None = self._whole
            if not kept.all():
                # A text may have a token more in other company; it is not to be cut by the rule.
                some = ids[: self._whole.document_kept]
                rendered = self._renderer.prompt(some, self._limit, self._asked)
            assert rendered is not None
            prompts.append([*rendered.ids, *self.summary.ids])
        return prompts
