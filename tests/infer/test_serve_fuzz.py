"""Whatever is sent to the server, it says what is wrong, and answers others as before."""

import json
import re
import socket
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .served_run import ROWS, Server, write_run

LIMIT = 2**16  # of a body
HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"document": ROWS[0]["document"]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory, tokenizer):
    one = Server(
        write_run(tmp_path_factory.mktemp("fuzzed"), tokenizer), "--max-body-mib", LIMIT / 2**20
    )
    try:
        yield one.ready()
        status, reply = one.summarize(document=ROWS[0]["document"])
        assert (status, reply["summary"]) == (200, ROWS[0]["target"])
        assert one.process.poll() is None
        assert "Traceback" not in one.log.read_text()
    finally:
        one.end()


def told(server, sent: bytes):
    """Status and body of what the server says to these bytes; it must say something."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        with suppress(ConnectionError):  # it has said enough before it has read all
            connection.sendall(sent)
        reply = b""
        while part := connection.recv(2**16):
            reply += part
            head, _, body = reply.partition(b"\r\n\r\n")
            size = re.search(rb"(?i)content-length: (\d+)", head)
            if size and len(body) >= int(size[1]):
                return int(reply.split()[1]), body[: int(size[1])]
    raise AssertionError(reply)


def refused(server, sent: bytes):
    """The status of a refusal, which must be one clear line."""
    status, body = told(server, sent)
    assert 400 <= status < 500, body
    line = json.loads(body)["error"]["message"]
    assert line
    assert "\n" not in line
    assert len(line) < 300
    return status


def post(body: bytes, *headers: bytes, length: int | None = None, path: bytes = b"/summarize"):
    size = len(body) if length is None else length
    lines = b"".join(line + b"\r\n" for line in headers)
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HEAD, lines, size, body)


def chunked(*parts: bytes):
    return (
        b"POST /summarize HTTP/1.1\r\n"
        + HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    )


BODIES = [
    b"",
    b"null",
    b"Infinity",
    BODY + b"}",
    BODY[:-1] + b",}",
    b"\xef\xbb\xbf" + BODY,
    BODY.decode().encode("utf-16"),
    b'{"document": "\xff"}',
    b'{"document": "\x00"}',
    b'{"document": "\\ud800"}',
    b'{"document": "a", "instruction": "\\udfff"}',
    b'{"document": NaN}',
    b'{"document": "a", "words": NaN}',
    b'{"document": "a", "words": 1e999}',
    b'{"document": "a", "words": -1}',
    b'{"document": "a", "words": true}',
    b'{"document": "a", "sentences": 1%b}' % (b"0" * 5000),
    b'{"document": "a", "instruction": "%b"}' % (b"word " * 5000),
    b'{"document": "a", "language": "\\u001b[31m\\n"}',
    b'{"document": "a", "a\\nb": 1}',
    b'{"%b": 1}' % (b"k" * 50_000),
    b"[" * 60_000,
    b'{"document": %b1%b}' % (b"[" * 30_000, b"]" * 30_000),
]
FRAMES = [
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /summarize HTTP/9.9\r\n" + HEAD + b"\r\n",
    b"POST /summarize\r\n\r\n",
    post(BODY, length=-5),
    post(BODY, length=10**25),
    post(BODY, length=10**9),
    post(BODY, b"Content-Length: 7"),
    post(BODY, b"Transfer-Encoding: gzip"),
    post(BODY, b"no colon"),
    post(BODY, b"X: a\x00b"),
    post(BODY, b"X: " + b"y" * 1_000_000),
    post(BODY, *[b"X: y"] * 200_000),
    post(BODY, path=b"/\xff"),
    post(BODY, path=b"/" + b"a" * 1_000_000),
    post(BODY, path=b"/nowhere"),
    post(BODY, path=b"//summarize"),
    post(BODY, path=b"/summarize%00"),
    post(BODY, path=b"/../summarize"),
    post(BODY).replace(b"Host: localhost", b"Host: \xff"),
    post(BODY).replace(b"Host: localhost", b"Host: elsewhere"),
    post(BODY).replace(b"application/json", b"\xff\xfe"),
    chunked(BODY).replace(b"\r\n\r\n", b"\r\n\r\nzz\r\n"),
    chunked(*[b"x" * 2**14] * 5),
    *(
        method + b" /summarize HTTP/1.1\r\n" + HEAD + b"\r\n"
        for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"post", b"BREW")
    ),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:40]))
def test_a_body_that_is_no_request_is_told(server, body):
    assert refused(server, post(body)) == 400


@pytest.mark.parametrize("sent", FRAMES, ids=lambda sent: repr(sent[:60]))
def test_what_is_no_request_of_this_server_is_told(server, sent):
    assert refused(server, sent) in (400, 403, 404, 405, 413, 415)


@settings(max_examples=150)
@given(st.data())
def test_a_request_that_was_damaged_is_refused_or_answered(server, data):
    """Some bytes of a whole request are cut out, doubled or put in; never is it a fault of ours."""
    sent = bytearray(post(BODY, b"Connection: close"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sent)))
        to = data.draw(st.integers(at, min(at + 8, len(sent))))
        sent[at:to] = data.draw(st.binary(max_size=8) | st.just(bytes(sent[at:to]) * 2))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)  # which ends a request that is not whole
        reply = b""
        while part := connection.recv(2**16):
            reply += part
    if reply:
        assert int(reply.split()[1]) in (200, 400, 403, 404, 405, 413, 415), reply


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["document", "instruction", "words", "sentences", "language", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
    )
)
def test_fields_of_any_kind_are_refused_or_answered(server, fields):
    status, body = told(server, post(json.dumps(fields).encode()))
    if status != 200:
        assert status == 400, body
        assert "\n" not in json.loads(body)["error"]["message"]
    else:
        assert json.loads(body)["document_tokens"] > 0


def test_clients_that_stop_half_way_hold_up_no_others(server):
    held = [server.held(BODY) for _ in range(20)]
    for connection in held[:10]:
        connection.sendall(BODY[:7])
    status, reply = server.summarize(document=ROWS[0]["document"])
    assert (status, reply["summary"]) == (200, ROWS[0]["target"])
    for connection in held:
        connection.close()


def test_a_client_that_offers_to_upgrade_is_answered_as_it_asked(server):
    upgrade = (b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAA")
    status, body = told(server, post(BODY, *upgrade))
    assert (status, json.loads(body)["summary"]) == (200, ROWS[0]["target"])
