"""Beam search: which beams live on, which are done, given the log-probabilities of next tokens.

Pure bookkeeping: `BeamSearch` is that of one prompt, and `search` has many at work at once, with an
engine that it is handed as two functions. The search is that of transformers 5
(`GenerationMixin._beam_search`), as published summarizers are measured with:

- A summary's score is log p / n**length_penalty, n being its new tokens with the stop token. vLLM's
  own `LLM.beam_search` counts the prompt's tokens too, so that its penalty hardly has an effect.
- Of all continuations of all beams the (1 + stop ids) x beams likeliest are looked at. Those that
  end are done, if they are among the first `beams`; of the others the first `beams` live on. All
  end at `max_new_tokens`.
- It ends where `beams` summaries are done and the likeliest living beam, scored at its present
  length, is no better than the worst of them; with `early_stopping` as soon as so many are done.

Each step costs the engine one token for each beam, and what of its text is in no whole block of the
prefix cache.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from sumzero.config import Generate


@dataclass(frozen=True)
class Beam:
    """New tokens so far, and the sum of their log-probabilities."""

    token_ids: tuple[int, ...] = ()
    log_prob: float = 0.0


def wanted(beams: int, stop_ids: Collection[int]) -> int:
    """How many of the likeliest next tokens of each beam are looked at.

    Enough for `beams` that go on, though every beam may end in every stop id.
    """
    return max(2, 1 + len(stop_ids)) * beams


class BeamSearch:
    """The search for one prompt's summary.

    `live` are the beams to continue, likeliest first.
    """

    def __init__(self, settings: Generate, stop_ids: Collection[int]) -> None:
        self.live = [Beam()]
        self.done = False
        self._finished: list[tuple[float, Beam]] = []  # with their scores, best first
        self._settings = settings
        self._stop_ids = frozenset(stop_ids)
        self._wanted = wanted(settings.beams, self._stop_ids)

    def step(self, log_probs: Sequence[Mapping[int, float]]) -> None:
        """Takes the log-probabilities of next tokens, by id, of each of `live` in its order."""
        settings, width = self._settings, self._settings.beams
        length = len(self.live[0].token_ids) + 1
        last = length == settings.max_new_tokens
        candidates = [
            Beam((*beam.token_ids, token), beam.log_prob + log_prob)
            for beam, of_beam in zip(self.live, log_probs, strict=True)
            for token, log_prob in of_beam.items()
            if length > settings.min_new_tokens or token not in self._stop_ids
        ]
        candidates.sort(key=lambda beam: -beam.log_prob)
        self.live = []
        for rank, beam in enumerate(candidates[: self._wanted]):
            if last or beam.token_ids[-1] in self._stop_ids:
                if rank < width:
                    self._finished.append((self._score(beam), beam))
            elif len(self.live) < width:
                self.live.append(beam)
        self._finished.sort(key=lambda one: -one[0])
        del self._finished[width:]
        self.done = not self.live or (len(self._finished) == width and self._settled())

    def best(self) -> Beam:
        """The summary with the best score."""
        return self._finished[0][1]

    def _settled(self) -> bool:
        """Whether no living beam is thought to become better than those that are done."""
        return self._settings.early_stopping or self._score(self.live[0]) <= self._finished[-1][0]

    def _score(self, beam: Beam) -> float:
        return float(beam.log_prob / len(beam.token_ids) ** self._settings.length_penalty)


def search(
    prompts: Iterable[tuple[str, list[int]] | None],
    settings: Generate,
    stop_ids: Collection[int],
    most: int,
    ask: Callable[[str, str, list[int]], None],
    answers: Callable[[], Iterable[tuple[str, Mapping[int, float]]]],
) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Searches for prompts, given as id and token ids; yields id, best new tokens and seconds.

    They come as they finish, in any order. `prompts` is read as room allows: `most` are at work at
    once, and none waits for another; None is "none just now", as long as others are at work. `ask`
    is given a name, the id of the prompt, and the ids of a text whose next token is wanted.
    `answers` is called again and again for names and the log-probabilities of the `wanted`
    likeliest next tokens, as many as there are by then.
    """
    waiting = iter(prompts)
    asked: dict[str, tuple[_Work, int]] = {}
    numbers = count()

    def ask_all(work: _Work) -> None:
        work.found = [{} for _ in work.search.live]
        work.missing = len(work.found)
        for index, beam in enumerate(work.search.live):
            name = f"beam-{next(numbers)}"
            asked[name] = work, index
            ask(name, work.id, [*work.prompt_ids, *beam.token_ids])

    at_work, more = 0, True
    while more or at_work:
        while more and at_work < most:
            try:
                prompt = next(waiting)
            except StopIteration:
                more = False
                break
            if prompt is None:
                break
            ask_all(_Work(*prompt, BeamSearch(settings, stop_ids)))
            at_work += 1
        for name, log_probs in answers() if at_work else ():
            work, index = asked.pop(name)
            work.found[index] = log_probs
            work.missing -= 1
            if work.missing:
                continue
            work.search.step(work.found)
            if not work.search.done:
                ask_all(work)
                continue
            at_work -= 1
            yield work.id, work.search.best().token_ids, time.perf_counter() - work.begun


@dataclass(eq=False)
class _Work:
    """A search at work, with what was answered for each of its living beams."""

    id: str
    prompt_ids: list[int]
    search: BeamSearch
    found: list[Mapping[int, float]] = field(default_factory=list)
    missing: int = 0
    begun: float = field(default_factory=time.perf_counter)
