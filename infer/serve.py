"""An export or adapters -> a server: vLLM's OpenAI routes, `POST /summarize`, and a page.

Only /summarize and the page keep the contract; vLLM's own routes render by themselves, and their
answers are labelled so. At SIGTERM and Ctrl-C nothing new is taken, and what is at work is ended.
"""

import asyncio
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
import uvicorn
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from sumzero.adapter import open_adapter
from sumzero.config import RunConfig
from sumzero.contract import Contract, check_stop_ids, open_contract
from sumzero.errors import ConfigError, RunError
from sumzero.infer.gate import Gate, error_body
from sumzero.infer.http_protocol import HttpProtocol
from sumzero.infer.openai_app import OpenAIApp, Served, openai_app
from sumzero.infer.responder import Refused, Responder
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.runfolder import RunFolder

KEY = "SUMZERO_API_KEY"
GRACE = 60  # seconds that requests at work have to end
_CUT = Counter("sumzero_documents_cut", "Documents that did not fit and were truncated.")
_GONE = 499  # what nginx calls a client that did not wait; nobody reads it


@dataclass(frozen=True)
class Listen:
    """Where a server listens, and what it takes: bytes of a body, and POST requests at once.

    Port 0 is one that is free.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body: int = 8 * 2**20
    max_concurrent: int = 256


def serve(config: RunConfig, listen: Listen, *, adapter: bool = False) -> int:
    """Serves the run's export until it is told to end; returns the exit code.

    With `adapter`, or where there is no export, its adapters on their base. Raises ConfigError or
    RunError for what the user can mend.
    """
    if config.generate.beams > 1:
        raise ConfigError("generate.beams: the server has no beam search; set generate.beams=1")
    key = os.environ.pop(KEY, "").strip() or None  # no process below needs it
    os.environ.pop("VLLM_API_KEY", None)  # would be asked for as well, on some routes
    if key is None and not _is_loopback(listen):
        raise ConfigError(
            f"--host {listen.host}: others can reach it, so a key is needed: set {KEY}"
        )
    served, contract, renderer = _served(config, adapter)
    responder = Responder(config, contract, renderer)
    with _bound(listen) as sock, _ended_before_ready():
        return asyncio.run(_run(listen, key, served, contract, responder, sock))


async def _run(
    listen: Listen,
    key: str | None,
    served: Served,
    contract: Contract,
    responder: Responder,
    sock: socket.socket,
) -> int:
    logger.info("%s: starting vLLM", served.adapter or served.model)
    async with openai_app(served, GRACE) as openai:
        _add_routes(openai, responder, served.name, contract)
        gate = Gate(openai.app, key, listen.max_body, listen.max_concurrent)
        server = _Server(gate, openai, sock, served.name)
        openai.app.state.server = server  # vLLM's handlers end it where the engine is dead
        await server.serve(sockets=[sock])
        responder.close()
        dead = openai.is_dead and not server.told
    if dead:
        raise RunError("vLLM's engine has ended by itself; its own message stands above")
    logger.info("ended")
    return 0


class _Server(uvicorn.Server):
    """Serves until a signal or the engine's death; a second signal ends what is at work."""

    def __init__(self, gate: Gate, openai: OpenAIApp, sock: socket.socket, name: str) -> None:
        super().__init__(
            uvicorn.Config(
                gate,
                http=HttpProtocol,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self.told = False
        self._openai = openai
        self._sock = sock
        self._name = name

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal again at the end, and so change the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell, number)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens as soon as it does."""
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self._sock.getsockname()[:2]
        at = f"[{host}]" if ":" in host else host
        print(f"serving {self._name} at http://{at}:{port}", flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        return await super().on_tick(counter) or self._openai.is_dead

    def _tell(self, number: signal.Signals) -> None:
        logger.info("%s: ending what is at work", number.name)
        if self.told:
            for task in self.server_state.tasks:
                task.cancel()
        self.told = self.should_exit = True


def _add_routes(openai: OpenAIApp, responder: Responder, name: str, contract: Contract) -> None:
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("serve.html.jinja")

    async def summarize(request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0]
        if media_type.strip().lower() != "application/json":
            reason = "the body must be JSON, with Content-Type: application/json"
            return JSONResponse(error_body(415, reason), 415)
        answer = asyncio.ensure_future(responder.answer(await request.body(), openai.complete))
        gone = asyncio.ensure_future(_disconnect(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=_GONE)
            reply = answer.result()
        except Refused as refused:
            return JSONResponse(error_body(refused.status, refused.reason), refused.status)
        finally:
            for task in (answer, gone):
                task.cancel()
        _CUT.inc(reply["truncated"])
        return JSONResponse(reply)

    async def show(request: Request) -> Response:
        nonce = secrets.token_urlsafe()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        answers = responder.source.task == "answer"
        shown = page.render(
            name=name, nonce=nonce, answers=answers, lengths=contract.length_control
        )
        return HTMLResponse(shown, headers={"content-security-policy": policy})

    openai.app.add_route("/summarize", summarize, methods=["POST"])
    openai.app.add_route("/", show, methods=["GET"])

    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what no route is for as all other refusals are."""
        part = [route for route in openai.app.routes if route.matches(scope)[0] is Match.PARTIAL]
        methods = sorted({method for route in part for method in route.methods})
        status, reason = (405, f"takes {', '.join(methods)}") if part else (404, "there is none")
        body = error_body(status, f"{scope['method'][:20]} {scope['path'][:80]}: {reason}")
        allow = {"allow": ", ".join(methods)} if part else None
        await JSONResponse(body, status, headers=allow)(scope, receive, send)

    openai.app.mount("/", nowhere)


async def _disconnect(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _served(config: RunConfig, adapter: bool) -> tuple[Served, Contract, PromptRenderer]:
    folder = RunFolder.of(config)
    alone = adapter or (folder.adapter.is_dir() and not folder.export.is_dir())
    where = folder.adapter if alone else folder.export
    if not where.is_dir():
        flag = " --adapter" if adapter else ""
        raise RunError(f"{where} is missing; run `sumzero export{flag} RUN.toml` first")
    contract, renderer = open_contract(where)
    model = where
    if alone:
        model = open_adapter(where, config.model.revision)
        check_stop_ids(model, contract.stop_ids)
    served = Served(
        config.name,
        model,
        where if alone else None,
        config.generate,
        contract.max_length,
        contract.stop_ids,
        config.seed,
        contract.probes[0]["ids"][: contract.max_length - 1],
    )
    return served, contract, renderer


def _addresses(listen: Listen) -> list[tuple[Any, ...]]:
    try:
        return socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--host {listen.host}: {error.strerror}") from None


def _is_loopback(listen: Listen) -> bool:
    return all(ipaddress.ip_address(found[4][0]).is_loopback for found in _addresses(listen))


def _bound(listen: Listen) -> socket.socket:
    """A socket that has the address, before minutes go into a model. It does not listen yet."""
    family, kind, protocol, _, address = _addresses(listen)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno or 0)
        raise RunError(
            f"{listen.host}:{listen.port}: {reason}; --port names another port, 0 a free one"
        ) from None
    return sock


@contextmanager
def _ended_before_ready() -> Iterator[None]:
    """Until the server takes signals itself, SIGTERM ends it at once: nothing is at work yet."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
