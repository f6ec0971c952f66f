"""Renders a document and what is asked about it through the model's chat template, to token ids.

Training and inference both render here, so a model sees at inference what it was trained on.

    head | document | asked | tail | lead, target | end of turn
    ^^^^   user's turn: user text ^^^^   ^^^^^^^^^^^^^^^^^^^^^^^^^^ supervised

The template's own parts (sumzero.template) are encoded with the full tokenizer, so control tokens
in them count; user text (sumzero.usertext) with a copy that knows none. That the parts together are
what the tokenizer makes of the template's own text is proven on the tokens of a probe.

The document comes first and is the only part that is ever cut, on token boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from sumzero.errors import DataError
from sumzero.template import cut_template
from sumzero.usertext import UserText

if TYPE_CHECKING:  # not at run time: processes that tokenise do without
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"  # between document and what is asked
_QUESTION = "{question}"
_CACHED = 1 << 14  # texts
# Words that any tokenizer has: what becomes of rare characters is not what is proven with them.
_PROBE_DOCUMENT, _PROBE_ASKED, _PROBE_TARGET = "The cat sat.", "Sum up.", "A cat sat."


def user_text(document: str, asked: str, question: str | None = None) -> str:
    """The user's turn as text, for servers that render it themselves; {question} is filled."""
    before, slot, after = asked.partition(_QUESTION)
    return document + SEPARATOR + before + (question or "" if slot else "") + after


@dataclass(frozen=True)
class Truncation:
    """How a document that is too long is cut: see `data.truncation`.

    Cutting twice is cutting once: what `keep` leaves can be kept, and cut further later.
    """

    rule: str

    def keep(self, ids: Sequence[int], budget: int) -> list[int]:
        """The tokens that stay, at most `budget`. "drop" and "error" keep all: the caller acts."""
        if len(ids) <= budget:
            return list(ids)
        spans = self.spans(len(ids), budget)
        return list(chain.from_iterable(ids[begin:end] for begin, end in spans))

    def spans(self, length: int, budget: int) -> list[tuple[int, int]]:
        """The same as (begin, end) of what stays of `length` tokens."""
        if length <= budget or self.rule in ("drop", "error"):
            return [(0, length)]
        if self.rule == "head":
            return [(0, budget)]
        if self.rule == "head_tail":
            tail = budget // 2
            return [(0, budget - tail), (length - tail, length)]
        start = length // 2 - budget // 2
        return [(start, start + budget)]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: its ids, and how many of the document's tokens came in and were kept."""

    ids: list[int]
    document_tokens: int
    document_kept: int


