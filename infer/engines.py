"""Several engines as one, each in a process of its own: prompts are dealt out, answers come back.

A group of prompts goes to the engine that has the least to do, as soon as it has room: an engine
has at most what it works at once and a little more, so that it is never drained, and none is left
with much when the others have nothing. A lone engine runs so too, since what kills it may not kill
the generation.

An engine that dies is started again, RESTARTS times in all. What it had at hand is suspect, and is
given to it one by one then: a prompt that it dies of again has a Failure, all others are answered.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.engine import Completion, Failure, Request
from sumzero.infer.placement import places
from sumzero.infer.worker import Message
from sumzero.infer.worker_process import WorkerProcess
from sumzero.log import logger

RESTARTS = 8
_AHEAD = 8  # a part of what an engine works at once, by which it has more at hand
_TOGETHER = 64  # prompts of one document that go to one engine without a break
_DYING = 10.0  # seconds from the end of a pipe to that of its process


@dataclass(eq=False)
class _Seat:
    """An engine, whichever process it has by now, and the requests that it was given."""

    process: WorkerProcess
    is_ready: bool = False
    given: dict[str, Request] = field(default_factory=dict)
    load: int = 0  # tokens of what it was given
    suspects: deque[Request] = field(default_factory=deque)  # to be tried, each alone
    is_trying: bool = False
    is_over: bool = False  # its process has ended
    answered: int = 0  # tokens of prompts and completions

    @property
    def is_busy(self) -> bool:
        return bool(self.given or self.suspects)


class Crew:
    """Processes for engines, which import vLLM while it is found out what they are to run."""

    def __init__(self, settings: Generate, most: int | None = None) -> None:
        """Starts one for each place of this machine. Raises ConfigError where there is none."""
        self._free = [
            WorkerProcess(f"engine {index}", place, settings)
            for index, place in enumerate(places(settings)[:most])
        ]

    def take(self, most: int | None) -> list[WorkerProcess]:
        """At most so many of them, which are the caller's to end."""
        taken, self._free = self._free[:most], self._free[len(self._free[:most]) :]
        return taken

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.take(None):
            process.end()


