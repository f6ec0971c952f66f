"""A small chat server on a real socket that answers as the test says, and fails as servers do."""

import json
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG, RESET, GARBAGE = "hang", "reset", "garbage"


def completion(text, **more):
    """The body of an answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return {
        "model": "m",
        "choices": [{**choice, "finish_reason": "stop"} | more],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


def failure(message, **more):
    """The body of an error."""
    return {"error": {"message": message, "type": "t", "param": None, "code": None} | more}


class ChatServer:
    """Answers what `reply(text, attempt)` returns for a user's text.

    That is a body; or status, body and headers; or HANG, RESET or GARBAGE. `asked` has all
    requests in their order, `attempts` how often each text was asked.
    """

    def __init__(self, reply):
        self.reply = reply
        self.asked = []
        self.attempts = Counter()
        self.headers = []
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.handle(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.stop_listening()
        self._thread.join()

    def stop_listening(self):
        """From now on nobody can connect."""
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request):
        """One request of one connection."""
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        with self._lock:
            self.attempts[text] += 1
            attempt = self.attempts[text]
            self.asked.append((request.path, body))
            self.headers.append(dict(request.headers))
        reply = self.reply(text, attempt)
        if reply == HANG:
            self.is_over.wait()
            request.close_connection = True
        elif reply == RESET:
            linger = struct.pack("ii", 1, 0)  # closing sends RST
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.connection.close()
            request.close_connection = True
        else:
            status, body, headers = reply if isinstance(reply, tuple) else (200, reply, {})
            content = b"<html>{no json" if body == GARBAGE else json.dumps(body).encode()
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)
