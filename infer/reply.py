"""What a server of OpenAI's API replies: the text and counts of a row, and the words of an error.

Servers are many and few keep the API to the letter: what is not there is not taken, and nothing
that one says can break a row, a log or a terminal.
"""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from sumzero.infer.rows import Row

_SHOWN = 300  # characters of what a server says
_COUNTS = {"prompt_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}


def generated(reply: Any) -> Row:
    """What a row has of a chat completion. Raises ValueError where it is none."""
    try:
        choice = reply["choices"][0]
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        reason = _told(choice.get("finish_reason"))
        usage = reply.get("usage") or {}
        counts = {
            ours: usage[theirs]
            for ours, theirs in _COUNTS.items()
            if isinstance(usage.get(theirs), int)
        }
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("the answer is no chat completion") from None
    if isinstance(text, str) and not _half(text):
        return {"text": text.strip(), **counts, "finish_reason": reason}
    if text is None:
        return {"error": f"no text ({reason}): {_told(refusal) or ''}".rstrip(": "), **counts}
    raise ValueError("the answer has no text that is one")


def said(body: Any, key: str = "") -> str:
    """The message of an error as OpenAI's API and others write it, in one line.

    Some servers repeat the key: it is left out.
    """
    for name in ("error", "message", "detail"):
        if isinstance(body, Mapping) and name in body:
            body = body[name]
    if not isinstance(body, str):
        return ""
    return one_line(body.replace(key, "***") if key else body)


def error_code(body: Any) -> str:
    """The code of an error as OpenAI's API writes it; empty where there is none."""
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) else ""


def one_line(text: str) -> str:
    """The beginning of a text of others, without what a terminal or a log could take amiss."""
    line = " ".join(text.encode(errors="replace").decode().split())
    return "".join(filter(str.isprintable, line))[:_SHOWN]


def retry_after(header: str | None) -> float:
    """The seconds that a header of this name asks for, in either of its forms; 0 for none."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _told(value: Any) -> str | None:
    """A text of others in one line; None where it is none."""
    return one_line(value) if isinstance(value, str) else None


def _half(text: str) -> bool:
    """Whether there is half a surrogate pair, which no file can take."""
    return any("\ud800" <= character <= "\udfff" for character in text)