class PromptRenderer:
    """Renders prompts and targets for one tokenizer.

    It can be sent to other processes, where it renders the same but has no `tokenizer`.

    `head_ids` stand before the document and `tail_ids` after what is asked; `end_ids` are the end
    of the assistant's turn as trained; `stop_ids` end a generation.
    Raises DataError where the template's target span cannot be proven.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", truncation: str = "head") -> None:
        self.tokenizer = tokenizer
        self.truncation = Truncation(truncation)
        self._user_text = UserText(tokenizer)
        self._asked: dict[str, tuple[list[int], list[int]]] = {}
        template = cut_template(tokenizer)
        self.head_ids = self._encode_template(template.head)[0]
        self.tail_ids = self._after_text(template.tail)
        end = self._end_of_turn(template.end) or self._end_of_turn(template.next)
        self.end_ids = self._after_text(end) if end else [self._eos()]
        eos = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_ids[-1]} | ({eos} if eos is not None else set()))
        self._lead = ""
        asked = SEPARATOR + _PROBE_ASKED
        self._prove(template.head + _PROBE_DOCUMENT + asked + template.tail, template.lead, end)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tokenizer"}

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of user texts, in parallel. No control token is among them."""
        return self._user_text.encode(texts)

    def document_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode_text` of one document, and the characters of it that each token stands for."""
        return self._user_text.encode_spans(text)

    def target_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode_targets` of one text without its end of turn, and its characters as above."""
        ids, spans = self._user_text.encode_spans(self._lead + text)
        back = len(self._lead)
        return ids, [(max(0, begin - back), max(0, end - back)) for begin, end in spans]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids to learn for targets: text and end of turn.

        A text begins with the white space that the template has after its generation cue, if any.
        """
        leads = [self._lead + text for text in texts] if self._lead else texts
        return [ids + self.end_ids for ids in self.encode_text(leads)]

    def ask_parts(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of what is asked, with the separator, before and after its {question}.

        Without a {question} all of it is before.
        """
        if text not in self._asked:
            if len(self._asked) >= _CACHED:
                self._asked.clear()
            before, _, after = (SEPARATOR + text).partition(_QUESTION)
            parts = self.encode_text([before, after])
            self._asked[text] = parts[0], parts[1]
        return self._asked[text]

    def ask(self, text: str, question: str | None = None) -> list[int]:
        """Ids of what is asked, with the separator; `question` stands for {question}.

        The question is user text and encoded by itself: ask_parts' before + question + after.
        """
        assert (question is not None) == (_QUESTION in text), (text, question)
        before, after = self.ask_parts(text)
        if question is None:
            return list(before)
        return before + self.encode_text([question])[0] + after

    def fixed_tokens(self, asked_ids: Sequence[int]) -> int:
        """Tokens of a prompt with an empty document."""
        return len(self.head_ids) + len(asked_ids) + len(self.tail_ids)

    def prompt(
        self, document_ids: Sequence[int], limit: int, asked_ids: Sequence[int]
    ) -> Prompt | None:
        """The prompt of a document's ids in at most `limit` tokens.

        None where it cannot be: no room for one document token, or the rule is not to cut.
        """
        budget = limit - self.fixed_tokens(asked_ids)
        if budget < 1:
            return None
        kept = self.truncation.keep(document_ids, budget)
        if len(kept) > budget:
            return None
        ids = [*self.head_ids, *kept, *asked_ids, *self.tail_ids]
        return Prompt(ids, len(document_ids), len(kept))

    def _encode_template(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and the characters that each stands for."""
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _after_text(self, text: str) -> list[int]:
        """Ids of a part of the template that continues user text: no space goes before it."""
        ids, offsets = self._encode_template(text)
        at = self._first_control(ids)
        if at == 0:
            return ids
        start = offsets[at][0] if at is not None else len(text)
        return self.encode_text([text[:start]])[0] + (ids[at:] if at is not None else [])

    def _first_control(self, ids: list[int]) -> int | None:
        control = self._user_text.control_ids
        return next((at for at, id_ in enumerate(ids) if id_ in control), None)

    def _end_of_turn(self, text: str) -> str:
        """The text up to the first control token; empty where there is none, or words before it.

        Some templates leave the last answer open (GLM): then it ends as one that is followed does.
        """
        ids, offsets = self._encode_template(text)
        at = self._first_control(ids)
        if at is None or text[: offsets[at][0]].strip():
            return ""
        return text[: offsets[at][1]]

    def _eos(self) -> int:
        eos: int | None = self.tokenizer.eos_token_id
        if eos is None:
            raise DataError(
                "chat template: no end of turn follows the assistant's text, and the tokenizer has "
                "no eos token: a model trained on it would never stop"
            )
        return eos

    def _prove(self, prompt: str, lead: str, end: str) -> None:
        """Holds prompt and target against what the tokenizer makes of the template's own text.

        Both must have the same control tokens with the same text between them. Tokenizers that put
        a space before each text that follows a control token would have it before the target, and
        so the lead gets it, if that gives the very tokens.
        """
        document = self.encode_text([_PROBE_DOCUMENT])[0]
        ids = [*self.head_ids, *document, *self.ask(_PROBE_ASKED), *self.tail_ids]
        whole = self._encode_template(prompt + lead + _PROBE_TARGET + end)[0]
        since = len(ids)
        while since and ids[since - 1] not in self._user_text.control_ids:
            since -= 1

        def learnt(lead: str) -> list[int]:
            self._lead = lead
            target = self.encode_targets([_PROBE_TARGET])[0]
            return target if end else target[:-1]

        spaced = ids[since:] + learnt(" " + lead)
        if whole[-len(spaced) :] != spaced:
            learnt(lead)
        self._compare(ids, self._encode_template(prompt)[0])
        self._compare(ids + learnt(self._lead), whole)

    def _compare(self, ids: list[int], template_ids: list[int]) -> None:
        ours, theirs = self._reading(ids), self._reading(template_ids)
        for our, their in zip(ours, theirs, strict=False):
            if our != their:
                break
        else:
            if len(ours) == len(theirs):
                return
            our, their = ours[-1], theirs[-1]
        raise DataError(
            "chat template: prompt and target cannot be proven, their tokens read otherwise than "
            f"the template: {our!r} against {their!r}"
        )

    def _reading(self, ids: list[int]) -> list[str | int]:
        """The text between control tokens, and the control tokens' ids."""
        read: list[str | int] = []
        start = 0
        for at, id_ in enumerate([*ids, -1]):
            if id_ == -1 or id_ in self._user_text.control_ids:
                text = self.tokenizer.decode(ids[start:at], clean_up_tokenization_spaces=False)
                read += [str(text), id_]
                start = at + 1
        return read
