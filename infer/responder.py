"""What `POST /summarize` is asked and answers: a document in, its summary and the counts out.

The prompt is rendered by the contract, as `sumzero generate` renders it: the same document asked
the same way gives the same token ids.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract
from sumzero.errors import ConfigError, DataError
from sumzero.infer.engine import Completion
from sumzero.infer.questions import check_room, question_ids
from sumzero.instructions import QUESTION
from sumzero.prompt import Prompt, PromptRenderer

Length = Annotated[int, Field(ge=1, le=100_000)]
Complete = Callable[[list[int]], Awaitable[Completion]]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Ask:
    """The body of a request. Lengths are of the summary, and of its language."""

    document: str
    instruction: str | None = None
    """In place of the contract's own; of a model that answers, the question."""
    words: Length | None = None
    sentences: Length | None = None
    language: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """Of the contract's instructions; by default the run's."""


class Refused(Exception):
    """A request that cannot be answered: the HTTP status, and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Responder:
    """Answers requests by a contract."""

    def __init__(self, config: RunConfig, contract: Contract, renderer: PromptRenderer) -> None:
        """Raises ConfigError where the run's way to ask leaves no room for a document."""
        self._config = config
        self._contract = contract
        self._renderer = renderer
        data = config.data
        known = (*data.test, *data.validation, *data.train)
        self.source = known[0] if known else Source(path="summarize")
        self._asked = lru_cache(maxsize=1024)(self._asked_of_contract)
        self._limit = contract.prompt_limit(config.generate.max_new_tokens)
        # One, since the renderer is not made for several; and long texts must not hold up the rest.
        self._thread = ThreadPoolExecutor(1, "render")
        check_room(
            {self._asked(self.source.language, None, None)},
            renderer,
            contract,
            config.generate.max_new_tokens,
        )

    async def answer(self, body: bytes, complete: Complete) -> dict[str, Any]:
        """The reply to a request's body; `complete` generates for ids. Raises Refused."""
        ask = parse(body)
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._thread, self._prompt, ask)
        done = await complete(prompt.ids)
        if done.finish_reason not in ("stop", "length", "repetition"):
            raise Refused(503, "the server is ending, or the engine has failed; ask again")
        return {
            "summary": done.text.strip(),
            "finish_reason": done.finish_reason,
            "document_tokens": prompt.document_tokens,
            "document_kept": prompt.document_kept,
            "prompt_tokens": len(prompt.ids),
            "output_tokens": done.output_tokens,
            "truncated": prompt.document_kept < prompt.document_tokens,
            "truncation": self._renderer.truncation.rule,
            "seconds": round(done.seconds, 4),
        }

    def close(self) -> None:
        """Ends the thread that renders."""
        self._thread.shutdown()

    def _prompt(self, ask: Ask) -> Prompt:
        try:
            asked = question_ids(self._renderer, self._text(ask), ask.instruction)
            document = self._renderer.encode_text([ask.document])[0]
        except DataError as error:
            raise Refused(400, str(error).splitlines()[0]) from None
        prompt = self._renderer.prompt(document, self._limit, asked)
        if prompt is None:
            room = self._limit - self._renderer.fixed_tokens(asked)
            if room < 1:
                raise Refused(400, "instruction: is too long; it leaves no room for a document")
            raise Refused(
                400,
                f"document: has {len(document)} tokens and there is room for {room}; the run's "
                f'rule of truncation is "{self._renderer.truncation.rule}"',
            )
        return prompt

    def _text(self, ask: Ask) -> str:
        """What is asked; {question} in it stands for the request's own instruction."""
        answers = self.source.task == "answer"
        length = "words" if ask.words else "sentences" if ask.sentences else None
        if ask.words and ask.sentences:
            raise Refused(400, "words, sentences: ask for one of them")
        if length and not self._contract.length_control:
            raise Refused(400, f"{length}: the model was not trained to keep one; leave it out")
        if ask.instruction is not None and not answers:
            if length:
                raise Refused(400, f"instruction: stands for itself; leave out {length}")
            return QUESTION
        if ask.instruction is None and answers:
            raise Refused(400, "instruction: missing; this model answers a question")
        language = ask.language or self.source.language
        try:
            return self._asked(language, ask.words, ask.sentences)
        except ConfigError:
            if length:
                raise Refused(400, f"{length}: the run's instructions have no length") from None
            raise Refused(400, f"language: no instructions in {language!r}") from None

    def _asked_of_contract(self, language: str, words: int | None, sentences: int | None) -> str:
        generate = self._config.generate
        if words or sentences:
            generate = replace(generate, words=words, sentences=sentences)
        return self._contract.asked(self.source, language, self._config.data, generate)


def parse(body: bytes) -> Ask:
    """A request's body as JSON. Raises Refused."""
    try:
        ask = _ASK.validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))[:80] or "body"
        raise Refused(400, " ".join(f"{where}: {fault['msg']}".split())) from None
    document, instruction = ask.document.strip(), ask.instruction  # stripped as records are
    if not document:
        raise Refused(400, "document: is empty")
    if instruction is not None and not (instruction := instruction.strip()):
        raise Refused(400, "instruction: is empty")
    return replace(ask, document=document, instruction=instruction)


_ASK = TypeAdapter(Ask)
