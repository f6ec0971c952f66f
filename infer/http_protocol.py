"""HTTP/1.1 for the server, by h11: what is no HTTP is refused in words of ours.

httptools, which uvicorn would take, knows no limit to a request's head, and loses the body of one
that offers to upgrade, as some clients do with their first (Java's HttpClient).
"""

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sumzero.infer.gate import REFUSED, error_body

_NOT_HTTP = "the request is no valid HTTP/1.1, or its head is too long"


class HttpProtocol(H11Protocol):
    """uvicorn's, with refusals as the routes write theirs."""

    def send_400_response(self, msg: str) -> None:
        """Answers where no answer has begun, and closes the connection."""
        REFUSED.labels("http").inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_body(400, _NOT_HTTP)).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
