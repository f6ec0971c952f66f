"""The gate before an app of the test's own."""

import asyncio
import json

import pytest

from sumzero.infer.gate import Gate


class Told:
    """An app that answers with the length of the body it was given."""

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(body)})


def ask(gate, *parts, path="/summarize", method="POST", kind="http", **headers):
    """Status, or the type of the first message, and the body of the answer."""
    left, sent = list(parts or (b"",)), []
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    body = sent[1]["body"] if len(sent) > 1 else b""
    return sent[0].get("status", sent[0]["type"]), body.decode()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_without_a_key_names_of_the_loopback_are_answered(host):
    assert ask(Gate(Told(), None, 100, 1), b"abc", host=host) == (200, "3")


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:8000", "127.0.0.1.evil:1"])
def test_without_a_key_a_page_that_points_its_name_here_is_not(host):
    status, text = ask(Gate(Told(), None, 100, 1), host=host)
    assert status == 403
    assert "answers only to localhost" in json.loads(text)["error"]["message"]


def test_with_a_key_any_name_is_answered():
    gate = Gate(Told(), "secret", 100, 1)
    assert ask(gate, host="a.example", authorization="bearer secret") == (200, "0")
    assert ask(gate, host="localhost")[0] == 401


@pytest.mark.parametrize("told", [True, False])
def test_a_body_at_the_limit_passes_whole_and_one_above_does_not(told):
    gate = Gate(Told(), "k", 100, 1)
    for size, status in ((100, 200), (101, 413)):
        parts = [b"x" * 60, b"", b"x" * (size - 60)]
        length = {"content-length": str(size)} if told else {}
        answer = ask(gate, *parts, authorization="Bearer k", **length)
        assert answer[0] == status
        assert status == 413 or answer[1] == "100"


def test_a_request_that_fails_frees_its_place():
    async def fails(scope, receive, send):
        raise OSError("no")

    gate = Gate(fails, "k", 100, 1)
    for _ in range(3):
        with pytest.raises(OSError, match="no"):
            ask(gate, authorization="Bearer k")


def test_a_request_that_is_broken_off_before_its_answer_begins_is_told():
    async def waits(scope, receive, send):
        at_work.set()
        await asyncio.Event().wait()

    async def broken_off():
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/summarize", "method": "POST"}
        scope["headers"] = [(b"host", b"localhost")]
        task = asyncio.create_task(Gate(waits, None, 100, 1)(scope, receive, send))
        await at_work.wait()
        task.cancel()
        await task

    at_work, sent = asyncio.Event(), []
    asyncio.run(broken_off())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["message"] == "the server is ending"


def test_web_sockets_are_closed():
    assert ask(Gate(Told(), None, 100, 1), kind="websocket")[0] == "websocket.close"


def test_a_body_that_does_not_arrive_makes_room_for_others():
    async def never():
        await asyncio.Event().wait()

    sent = []

    async def send(message):
        sent.append(message)

    gate = Gate(Told(), "k", 100, 1, patience=0.01)
    scope = {"type": "http", "path": "/summarize", "method": "POST"}
    scope["headers"] = [(b"authorization", b"Bearer k")]
    asyncio.run(gate(scope, never, send))
    assert sent[0]["status"] == 408
    assert "did not arrive in 0.01 s" in json.loads(sent[1]["body"])["error"]["message"]
    assert ask(gate, b"abc", authorization="Bearer k") == (200, "3")
