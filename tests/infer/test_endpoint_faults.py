"""What becomes of a job whose server is busy, breaks, refuses, hangs or lies."""

import threading
import time

import pytest

from sumzero.errors import RunError

from .chat_job import ALL, KEY, echo, made, number, texts, write_job
from .chat_server import GARBAGE, HANG, RESET, ChatServer, completion, failure


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return write_job(tmp_path)


PASSING = {
    "429": (429, failure("slow down"), {"Retry-After": "0"}),
    "503": (503, failure("busy"), {}),
    "500": (500, GARBAGE, {}),
    "408": (408, failure("late"), {}),
    "no JSON": (200, GARBAGE, {}),
    "no choices": (200, {"choices": []}, {}),
    "half a character": (200, completion("\ud800"), {}),
    "reset": RESET,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_asked_again(run_file, fault):
    with ChatServer(lambda text, attempt: fault if attempt < 3 else echo(text, attempt)) as server:
        assert texts(made(run_file, server, "endpoint.max_retries=8")) == ALL
    assert set(server.attempts.values()) == {3}


def test_a_server_that_hangs_is_asked_again(run_file):
    def reply(text, attempt):
        return HANG if attempt == 1 and number(text) < 2 else echo(text, attempt)

    with ChatServer(reply) as server:
        assert texts(made(run_file, server, "endpoint.timeout=2")) == ALL
        assert sum(server.attempts.values()) == 14


def test_nobody_asks_while_the_server_wants_to_be_left_alone(run_file):
    at = []
    lock = threading.Lock()

    def reply(text, attempt):
        with lock:
            at.append(time.monotonic())
            is_first = len(at) == 1
        return (429, failure("wait"), {"Retry-After": "1"}) if is_first else echo(text, attempt)

    with ChatServer(reply) as server:
        assert texts(made(run_file, server, "endpoint.max_in_flight=1")) == ALL
    assert at[1] - at[0] >= 1


def test_a_row_that_the_server_refuses_has_its_error_and_is_not_asked_again(run_file):
    def reply(text, attempt):
        if number(text) == 5:
            return 400, failure("too\nlong", code="context_length_exceeded"), {}
        if number(text) == 6:
            return completion(None, finish_reason="content_filter")
        return echo(text, attempt)

    with ChatServer(reply) as server:
        found = made(run_file, server)
    assert found.rows()[5] == {
        "id": "r5",
        "metadata": {"year": 2005},
        "error": "HTTP 400: too long",
    }
    assert found.rows()[6]["error"] == "no text (content_filter)"
    assert found.manifest["errors"] == 2
    assert set(server.attempts.values()) == {1}


def test_a_row_that_the_server_cannot_do_has_its_error_after_some_tries(run_file):
    def reply(text, attempt):
        return (500, failure("oops"), {}) if number(text) == 5 else echo(text, attempt)

    with ChatServer(reply) as server:
        found = made(run_file, server, "endpoint.max_in_flight=1")
    assert found.rows()[5]["error"] == "HTTP 500: oops, 3 times"
    assert found.manifest["errors"] == 1
    assert sum(server.attempts.values()) == 11 + 3


LASTING = {
    r"HTTP 401: bad key \*\*\*; .*OPENAI_API_KEY": (401, failure(f"bad key {KEY}"), {}),
    "HTTP 403: no; .*OPENAI_API_KEY": (403, failure("no"), {}),
    "HTTP 404: no model gpt-x": (404, failure("no model gpt-x"), {}),
    "HTTP 429: pay": (429, failure("pay", code="insufficient_quota"), {}),
    "HTTP 400: top_p; see .*endpoint.leave_out": (
        400,
        failure("top_p", code="unsupported_value"),
        {},
    ),
    "answers no more, 2 requests failed: HTTP 500: oops": (500, failure("oops"), {}),
    "HTTP 503: down, 3 times": (503, failure("down"), {}),
    "left alone for 86400 s": (503, failure("down"), {"Retry-After": "86400"}),
}


@pytest.mark.parametrize(("said", "fault"), LASTING.items(), ids=LASTING)
def test_where_nothing_more_can_be_expected_the_run_ends_and_goes_on_later(run_file, said, fault):
    with ChatServer(echo) as server:
        server.reply = lambda text, n: echo(text, n) if number(text) < 5 else fault
        with pytest.raises(RunError, match=f"{said}.*rows so far are kept") as caught:
            made(run_file, server, "endpoint.max_in_flight=1")
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)
        server.reply = echo
        server.attempts.clear()
        assert texts(made(run_file, server)) == ALL
        assert sorted(map(number, server.attempts)) == [*range(5, 12)]


def test_a_server_that_fails_everything_makes_no_rows_of_errors(run_file):
    with ChatServer(lambda *_: (500, failure("oops"), {})) as server:
        for in_flight in (1, 32):
            with pytest.raises(RunError, match="answers no more"):
                made(run_file, server, f"endpoint.max_in_flight={in_flight}")
        server.reply = echo
        assert texts(made(run_file, server)) == ALL


def test_a_row_waits_for_its_turn_as_long_as_others_are_answered(run_file):
    turn = threading.Condition()
    tries = others = 0

    def reply(text, attempt):
        """Between two refusals of row 0 one other row is answered."""
        nonlocal tries, others
        with turn:
            if number(text) == 0:
                tries = attempt
                turn.notify_all()
                turn.wait_for(lambda: others > attempt or attempt == 11)
                return echo(text) if attempt == 11 else (429, failure("busy"), {})
            others += 1
            mine = others
            turn.notify_all()
            turn.wait_for(lambda: tries >= mine)
            return echo(text)

    with ChatServer(reply) as server:
        assert texts(made(run_file, server, "endpoint.max_in_flight=2")) == ALL
    assert tries == 11


def test_a_server_that_ends_in_mid_run_is_waited_for_and_the_rows_are_kept(run_file):
    with ChatServer(echo) as server:

        def reply(text, _attempt):
            if number(text) == 5:
                server.stop_listening()
                return RESET
            return echo(text)

        server.reply = reply
        with pytest.raises(
            RunError, match=r"cannot be reached \(.*, 3 times; rows so far are kept"
        ):
            made(run_file, server, "endpoint.max_in_flight=1")
    (rows,) = run_file.parent.rglob("shard-*.jsonl")
    assert len(rows.read_text().splitlines()) == 5
