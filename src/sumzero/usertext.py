"""Encodes text that is not ours so that no control token comes of it.

It goes through a copy of the model's tokenizer that knows no added token: `<|im_end|>` in a
document stays the characters it is made of, and cannot end the turn. The copy also puts no space of
its own before a text, since every text here continues another.
"""

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from sumzero.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class UserText:
    """The encoder of user texts of one tokenizer; `control_ids` are what never comes of them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.control_ids = _control_ids(tokenizer)
        self._plain = _without_control_tokens(tokenizer, self.control_ids)
        self._tokens = {id_: tokenizer.convert_ids_to_tokens(id_) for id_ in self.control_ids}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, in parallel. Raises DataError where only a control token would do."""
        found = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        return self._checked([item.ids for item in found])

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same of one text, and the characters of it that each token stands for."""
        found = self._plain.encode(text, add_special_tokens=False)
        return self._checked([found.ids])[0], found.offsets

    def _checked(self, encoded: list[list[int]]) -> list[list[int]]:
        for ids in encoded:
            left = self.control_ids.intersection(ids)
            if left:  # unknown characters become the end of text: the tokenizer has no other token
                token = self._tokens[min(left)]
                raise DataError(f"tokenizer: a text holds characters it can only encode as {token}")
        return encoded


def _control_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Added tokens that are marks, not text: special ones, and others that read like a name.

    Runs of spaces and line breaks are text (Gemma adds them), and so is what stands for unknown
    characters, unless it ends the text as well.
    """
    found = {
        id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special or (len(token.content) > 1 and any(map(str.isalnum, token.content)))
    }
    unknown = tokenizer.unk_token_id
    return found if unknown == tokenizer.eos_token_id else found - {unknown}


def _without_control_tokens(tokenizer: "PreTrainedTokenizerBase", control: set[int]) -> Tokenizer:
    """A copy without added tokens. Control tokens that its vocabulary holds too get other names."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    state["normalizer"] = _without_prefix(state["normalizer"])
    state["pre_tokenizer"] = _without_prefix(state["pre_tokenizer"])
    model = state["model"]
    rows = model["vocab"]
    pieces = rows.items() if isinstance(rows, dict) else ((row[0], i) for i, row in enumerate(rows))
    marks = control | {tokenizer.unk_token_id}
    never = secrets.token_hex(16)  # no text holds it
    renamed = {piece: never + piece for piece, id_ in pieces if id_ in marks}
    if isinstance(rows, dict):
        model["vocab"] = {renamed.get(piece, piece): id_ for piece, id_ in rows.items()}
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in rows]
    if model.get("unk_token"):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if renamed.keys().isdisjoint((left, right, left + right))
        ]
    return Tokenizer.from_str(json.dumps(state))


def _without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that adds no space before the first word of a text."""
    if step is None or step["type"] == "Prepend":
        return None
    step = dict(step)
    if step["type"] == "Metaspace":
        step["prepend_scheme"] = "never"
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    for inner in ("normalizers", "pretokenizers"):
        if inner in step:
            step[inner] = [kept for one in step[inner] if (kept := _without_prefix(one))]
    return step
