"""What servers reply is material: it makes a row, an error or nothing, and never harm."""

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.reply import error_code, generated, one_line, retry_after, said

from .chat_server import completion, failure

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "code", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


def ended(content, finish_reason, refusal):
    """A completion with any end, as JSON may have it: half a surrogate pair too."""
    message = {"content": content, "refusal": refusal}
    return {"choices": [{"message": message, "finish_reason": finish_reason}]}


ANYTHING = JSON | st.text(st.characters())
REPLIES = JSON | st.builds(completion, JSON) | st.builds(failure, JSON, code=JSON)


@given(REPLIES | st.builds(ended, st.none() | ANYTHING, ANYTHING, ANYTHING))
def test_any_reply_is_a_row_that_a_file_can_take_or_is_refused(reply):
    try:
        row = generated(reply)
    except ValueError:
        row = {}
    assert row == {} or ("text" in row) != ("error" in row)
    json.dumps(row, ensure_ascii=False).encode()
    assert isinstance(error_code(reply), str)
    message = said(reply)
    assert len(message) <= 300
    assert message.isprintable()


@given(st.text(st.characters()))
def test_a_line_has_no_more_than_one(text):
    assert one_line(text).isprintable()
    assert len(one_line(text)) <= 300


def test_a_text_without_usage_or_reason_is_a_text():
    assert generated({"choices": [{"message": {"content": " A cat. "}}]}) == {
        "text": "A cat.",
        "finish_reason": None,
    }


def test_a_refusal_is_an_error_with_its_words():
    reply = completion(None)
    reply["choices"][0]["message"]["refusal"] = "I will\nnot."
    assert generated(reply) == {
        "error": "no text (stop): I will not.",
        "prompt_tokens": 7,
        "output_tokens": 3,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (failure("too long"), "too long"),
        ({"error": "plain"}, "plain"),
        ({"message": "theirs"}, "theirs"),
        ({"detail": "fastapi's"}, "fastapi's"),
        ("text", "text"),
        ([1], ""),
        (None, ""),
    ],
)
def test_an_error_is_told_in_its_own_words(body, message):
    assert said(body) == message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("3", 3), ("0.5", 0.5), ("-1", 0), ("nan", 0), ("soon", 0)],
)
def test_a_pause_is_as_long_as_asked_for(header, seconds):
    assert retry_after(header) == seconds


def test_a_pause_may_be_asked_for_by_a_date():
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 61
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0
