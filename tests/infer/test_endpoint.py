"""The same job by a server of OpenAI's API: a real one on a socket, which fails as servers do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sumzero.errors import ConfigError, RunError
from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate, generate_shard, merge_shards
from sumzero.infer.shards import Shard
from sumzero.runfile import load

from .chat_server import GARBAGE, HANG, RESET, ChatServer, completion, failure

ROWS = [{"id": f"r{i}", "document": f"Text number {i:02}.", "year": 2000 + i} for i in range(12)]
ASKED = "Say it shortly."
KEY = "sk-very-secret-123"


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = tmp_path / "run.toml"
    file.write_text(f"""
        runs = "{tmp_path}/runs"
        [data]
        instruction = "{ASKED}"
        [data.test]
        path = "{tmp_path}/test.jsonl"
        metadata = ["year"]
        [endpoint]
        max_in_flight = 4
        backoff = 0.001
        max_retries = 2
    """)
    return file


def number(text):
    """Which record a request is about."""
    return int(text.split("number ")[1].split(".")[0])


def echo(text, _attempt):
    return completion(f" Sum {number(text)}.\n")


def made(run_file, server, *overrides):
    return generate(load(run_file, overrides), Remote.at(server.url, "gpt-x"))


def texts(generation):
    return [row.get("text") for row in generation.rows()]


ALL = [f"Sum {i}." for i in range(12)]


def test_each_record_is_asked_once_and_has_its_row(run_file):
    with ChatServer(echo) as server:
        found = made(run_file, server, "generate.max_new_tokens=5", "seed=3")
    assert texts(found) == ALL
    row = found.rows()[2]
    assert 0 < row.pop("seconds") < 30
    assert row == {
        "id": "r2",
        "metadata": {"year": 2002},
        "text": "Sum 2.",
        "prompt_tokens": 7,
        "output_tokens": 3,
        "finish_reason": "stop",
    }
    assert set(server.attempts.values()) == {1}
    (path, body), *_ = [one for one in server.asked if "number 02." in str(one)]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": f"Text number 02.\n\n{ASKED}"}],
        "max_completion_tokens": 5,
        "temperature": 0.0,
        "top_p": 1.0,
        "frequency_penalty": 0.0,
        "seed": 3,
    }
    assert found.manifest["system"] == "gpt-x"
    assert found.manifest["endpoint"] == f"{server.url}/v1/chat/completions"


def test_the_key_goes_to_the_server_and_nowhere_else(run_file, tmp_path, caplog):
    def reply(text, attempt):
        if attempt == 1:
            return 429, failure(f"not so fast, {KEY}"), {}
        if number(text) == 3:
            return 400, failure(f"no such thing, {KEY}"), {}
        return echo(text, attempt)

    with ChatServer(reply) as server:
        found = made(run_file, server)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert found.rows()[3]["error"] == "HTTP 400: no such thing, ***"
    assert "not so fast, ***" in caplog.text
    assert KEY not in caplog.text
    written = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert len(written) > 4
    assert not [file for file in written if KEY.encode() in file.read_bytes()]


def test_another_variable_can_hold_the_key_and_without_one_none_is_sent(run_file, monkeypatch):
    monkeypatch.setenv("THEIRS", "other")
    with ChatServer(echo) as server:
        made(run_file, server, "endpoint.key_variable=THEIRS")
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer other"}
        server.headers.clear()
        made(run_file, server, "endpoint.key_variable=NOBODYS", "seed=1")
        assert len(server.headers) == 12
        assert not any("Authorization" in headers for headers in server.headers)
        monkeypatch.setenv("THEIRS", "two\nlines")
        with pytest.raises(ConfigError, match="THEIRS"):
            made(run_file, server, "endpoint.key_variable=THEIRS", "seed=2")


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
        assert texts(made(run_file, server, "endpoint.timeout=0.5")) == ALL
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


def test_the_key_does_not_follow_to_another_host(run_file):
    with ChatServer(echo) as other:
        to = {"Location": f"{other.url}/v1/chat/completions"}
        with (
            ChatServer(lambda *_: (307, {}, to)) as server,
            pytest.raises(RunError, match=f"HTTP 307: .* it sends to {other.url}"),
        ):
            made(run_file, server)
        assert not other.asked


def test_where_nobody_listens_it_is_said_at_once(run_file):
    with ChatServer(echo) as server:
        pass
    with pytest.raises(RunError, match="cannot be reached"):
        made(run_file, server, "endpoint.backoff=60.0")


def test_shards_are_merged(run_file):
    with ChatServer(echo) as server:
        remote, config = Remote.at(server.url, "gpt-x"), load(run_file)
        assert generate_shard(config, remote, Shard(1, 2))[1:] == (6, 12)
        with pytest.raises(RunError, match="6 inputs have no row"):
            merge_shards(config, remote)
        generate_shard(config, remote, Shard(0, 2))
    assert texts(merge_shards(config, remote)) == ALL
    assert set(server.attempts.values()) == {1}


def test_killed_and_begun_again_no_row_is_asked_for_twice(run_file, tmp_path):
    reached, going = threading.Event(), threading.Event()

    def reply(text, attempt):
        if len(server.asked) == 7:
            reached.set()
        if len(server.asked) >= 7:
            going.wait()
        return echo(text, attempt)

    with ChatServer(reply) as server:
        words = ["generate", str(run_file), "--endpoint", server.url, "--model", "gpt-x"]
        command = [sys.executable, "-m", "sumzero.cli", *words]
        overrides = ["endpoint.max_in_flight=1"]
        with subprocess.Popen([*command, *overrides], stderr=subprocess.PIPE) as process:
            assert reached.wait(60)
            os.kill(process.pid, signal.SIGKILL)
        going.set()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (merged,) = (tmp_path / "runs").rglob("merged.jsonl")
    rows = [json.loads(line) for line in merged.read_text().splitlines()]
    assert [row["text"] for row in rows] == ALL
    assert sorted(server.attempts.values()) == [1] * 11 + [2]  # the one that was under way
