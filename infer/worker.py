"""The process of one engine: what it is to run and prompts in, completions out, as JSON lines.

    in   {"settings", "cores"}                           at once: vLLM is imported
         {"model", "max_length", "seed", "adapters", "batched_tokens"}       the engine is made
         {"stop_ids", "seed"}  {"id", "prompt_ids", "adapter", ...} ...  {}         a call
    out  {"ready": seconds}  {"id", "text", "token_ids", ...} ...  or  {"fault": in one line}

`python -m sumzero.infer.worker` is what worker_process.py starts. The lines go over the pipes that
it was started with as stdin and stdout; whatever else writes to stdout is sent to stderr. Where the
pipe in ends, so does the process, at once and with all that vLLM has started: it leads a group.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from pydantic import TypeAdapter

from sumzero import log
from sumzero.config import Generate
from sumzero.errors import SumZeroError

if TYPE_CHECKING:
    from sumzero.infer.engine import Engine, Request

Message = dict[str, Any]


class Channel:
    """Both pipes. Reading goes on in a thread, so that the sender never waits for the engine."""

    def __init__(self) -> None:
        self._out = _moved(sys.stdout, "wb", os.dup(2))
        self._in = _moved(sys.stdin, "rb", os.open(os.devnull, os.O_RDONLY))
        self._queue: SimpleQueue[Message] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def send(self, message: Message) -> None:
        """Sends one message."""
        self._out.write(json.dumps(message).encode() + b"\n")
        self._out.flush()

    def receive(self) -> Message:
        """The next message, when it comes."""
        return self._queue.get()

    def receive_now(self) -> Message | None:
        """The next message, where there is one."""
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _read(self) -> None:
        try:
            for line in self._in:
                self._queue.put(json.loads(line))
        finally:  # a sender that is killed may leave a torn line
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _moved(standard: IO[str], mode: str, instead: int) -> IO[Any]:
    """A standard stream under a number that no child inherits; `instead` takes its place."""
    number = standard.fileno()
    own = os.dup(number)
    os.dup2(instead, number)
    os.close(instead)
    return os.fdopen(own, mode)


def main() -> int:
    """Runs an engine until the pipe in ends."""
    channel = Channel()
    log.configure()
    try:
        engine = _started(channel)
        while True:
            call = channel.receive()
            waiting = _Waiting(channel)
            for done in engine.generate(waiting.requests(), call["stop_ids"], call["seed"]):
                waiting.count -= 1
                channel.send(asdict(done))
    except SumZeroError as error:
        channel.send({"fault": str(error)})
        return error.exit_code


def _started(channel: Channel) -> "Engine":
    how = channel.receive()
    if how["cores"]:  # before torch starts threads, which inherit it
        os.sched_setaffinity(0, how["cores"])
    from sumzero.infer.engine import Engine, import_vllm

    settings = TypeAdapter(Generate).validate_json(json.dumps(how["settings"]))
    import_vllm(settings)
    job, begun = channel.receive(), time.perf_counter()
    engine = Engine(
        job["model"],
        settings,
        job["max_length"],
        job["seed"],
        list(map(Path, job["adapters"])),
        job["batched_tokens"],
    )
    channel.send({"ready": round(time.perf_counter() - begun, 3)})
    return engine


class _Waiting:
    """The requests of one call; `count` of them have been taken and not been answered."""

    def __init__(self, channel: Channel) -> None:
        self.count = 0
        self._channel = channel

    def requests(self) -> Iterator["Request | None"]:
        """None where none is there, and the engine has others to go on with."""
        from sumzero.infer.engine import Request

        while True:
            message = self._channel.receive_now() if self.count else self._channel.receive()
            if message is None:
                yield None
            elif not message:
                return
            else:
                self.count += 1
                adapter = message.pop("adapter")
                among = tuple(message.pop("among"))
                yield Request(**message, adapter=adapter and Path(adapter), among=among)


if __name__ == "__main__":
    sys.exit(main())
