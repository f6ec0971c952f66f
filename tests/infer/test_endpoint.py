"""The same job by a server of OpenAI's API: a real one on a socket."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from sumzero.errors import ConfigError, RunError
from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate_shard, merge_shards
from sumzero.infer.shards import Shard
from sumzero.runfile import load

from .chat_job import ALL, ASKED, KEY, echo, made, number, texts, write_job
from .chat_server import ChatServer, failure


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return write_job(tmp_path)


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
            return 429, failure(f"{'x' * 290} {KEY}"), {}  # cut in the middle of the key
        if number(text) == 3:
            return 400, failure(f"no such thing, {KEY}"), {}
        return echo(text, attempt)

    with ChatServer(reply) as server:
        found = made(run_file, server)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert found.rows()[3]["error"] == "HTTP 400: no such thing, ***"
    assert "xxx ***" in caplog.text
    assert KEY[:6] not in caplog.text
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
        monkeypatch.setenv("THEIRS", "Sum")  # as people set one where a server needs none
        assert texts(made(run_file, server, "endpoint.key_variable=THEIRS", "seed=3")) == ALL
        monkeypatch.setenv("THEIRS", "two\nlines")
        with pytest.raises(ConfigError, match="THEIRS"):
            made(run_file, server, "endpoint.key_variable=THEIRS", "seed=2")


def test_the_key_does_not_follow_to_another_host(run_file):
    with ChatServer(echo) as other:
        to = {"Location": f"{other.url}/v1/chat/completions"}
        with (
            ChatServer(lambda *_: (307, {}, to)) as server,
            pytest.raises(RunError, match=r"HTTP 307: .* it sends elsewhere"),
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
