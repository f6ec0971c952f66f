"""A process with an engine, as seen by the one that started it; worker.py is its own side."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.placement import VISIBLE, Place
from sumzero.infer.worker import Message
from sumzero.log import logger
from sumzero.runfile import as_dict

_RANK = re.compile(r"^\[rank\d+\]: ?")  # torch writes it before each line of a traceback


class Lines:
    """Whole lines of a pipe, read as they come and without waiting."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_over = False
        self._rest = b""
        os.set_blocking(number, False)

    def read(self) -> list[bytes]:
        """The lines that have come; `is_over` when no more will, and the torn rest is left out."""
        parts = [self._rest]
        with suppress(BlockingIOError):
            while part := os.read(self.number, 2**16):
                parts.append(part)
            self.is_over = True
        *lines, self._rest = b"".join(parts).split(b"\n")
        return lines


class WorkerProcess:
    """Starts the process; `results` and `log` are to be watched, and read when they have come."""

    def __init__(self, name: str, place: Place, settings: Generate) -> None:
        """It imports vLLM, and waits to be told what to run; see worker.py."""
        self.name, self.place = name, place
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sumzero.infer.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(place),
            process_group=0,  # Ctrl-C is for this process alone, which ends the whole group
        )
        assert self._process.stdout
        assert self._process.stderr
        self.results = Lines(self._process.stdout.fileno())
        self.log = Lines(self._process.stderr.fileno())
        self._last = ""
        self.send({"settings": as_dict(settings), "cores": place.cores})

    def send(self, message: Message) -> None:
        """Sends a message; one that has died has it told by the end of `results`."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> list[Message]:
        """The messages that have come. Raises RunError for a fault that it told."""
        messages: list[dict[str, Any]] = [json.loads(line) for line in self.results.read()]
        for message in messages:
            if "fault" in message:
                raise RunError(message["fault"])
        return messages

    def show_log(self) -> None:
        """Logs the lines that have come."""
        for line in self.log.read():
            if text := _RANK.sub("", line.decode(errors="replace").rstrip()):
                self._last = text.rpartition("\r")[2]
                logger.info("[%s] %s", self.name, self._last)

    def end(self, patience: float = 0.0) -> str:
        """Ends it for good, where it has not ended after so many seconds, and all that it started.

        Returns how it ended: by which signal, or with which code and last line.
        """
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        self.show_log()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe
            with suppress(BrokenPipeError):  # what was not sent yet
                pipe.close()
        if code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}: {self._last}"


def _environment(place: Place) -> dict[str, str]:
    # vLLM's own processes, one a GPU of several, are not forked: those would hold our pipes open.
    spawn = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    values = {"PYTHONWARNINGS": "ignore", **os.environ, **spawn}
    if place.gpus:
        values[VISIBLE] = ",".join(place.gpus)
    # What would make an engine a part of another one, in an environment that is inherited.
    return {key: value for key, value in values.items() if not key.startswith("VLLM_DP_")}
