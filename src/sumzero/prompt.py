"""Renders a document and an instruction through the model's own chat template, to token ids.

Training and inference both render here, so a model sees at inference what it was trained on.

    head | document | instruction | tail | target | end of turn
    ^^^^   user's turn: user text    ^^^^   ^^^^^^^^^^^^^^^^^^^^ supervised

The template is rendered once with marks in place of the user's text and the target, and cut at the
marks. Its own parts are encoded with the full tokenizer, so control tokens in them count. User text
is encoded with a copy of it that knows no control token: `<|im_end|>` in a document stays the
characters it is made of, and cannot end the turn.

The document comes first and is the only part that is ever cut, on token boundaries.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sumzero.errors import DataError

# Plain letters: no template escapes, trims or translates them.
_USER = "SumZeroUserText7f3a"
_TARGET = "SumZeroTargetText9c1e"
_DATE = datetime(2025, 1, 1)
SEPARATOR = "\n\n"  # between document and instruction


@dataclass(frozen=True)
class Truncation:
    """How a document that is too long is cut: see `data.truncation`."""

    rule: str

    def keep(self, ids: Sequence[int], budget: int) -> list[int]:
        """The tokens that stay, at most `budget`. "drop" and "error" keep all: the caller acts."""
        ids = list(ids)
        if len(ids) <= budget or self.rule in ("drop", "error"):
            return ids
        if self.rule == "head":
            return ids[:budget]
        if self.rule == "head_tail":
            tail = budget // 2
            return ids[: budget - tail] + ids[len(ids) - tail :]
        start = (len(ids) - budget) // 2
        return ids[start : start + budget]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: its ids, and how many of the document's tokens came in and were kept."""

    ids: list[int]
    document_tokens: int
    document_kept: int


class PromptRenderer:
    """Renders prompts and targets for one tokenizer and instruction.

    `stop_ids` end a generation; `end_ids` are the end of the assistant's turn as trained.
    Raises DataError where the template's target span cannot be proven.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, instruction: str, truncation: str = "head"
    ) -> None:
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.truncation = Truncation(truncation)
        self._control_ids = _control_ids(tokenizer)
        self._plain = _without_control_tokens(tokenizer, self._control_ids)
        head, tail, end = _template_parts(tokenizer)
        self._head = self._encode_template(head)
        self._tail = self._encode_template(tail)
        self.end_ids = self._end_of_turn(end)
        eos = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_ids[-1]} | ({eos} if eos is not None else set()))
        self._instructions: dict[str, list[int]] = {}

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of user texts, in parallel. No control token is among them."""
        encoded = [item.ids for item in self._plain.encode_batch(texts, add_special_tokens=False)]
        for ids in encoded:
            left = self._control_ids.intersection(ids)
            if left:  # unknown characters become the end of text: the tokenizer has no other token
                token = self.tokenizer.convert_ids_to_tokens(min(left))
                raise DataError(f"tokenizer: a text holds characters it can only encode as {token}")
        return encoded

    def fixed_tokens(self, instruction: str | None = None) -> int:
        """Tokens of a prompt with an empty document."""
        return len(self._head) + len(self._asked(instruction)) + len(self._tail)

    def prompt(
        self, document: Sequence[int], limit: int, instruction: str | None = None
    ) -> Prompt | None:
        """The prompt of a document's ids in at most `limit` tokens.

        None where it cannot be: no room for one document token, or the rule is not to cut.
        """
        asked = self._asked(instruction)
        budget = limit - len(self._head) - len(asked) - len(self._tail)
        if budget < 1:
            return None
        kept = self.truncation.keep(document, budget)
        if len(kept) > budget:
            return None
        return Prompt(self._head + kept + asked + self._tail, len(document), len(kept))

    def _asked(self, instruction: str | None) -> list[int]:
        text = instruction or self.instruction
        if text not in self._instructions:
            self._instructions[text] = self.encode_text([SEPARATOR + text])[0]
        return self._instructions[text]

    def _encode_template(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _end_of_turn(self, end: str) -> list[int]:
        ids = self._encode_template(end)
        for index, id_ in enumerate(ids):
            if id_ in self._control_ids:
                return ids[: index + 1]
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise DataError(
                "chat template: no end of turn follows the assistant's text, and the tokenizer has "
                "no eos token: a model trained on it would never stop"
            )
        return [eos]


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name; no remote code is run.

    Raises DataError where there is none, it is not a fast one, or it has no chat template.
    """
    folder = Path(path)
    if folder.is_dir() and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        raise DataError(f"{path}: the model folder has no tokenizer (tokenizer.json is missing)")
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise DataError(f"{path}: no such model folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path}: no tokenizer can be loaded: {_first_line(error)}") from None
    if not tokenizer.is_fast:
        raise DataError(f"{path}: the tokenizer has no tokenizer.json (a fast tokenizer is needed)")
    if not tokenizer.chat_template:
        raise DataError(
            f"{path}: the tokenizer has no chat template; put a chat_template.jinja into the "
            "folder, or take the model's instruct version"
        )
    return tokenizer


def local_folder(path: str, revision: str | None) -> Path:
    """The local folder of a model: itself, or the Hub's files. Raises DataError without them."""
    if Path(path).is_dir():
        return Path(path)
    try:
        patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no model can be fetched: {_first_line(error)}") from None


def _template_parts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str]:
    """The template's text before the user's text, between it and the target, and after that.

    The prompt with the generation cue must be how the whole conversation begins; what the template
    then puts before the target (an empty thinking block, say) goes to the prompt on both sides.
    """
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _TARGET}]
    try:
        cue = _apply(tokenizer, turns[:1], True)
        whole = _apply(tokenizer, turns, False)
    except Exception as error:  # a template can raise anything
        raise DataError(f"chat template: it cannot be rendered: {_first_line(error)}") from None
    if whole.count(_USER) != 1 or whole.count(_TARGET) != 1 or cue.count(_USER) != 1:
        raise DataError("chat template: it does not render the user's and assistant's text once")
    before, end = whole.split(_TARGET)
    if not before.startswith(cue):
        raise DataError(
            "chat template: a conversation does not begin with the prompt that asks for it: "
            f"{cue[-60:]!r} against {before[-60:]!r}"
        )
    head, tail = before.split(_USER)
    return head, tail, end


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], cue: bool) -> str:
    # Thinking is off for templates that have it: a summary is all that is asked for.
    text: Any = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=cue,
        enable_thinking=False,
        # Templates that write today's date must render tomorrow what was trained today.
        strftime_now=_DATE.strftime,
    )
    return str(text)


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
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


def _without_control_tokens(tokenizer: PreTrainedTokenizerBase, control: set[int]) -> Tokenizer:
    """A copy without added tokens. Control tokens that its vocabulary holds too get other names."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
