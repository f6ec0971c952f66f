"""Answers of an OpenAI-compatible server: many requests at once, each until it has its row.

    no connection, 429, 502, 503         sent again while others are answered, else at most
                                         `max_retries` times: then the run ends
    no answer in time, cut off,          sent again at most `max_retries` times: then the row has
    no JSON, 408, other 5xx              its error, if the server answers others
    other 4xx, 400 for example           the row has its error
    401 to 405, 3xx, no credit, a        the run ends: no other request would fare better
    setting that the model refuses

A run that ends keeps its rows, and goes on with those that are missing. Memory: `max_in_flight`
records and answers.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from sumzero import __version__
from sumzero.config import Endpoint, Source
from sumzero.errors import ConfigError, RunError
from sumzero.infer.chat import Asking
from sumzero.infer.reply import error_code, one_line, retry_after, said
from sumzero.infer.rows import Row
from sumzero.log import logger
from sumzero.records import Record

_LONGEST_BACKOFF = 60.0  # seconds
_LONGEST_PAUSE = 600.0  # seconds that a server may ask for; beyond, the run ends
_CONNECT = 30.0  # seconds
_LONGEST_ANSWER = 16 * 2**20  # bytes
_ENDS = range(401, 406)
_BUSY = (429, 502, 503)
# Codes of OpenAI's errors (400, 429) that are no matter of this request or this moment.
_FOR_ALL = ("unsupported_parameter", "unsupported_value", "insufficient_quota")


class _Again(Exception):
    """An attempt that may fare better later; `pause` is in seconds, as the server asked."""

    def __init__(self, reason: str, *, busy: bool, pause: float = 0.0) -> None:
        self.reason = reason
        self.busy = busy  # or away: not the request's own fault, as far as can be told
        self.pause = pause
        super().__init__(reason)


class _Answer(NamedTuple):
    row: Row
    is_given_up: bool  # an error after `max_retries`, of the server or of this request


def answers(
    chat: Asking, records: Iterator[tuple[Record, Source]], settings: Endpoint
) -> Iterator[Row]:
    """A row for each record, as the server answers.

    Raises RunError where no more answers can be expected.
    """
    server = _Server(chat, settings)
    with asyncio.Runner() as runner:
        runner.run(server.open())
        try:
            with closing(_answered(runner, server, records, settings.max_in_flight)) as found:
                yield from _doubted(server, found, max(2, settings.max_in_flight))
        finally:
            runner.run(server.close())


def _answered(
    runner: asyncio.Runner, server: "_Server", records: Iterator[tuple[Record, Source]], most: int
) -> Generator[_Answer, None, None]:
    """Answers as they come, with at most so many requests at once."""
    tasks: set[asyncio.Task[_Answer]] = set()
    try:
        while True:
            for pair in islice(records, most - len(tasks)):
                tasks.add(runner.get_loop().create_task(server.answer(*pair)))
            if not tasks:
                return
            done, tasks = runner.run(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
            failed = [task for task in done if task.exception()]
            yield from (task.result() for task in done if task not in failed)
            if failed:
                failed[0].result()  # raises
    finally:
        runner.run(_cancelled(tasks))


async def _cancelled(tasks: set[asyncio.Task[_Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _doubted(server: "_Server", found: Iterator[_Answer], most: int) -> Iterator[Row]:
    """The rows; those that were given up only once the server has answered another request.

    Raises RunError where so many in a row are given up, or all are.
    """
    given_up: list[Row] = []
    for row, is_given_up in found:
        given_up.append(row)
        if not is_given_up:
            yield from given_up
            given_up.clear()
        if len(given_up) == most:
            server.is_down(given_up)
    if len(given_up) > 1 and not server.num_answered:
        server.is_down(given_up)
    yield from given_up


class _Server:
    """The chat route of a server; `num_answered` counts its answers so far."""

    def __init__(self, chat: Asking, settings: Endpoint) -> None:
        assert chat.remote.address
        self.num_answered = 0
        self._address = chat.remote.address
        self._chat = chat
        self._settings = settings
        self._key = _key(settings.key_variable, self._address)
        self._pause_until = 0.0
        self._told: set[str] = set()

    async def open(self) -> None:
        """Opens the session, which connects when it is first used."""
        headers = {"User-Agent": f"sumzero/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        seconds = self._settings.timeout
        # Not trust_env: it takes passwords of ~/.netrc as well, in place of the key.
        url = urlsplit(self._address)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            proxy=None if proxy_bypass(url.netloc) else getproxies().get(url.scheme),
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, _CONNECT)),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    def is_down(self, given_up: list[Row]) -> NoReturn:
        """Raises RunError: the server has failed all of several requests."""
        self._ends(f"answers no more, {len(given_up)} requests failed: {given_up[0]['error']}")

    async def answer(self, record: Record, source: Source) -> _Answer:
        """The record's row. Raises RunError where no request could be answered any more."""
        row, body = self._chat.ask(record, source)
        if body is None:
            return _Answer(row, False)
        failures = tries = 0  # in all, and without another answer meanwhile
        answered = self.num_answered
        while True:
            await self._paused()
            begun = time.perf_counter()
            try:
                found = await self._post(body)
                break
            except _Again as fault:
                failures += 1
                tries += not fault.busy or self.num_answered == answered
                answered = self.num_answered
                if tries > self._settings.max_retries:
                    reason = f"{fault.reason}, {failures} times"
                    if fault.busy:
                        self._ends(reason)
                    return _Answer({**row, "error": reason}, True)
                await self._wait(fault, failures)
        self.num_answered += 1
        if "error" not in found:
            found["seconds"] = round(time.perf_counter() - begun, 4)
        return _Answer({**row, **found}, False)

    async def _paused(self) -> None:
        """Until the time is over that the server has asked for."""
        loop = asyncio.get_running_loop()
        while (left := self._pause_until - loop.time()) > 0:
            await asyncio.sleep(left)

    async def _wait(self, fault: _Again, failures: int) -> None:
        """Back-off with jitter, and at least as long as the server has asked for."""
        if fault.pause > _LONGEST_PAUSE:
            self._ends(f"{fault.reason}; it asks to be left alone for {fault.pause:.0f} s")
        if fault.reason not in self._told and len(self._told) < 10:
            self._told.add(fault.reason)
            logger.warning("%s: %s; it is asked again", self._address, fault.reason)
        if fault.pause:
            until = asyncio.get_running_loop().time() + fault.pause
            self._pause_until = max(self._pause_until, until)
        longest = min(_LONGEST_BACKOFF, self._settings.backoff * 2.0 ** min(failures - 1, 32))
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _post(self, body: dict[str, Any]) -> Row:
        """What the row has of one attempt. Raises _Again or RunError."""
        try:
            async with self._session.post(
                self._address, json=body, allow_redirects=False
            ) as response:
                raw = await self._read(response)
        except aiohttp.ClientSSLError as error:
            self._ends(one_line(str(error)))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            reason = f"cannot be reached ({one_line(str(error))})"
            if not self.num_answered:
                self._ends(reason)
            raise _Again(reason, busy=True) from None
        except TimeoutError:
            reason = f"no answer in {self._settings.timeout:g} s"
            raise _Again(reason, busy=False) from None
        except aiohttp.ClientError as error:
            reason = f"the connection broke ({one_line(str(error)) or type(error).__name__})"
            raise _Again(reason, busy=False) from None
        return self._judged(response, raw)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for part in response.content.iter_any():
            raw += part
            if len(raw) > _LONGEST_ANSWER:
                raise _Again(f"an answer above {_LONGEST_ANSWER // 2**20} MiB", busy=False)
        return bytes(raw)

    def _judged(self, response: aiohttp.ClientResponse, raw: bytes) -> Row:
        status = response.status
        try:
            reply = json.loads(raw)
        except (ValueError, RecursionError):
            reply = None
        if status == 200:
            try:
                return self._chat.read(reply)
            except ValueError as error:
                raise _Again(str(error), busy=False) from None
        reason = f"HTTP {status}: {said(reply, self._key) or 'no reason given'}"
        code = error_code(reply)
        if status in _ENDS or status < 400 or code in _FOR_ALL:
            self._ends(reason + self._advice(status))
        if status in _BUSY or status == 408 or status >= 500:
            pause = retry_after(response.headers.get("Retry-After"))
            raise _Again(reason, busy=status in _BUSY, pause=pause)
        return {"error": reason}

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            have = "is the key in" if self._key else "a key is taken from"
            return f"; {have} {self._settings.key_variable}"
        if status == 400:
            return "; see the settings endpoint.leave_out and endpoint.max_tokens_name"
        if 300 <= status < 400:
            return "; it sends elsewhere, and the key does not follow: give that address"
        return ""

    def _ends(self, reason: str) -> NoReturn:
        raise RunError(
            f"{self._address}: {reason}; rows so far are kept: run it again for the rest"
        )


def _key(variable: str, address: str) -> str:
    """The key in a variable of the environment; empty where there is none.

    Raises ConfigError where it could not stand in a request.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{variable}: what the environment has there is no key")
    url = urlsplit(address)
    if key and url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("%s: the key goes there unencrypted", address)
    return key
