"""What stands before the server's routes: the key, the limits, and the label of the contract.

An ASGI middleware of its own, since vLLM's key guards only some of its routes, and it limits
neither bodies nor requests.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import Counter
from starlette.requests import ClientDisconnect

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health")  # without a key: the page, which asks for it, and whether the server lives
LABEL = b"sumzero-contract"
_IN_CONTRACT = "/summarize"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
REFUSED = Counter("sumzero_refused_requests", "Requests that were not let in.", ["reason"])


class Gate:
    """Lets a request in or answers it itself, with 401, 403, 408, 413 or 503.

    `key` is what the header `Authorization: Bearer KEY` must hold, None for no key; then only
    addressees with a name of the loopback are answered, against pages that give theirs to this
    machine. `max_body` is in bytes, `max_concurrent` in POST requests at once; a body may be on its
    way for `patience` seconds.
    """

    def __init__(
        self,
        app: App,
        key: str | None,
        max_body: int,
        max_concurrent: int,
        patience: float = 60.0,
    ) -> None:
        self._app = app
        self._key = key.encode() if key else None
        self._max_body = max_body
        self._max_concurrent = max_concurrent
        self._patience = patience
        self._running = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handles one connection, request or message of the server's life."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif not (scope["path"] in OPEN and scope["method"] == "GET") and self._stranger(scope):
            await self._stranger_is_told(send)
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif self._running >= self._max_concurrent:
            again = [(b"retry-after", b"1")]
            reason = f"{self._max_concurrent} requests are at work; ask again"
            await _refuse(send, "busy", 503, reason, again)
        else:
            self._running += 1
            try:
                await self._admitted(scope, receive, send)
            finally:
                self._running -= 1

    def _stranger(self, scope: Message) -> bool:
        headers = dict(scope["headers"])
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            return host not in _LOOPBACK and host.rpartition(":")[0] not in _LOOPBACK
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key)

    async def _stranger_is_told(self, send: Send) -> None:
        if self._key is None:
            reason = "without a key this server answers only to localhost; set SUMZERO_API_KEY"
            await _refuse(send, "host", 403, reason)
        else:
            reason = "the key is missing or wrong: Authorization: Bearer KEY"
            await _refuse(send, "key", 401, reason, [(b"www-authenticate", b"Bearer")])

    async def _admitted(self, scope: Message, receive: Receive, send: Send) -> None:
        label = b"inside" if scope["path"] == _IN_CONTRACT else b"outside"
        whole: list[Message] = []
        begun = False

        async def hand_on() -> Message:
            return whole.pop() if whole else await receive()

        async def labelled(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (LABEL, label)]
            await send(message)

        try:
            body = await self._timely_body(scope, receive, send)
            if body is None:
                return
            whole.append({"type": "http.request", "body": body, "more_body": False})
            await self._app(scope, hand_on, labelled)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the time to end in is over
            if begun:
                raise
            await _refuse(send, "ending", 503, "the server is ending")

    async def _timely_body(self, scope: Message, receive: Receive, send: Send) -> bytes | None:
        """The whole body; None where it is too long or too slow, and the client is told so."""
        try:
            async with asyncio.timeout(self._patience):
                body = await self._body(scope, receive)
        except TimeoutError:
            reason = f"the body did not arrive in {self._patience:g} s"
            await _refuse(send, "slow", 408, reason, [(b"connection", b"close")])
            return None
        if body is None:
            limit = f"{self._max_body / 2**20:.3g} MiB"
            await _refuse(send, "body", 413, f"the body is above the limit of {limit}")
        return body

    async def _body(self, scope: Message, receive: Receive) -> bytes | None:
        """The whole body, which every route would read too; None where it is too long.

        Raises ClientDisconnect.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            return None
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                return None
            more = message.get("more_body", False)
        return b"".join(parts)


def error_body(status: int, reason: str) -> dict[str, Any]:
    """A refusal as vLLM's routes write theirs."""
    return {"error": {"message": reason, "type": "refused", "param": None, "code": status}}


async def _refuse(
    send: Send,
    kind: str,
    status: int,
    reason: str,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    REFUSED.labels(kind).inc()
    body = json.dumps(error_body(status, reason)).encode()
    about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": status, "headers": about + (headers or [])}
    await send(start)
    await send({"type": "http.response.body", "body": body})
