"""How probable a chat model finds it that all of a summary is supported by its document.

    score = P(yes) / (P(yes) + P(no)),  of the one token that follows the question

The probabilities are those of the model itself, summed over ways to write either word: one pass and
no sampling. The document stands first and the question last, so that several summaries of one
document, which follow each other, share its computation in vLLM's prefix cache.

A judge of ours runs in engines (engines.py) and is given token ids: no control token comes of a
text. One that others serve is asked through their chat API for the likeliest 20 tokens; its answers
are kept (judged.py).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero import __version__
from sumzero.config import RunConfig, Source
from sumzero.errors import DataError, RunError
from sumzero.infer import endpoint
from sumzero.infer.chat import Remote
from sumzero.infer.engine import Completion, Failure, Request
from sumzero.infer.engines import Engines
from sumzero.infer.judged import Judged, judged
from sumzero.infer.rows import Row
from sumzero.infer.sampling import without_texts
from sumzero.loading import load_tokenizer, local_folder
from sumzero.log import logger
from sumzero.prompt import PromptRenderer, user_text
from sumzero.records import Record
from sumzero.runfolder import RunFolder
from sumzero.weights_digest import weights_digest

FloatArray = NDArray[np.float64]
QUESTION = (
    "Below is a summary of the text above.\n\nSummary: {question}\n\nIs everything that the "
    "summary says supported by the text? Answer with one word, yes or no."
)
"""What is asked after the document; the summary stands in place of {question}."""
_WORDS = ("yes", "no")
_LIKELIEST = 20  # as many as OpenAI's API gives
_UNSURE = 0.5  # below, the model says something else than yes or no


class Judge:
    """Judges summaries with a model of ours or of others; to be closed, since it may have engines.

    `signature` says which model was asked what.
    """

    name = "judge"

    def __init__(self, config: RunConfig) -> None:
        """Raises DataError where the model cannot be a judge; engines start with the first text."""
        assert config.score.judge is not None
        self._ours: _OurModel | None = None
        self._theirs: _TheirModel | None = None
        self._config = config
        if config.score.judge_endpoint is None:
            self._ours = _OurModel(config)
            about = self._ours.about
        else:
            self._theirs = _TheirModel(config, config.score.judge, config.score.judge_endpoint)
            about = f"model:{config.score.judge}|by:endpoint"
        prompt = hashlib.sha256(QUESTION.encode()).hexdigest()[:8]
        self.signature = f"{about}|prompt:{prompt}|p:yes/(yes+no)|v:sumzero-{__version__}"
        self._judged: Judged | None = None  # once it is entered
        self._ended = ExitStack()
        self._mass = [0.0, 0.0]  # P(yes) + P(no), summed, and of how many
        self._unjudged = 0

    def __enter__(self) -> "Judge":
        """Raises RunError where another process asks for the same run."""
        if self._theirs:
            folder = RunFolder.of(self._config).root / "judged"
            self._judged = self._ended.enter_context(judged(folder, self._theirs.made_by))
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        if self._ours:
            self._ours.close()
        self._ended.__exit__(kind, *more)
        if kind is None:
            self._tell()

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> FloatArray:
        """The scores (n) in [0, 1]; NaN of summaries without a word, and those not judged."""
        scores = np.full(len(documents), np.nan)
        todo = [row for row, summary in enumerate(summaries) if summary.strip()]
        pairs = ((row, documents[row], summaries[row]) for row in todo)
        asked = self._ours.ask(pairs) if self._ours else self._asked_of_others(pairs)
        for row, (yes, no) in asked:
            mass = yes + no
            if mass > 0:
                scores[row] = yes / mass
            self._mass[0] += mass
            self._mass[1] += 1
        self._unjudged += int(np.isnan(scores[todo]).sum())
        return scores

    def _asked_of_others(
        self, pairs: Iterable[tuple[int, str, str]]
    ) -> Iterator[tuple[int, tuple[float, float]]]:
        """Those that were answered before, then the others; what several rows ask, once."""
        theirs, kept = self._theirs, self._judged
        assert theirs
        assert kept
        rows: dict[str, list[int]] = {}
        for row, document, summary in pairs:
            rows.setdefault(theirs.question(document, summary), []).append(row)
        new = []
        for text in rows:
            if (before := kept.of(text)) is None:
                new.append(text)
            else:
                yield from ((row, before) for row in rows[text])
        source = Source(path="")
        records = ((Record(str(place), text, ()), source) for place, text in enumerate(new))
        for answer in endpoint.answers(theirs, records, self._config.endpoint):
            if "error" not in answer:
                text, chances = new[int(answer["id"])], (answer["yes"], answer["no"])
                kept.keep(text, chances)
                yield from ((row, chances) for row in rows[text])

    def _tell(self) -> None:
        """Warns of a model that is no judge, and of texts that were not judged."""
        if self._mass[1] and self._mass[0] / self._mass[1] < _UNSURE:
            logger.warning(
                "judge: yes and no together have a probability of %.2f on average: the model "
                "answers otherwise, and its scores mean little",
                self._mass[0] / self._mass[1],
            )
        if self._unjudged:
            logger.warning(
                "judge: %d summaries were not judged: too long with their document for "
                "score.judge_max_length or the model, or not answered",
                self._unjudged,
            )


class _OurModel:
    """A model in engines of ours."""

    def __init__(self, config: RunConfig) -> None:
        name = str(config.score.judge)
        self._folder = local_folder(name, None)
        tokenizer = load_tokenizer(str(self._folder))
        self._renderer = PromptRenderer(tokenizer, "error")
        self._answers = answer_ids(self._renderer)
        self._config = config
        self._length = min(config.score.judge_max_length, _positions(self._folder))
        self._engines: Engines | None = None
        digest = weights_digest(self._folder)[:8]
        dtype = config.generate.dtype
        self.about = (
            f"model:{Path(name).name or name}@{digest}|by:vllm|dtype:{dtype}|max:{self._length}"
        )

    def close(self) -> None:
        """Ends the engines."""
        if self._engines:
            self._engines.close()
            self._engines = None

    def prompt(self, document: str, summary: str) -> list[int] | None:
        """Token ids of what is asked; None where they do not fit."""
        renderer = self._renderer
        ids = renderer.encode_text([document])[0]
        asked = renderer.ask(QUESTION, " ".join(summary.split()))
        found = renderer.prompt(ids, self._length - 1, asked)
        return found.ids if found else None

    def ask(
        self, pairs: Iterable[tuple[int, str, str]]
    ) -> Iterator[tuple[int, tuple[float, float]]]:
        """P(yes) and P(no) of each that fits, in any order."""
        yes, no = self._answers
        failures: list[str] = []
        answered = 0

        def requests() -> Iterator[Request]:
            for row, document, summary in pairs:
                ids = self.prompt(document, summary)
                if ids is not None:
                    yield Request(str(row), ids, document, among=(*yes, *no))

        for done in self._started().generate(requests(), self._renderer.stop_ids, 0):
            if isinstance(done, Failure):
                failures.append(done.reason)
            else:
                answered += 1
                yield int(done.id), _summed(done, len(yes))
        if failures:
            if not answered:
                raise RunError(f"judge: {failures[0]}")
            logger.warning("judge: no answer to %d prompts: %s", len(failures), failures[0])

    def _started(self) -> Engines:
        if self._engines is None:
            settings = without_texts(self._config.generate)
            self._engines = Engines(self._folder, settings, self._length, self._config.seed)
        return self._engines


class _TheirModel:
    """A model that others serve, as endpoint.py asks one: a record's document is the question."""

    def __init__(self, config: RunConfig, name: str, address: str) -> None:
        self.remote = Remote.at(address, name, "score.judge_endpoint", "score.judge")
        sampling: dict[str, Any] = {
            config.endpoint.max_tokens_name: 1,
            "temperature": 0.0,
            "seed": config.seed,
        }
        self._body = {k: v for k, v in sampling.items() if k not in config.endpoint.leave_out}
        self._body |= {"logprobs": True, "top_logprobs": _LIKELIEST}
        self.made_by = json.dumps([self.remote.address, name, self._body], sort_keys=True)
        """All that an answer depends on, but the question."""

    def question(self, document: str, summary: str) -> str:
        """What is asked of a summary."""
        return user_text(document, QUESTION, " ".join(summary.split()))

    def ask(self, record: Record, source: Source) -> tuple[Row, dict[str, Any] | None]:
        """The row without its answer, and the body of the request for that."""
        messages = [{"role": "user", "content": record.document}]
        return {"id": record.id}, {
            "model": self.remote.model,
            "messages": messages,
            **self._body,
        }

    def read(self, reply: Any) -> Row:
        """P(yes) and P(no) of a chat completion. Raises ValueError where it has none."""
        try:
            likeliest = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = [(str(one["token"]), float(one["logprob"])) for one in likeliest]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError("the answer has no log-probabilities of its first token") from None
        if not all(x < 1 for _, x in found):  # but for rounding they are at most 0
            raise ValueError("the answer's log-probabilities are none")
        return {
            word: sum(math.exp(x) for token, x in found if token.strip().lower() == word)
            for word in _WORDS
        }


def answer_ids(renderer: PromptRenderer) -> tuple[list[int], list[int]]:
    """Ids of the tokens that ways to write yes, and no, begin with.

    Raises DataError where the tokenizer cannot tell them apart by that.
    """
    found: dict[str, set[int]] = {}
    for word in _WORDS:
        ways = [word, word.capitalize(), word.upper()]
        ways += [f" {way}" for way in ways]
        encoded: Mapping[str, list[int]] = dict(zip(ways, renderer.encode_text(ways), strict=True))
        whole = {ids[0] for ids in encoded.values() if len(ids) == 1}
        found[word] = whole or {ids[0] for way, ids in encoded.items() if way == word}
    yes, no = found["yes"], found["no"]
    if yes & no:
        raise DataError("judge: the tokenizer begins yes and no with the same token")
    return sorted(yes), sorted(no)


def _summed(done: Completion, num_yes: int) -> tuple[float, float]:
    chances = [math.exp(x) for x in done.logprobs]
    return sum(chances[:num_yes]), sum(chances[num_yes:])


def _positions(folder: Path) -> int:
    """The tokens that a model has positions for."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: no model can be loaded: {reason}") from None
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else 2**31
