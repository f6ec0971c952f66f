"""Cuts a model's chat template into the texts around the user's and the assistant's.

    head | user's text | tail | lead, target | end
    `------- the prompt ------'  `-- learnt --'

The template is rendered with marks in place of the two texts and cut at the marks. The cuts are
proven on another conversation: nothing is taken on trust, and no template is known by its name.

The prompt is what the template's generation cue gives, since that is what a chat server sends. What
a conversation has beyond the cue goes
- to the prompt where it is more than white space: the end of an empty thinking block (Qwen3), the
  channel of the answer (gpt-oss);
- to the target, as `lead`, where it is white space alone (Mistral's " answer", GLM's line break):
  the model was taught to write it, in one token with the first word, and a server's cue lacks it.
A cue that goes further than the conversation opens a thinking block which the template leaves out
of finished turns (DeepSeek-R1, QwQ), or has it empty already (Gemma 4). The prompt then is the cue
with the block closed, if the template itself takes such a block off an answer.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sumzero.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Plain letters: no template escapes, trims or translates them.
_USER = "SumZeroUserText7f3a"
_TARGET = "SumZeroTargetText9c1e"
_DATE = datetime(2025, 1, 1)
# What real texts have that a template could change.
_PROBE_USER = (
    'The cat\'s <b>mat</b> & "hat":\n\n- it sat, 50 % of 2.5 days; {so} \\n what?\n\nSum up.'
)
_PROBE_TARGET = "A cat <i>sat</i> & slept.\nIt was {warm}: 3.5 'days' \\n."


@dataclass(frozen=True)
class Template:
    """The texts around the user's text and the target; `lead` is learnt with the target.

    `next` stands between the target and another user's text, where the conversation goes on.
    """

    head: str
    tail: str
    lead: str
    end: str
    next: str


def cut_template(tokenizer: "PreTrainedTokenizerBase") -> Template:
    """The parts of a tokenizer's chat template.

    Raises DataError where it cannot be rendered, or the target's place in it cannot be proven.
    """
    try:
        cue, whole = _conversation(tokenizer, _USER, _TARGET)
        if whole.count(_USER) != 1 or whole.count(_TARGET) != 1 or cue.count(_USER) != 1:
            raise DataError(
                "chat template: it does not render the user's and assistant's text once"
            )
        before, end = whole.split(_TARGET)
        head, tail = cue.split(_USER)
        beyond = _beyond_the_cue(tokenizer, cue, before, end)
        next_ = _next_turn(tokenizer)
        probe = cue.replace(_USER, _PROBE_USER), _filled(whole)
        if _conversation(tokenizer, _PROBE_USER, _PROBE_TARGET) != probe:
            raise DataError("chat template: it changes the user's or assistant's text")
    except DataError:
        raise
    except Exception as error:  # a template can raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"chat template: it cannot be rendered: {reason}") from None
    if beyond.isspace():
        return Template(head, tail, beyond, end, next_)
    return Template(head, tail + beyond, "", end, next_)


def _beyond_the_cue(tokenizer: "PreTrainedTokenizerBase", cue: str, before: str, end: str) -> str:
    """What stands between the generation cue and the target."""
    if before.startswith(cue):
        return before[len(cue) :]
    if cue.startswith(before):
        opened = cue[len(before) :]
        for closing in _closings(opened):
            answer = opened + closing + _TARGET
            _, whole = _conversation(tokenizer, _USER, answer)
            if whole.startswith(before) and whole[len(before) :].lstrip() == _TARGET + end:
                return closing
    raise DataError(
        "chat template: a conversation does not begin with the prompt that asks for it: "
        f"{cue[-60:]!r} against {before[-60:]!r}"
    )


def _closings(opened: str) -> list[str]:
    """How a thinking block that a cue has opened may be closed: it is already, or by its own tag.

    The white space is what templates that write empty blocks themselves put there.
    """
    tag = re.fullmatch(r"([^\w\s]+)(\w+)([^\w\s]+)", opened.strip())
    return ["", f"\n{tag[1]}/{tag[2]}{tag[3]}\n\n"] if tag else [""]


def _next_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    roles = {"user": "First", "assistant": _TARGET}
    turns = [{"role": role, "content": text} for role, text in roles.items()]
    text = _render(tokenizer, [*turns, {"role": "user", "content": _USER}], True)
    return text.partition(_TARGET)[2].partition(_USER)[0]


def _conversation(tokenizer: "PreTrainedTokenizerBase", user: str, target: str) -> tuple[str, str]:
    """The prompt with the generation cue, and the whole conversation."""
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": target}]
    return _render(tokenizer, turns[:1], True), _render(tokenizer, turns, False)


def _render(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]], cue: bool) -> str:
    # Thinking is off for templates that have it: an answer is all that is asked for.
    text: Any = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=cue,
        enable_thinking=False,
        thinking=False,
        # Templates that write today's date must render tomorrow what was trained today.
        strftime_now=_DATE.strftime,
    )
    return str(text)


def _filled(text: str) -> str:
    return text.replace(_USER, _PROBE_USER).replace(_TARGET, _PROBE_TARGET)