class Engines:
    """vLLM engines in processes of their own, for one model; see `engine.Engine`."""

    def __init__(
        self,
        model: Path | str,
        settings: Generate,
        max_length: int,
        seed: int,
        adapters: Sequence[Path] = (),
        *,
        most: int | None = None,
        crew: Crew | None = None,
        batched_tokens: int | None = None,
    ) -> None:
        """Starts as many as this machine has places for, at most `most`, and waits for them.

        `batched_tokens` is for `engine.engine_arguments`. With `crew`, in its processes; the others
        of them are ended. Raises ConfigError where there is no place, RunError where one does not
        start.
        """
        self._job: Message = {
            "model": str(model),
            "max_length": max_length,
            "seed": seed,
            "adapters": list(map(str, adapters)),
            "batched_tokens": batched_tokens,
        }
        self._settings = settings
        at_once = max(1, settings.max_in_flight // settings.beams)
        self._room = at_once + max(1, at_once // _AHEAD)
        self._is_started = False
        self._restarts = 0
        self._call: Message | None = None
        self._selector = DefaultSelector()
        self._seats: list[_Seat] = []
        begun = time.perf_counter()
        try:
            with crew or Crew(settings, most) as started:
                for process in started.take(most):
                    self._seats.append(_Seat(process))
                    self._begin(self._seats[-1])
            self._wait_for_all()
        except BaseException:
            self.close()
            raise
        self._is_started = True
        self.seconds_start = time.perf_counter() - begun

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def tokens(self) -> list[int]:
        """How many each has answered so far, of prompts and completions."""
        return [seat.answered for seat in self._seats]

    def __enter__(self) -> "Engines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes."""
        for seat in self._seats:
            if not seat.is_over:
                self._end(seat)
        self._seats = []
        self._selector.close()

    def generate(
        self, requests: Iterable[Request | None], stop_ids: list[int], seed: int
    ) -> Iterator[Completion | Failure]:
        """Yields what becomes of each request, in any order; `requests` is read as room allows.

        They may give None for "none just now", as long as others are at work.
        Raises RunError where an engine tells a user's fault, or dies once too often.
        """
        assert self._call is None, "the last call was not read to its end"
        self._call = {"stop_ids": stop_ids, "seed": seed}
        for seat in self._seats:
            if seat.is_ready:
                seat.process.send(self._call)
        groups = _groups(requests)
        more = True
        while more or any(seat.is_busy for seat in self._seats):
            free = self._with_room() if more else None
            group: list[Request] | None = []
            if free is not None:
                group = next(groups, None)
                more = group is not None
                self._give(free, group or [])
            yield from self._events(wait=group == [])
        for seat in self._seats:
            if seat.is_ready:
                seat.process.send({})
        self._call = None

    def _begin(self, seat: _Seat) -> None:
        """Tells its process what to run, and watches it."""
        seat.process.send(self._job)
        for pipe in (seat.process.results, seat.process.log):
            self._selector.register(pipe.number, EVENT_READ, seat)

    def _end(self, seat: _Seat, patience: float = 0.0) -> str:
        for pipe in (seat.process.results, seat.process.log):
            if pipe.number in self._selector.get_map():
                self._selector.unregister(pipe.number)
        seat.is_over = True
        return seat.process.end(patience)

    def _wait_for_all(self) -> None:
        """Until all have started: the first would take more than its part meanwhile."""
        logger.info("starting vLLM, engines: %d", len(self._seats))
        while not all(seat.is_ready for seat in self._seats):
            deque(self._events(), maxlen=0)

    def _with_room(self) -> _Seat | None:
        """Of those that can be given more, the one that has the least to do."""
        free = [
            seat
            for seat in self._seats
            if seat.is_ready
            and not (seat.suspects or seat.is_trying)
            and len(seat.given) < self._room
        ]
        return min(free, key=lambda seat: seat.load, default=None)

    def _give(self, seat: _Seat, requests: Iterable[Request]) -> None:
        for request in requests:
            seat.given[request.id] = request
            seat.load += self._cost(request)
            seat.process.send(
                {
                    "id": request.id,
                    "prompt_ids": request.prompt_ids,
                    "adapter": request.adapter and str(request.adapter),
                    "scored": request.scored,
                    "among": request.among,
                }
            )

    def _cost(self, request: Request) -> int:
        return len(request.prompt_ids) + self._settings.max_new_tokens

    def _events(self, wait: bool = True) -> Iterator[Completion | Failure]:
        """What the engines have said."""
        for key, _ in self._selector.select(None if wait else 0):
            seat: _Seat = key.data
            if key.fd == seat.process.log.number:
                seat.process.show_log()
                if seat.process.log.is_over:
                    self._selector.unregister(key.fd)
            elif key.fd == seat.process.results.number:
                for message in seat.process.receive():
                    yield from self._take(seat, message)
                if seat.process.results.is_over:
                    yield from self._died(seat)

    def _take(self, seat: _Seat, message: Message) -> Iterator[Completion]:
        if "ready" in message:
            seat.is_ready = True
            if self._call is not None:
                seat.process.send(self._call)
        else:
            request = seat.given.pop(message["id"])
            seat.load -= self._cost(request)
            seat.answered += len(request.prompt_ids) + message["output_tokens"]
            tuples = {name: tuple(message[name]) for name in ("token_ids", "logprobs")}
            yield Completion(**{**message, **tuples})
        if not seat.given:
            seat.is_trying = bool(seat.suspects)
            if seat.is_trying:
                self._give(seat, [seat.suspects.popleft()])

    def _died(self, seat: _Seat) -> Iterator[Failure]:
        """Starts it again. Raises RunError where it did not start, or dies once too often."""
        name, how = seat.process.name, self._end(seat, _DYING)
        if not self._is_started:
            raise RunError(f"{name} did not start: {how}")
        if seat.is_trying:
            yield from (Failure(id_, f"the engine dies of this row: {how}") for id_ in seat.given)
        else:
            seat.suspects.extend(seat.given.values())
        seat.given, seat.load, seat.is_trying, seat.is_ready = {}, 0, False, False
        if self._restarts >= RESTARTS:
            raise RunError(
                f"{name} died: {how}; engines were started again {RESTARTS} times already. "
                "The rows that are there are kept: see why it dies, and run it again"
            )
        self._restarts += 1
        logger.warning(
            "%s died: %s; started again (%d of %d times), %d rows to be tried one by one",
            *(name, how, self._restarts, RESTARTS, len(seat.suspects)),
        )
        seat.process = WorkerProcess(name, seat.process.place, self._settings)
        seat.is_over = False
        self._begin(seat)


def _groups(requests: Iterable[Request | None]) -> Iterator[list[Request]]:
    """Requests that are to go to one engine; empty where there is none just now."""
    for document, some in groupby(requests, key=lambda one: one and one.document):
        while group := list(islice(some, _TOGETHER if document else 1)):
            yield [request for request in group if request]
