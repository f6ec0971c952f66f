"""A record as a request of OpenAI's chat API, and the row that is made of the reply.

    {"model": NAME, "messages": [{"role": "user", "content": TEXT}], "temperature": 0.0, ...}

TEXT is the document and what is asked, put together as prompt.py puts them for training; what
stands around it is the server's affair. For models that others serve: no export is needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Protocol
from urllib.parse import urlsplit

from sumzero.config import Generate, RunConfig, Source
from sumzero.errors import ConfigError
from sumzero.infer.echo import tokens
from sumzero.infer.generation import SYSTEMS
from sumzero.infer.inputs import Inputs
from sumzero.infer.questions import all_asked, asking
from sumzero.infer.reply import generated
from sumzero.infer.rows import Row
from sumzero.prompt import Truncation, user_text
from sumzero.records import Record

ROUTE = "/v1/chat/completions"
_SENT = ("words", "sentences", "max_new_tokens", "temperature", "top_p", "frequency_penalty")
# How an engine of ours works, whatever it gives: nothing to tell a server.
_OF_THE_ENGINE = (
    "repeat_tokens",  # refused by max_repeats, without which it does nothing
    "speculative_tokens",
    "prefix_caching",
    "dtype",
    "max_in_flight",
    "engines",
    "tensor_parallel",
    "gpu_memory_utilization",
    "cpu_kv_cache_gib",
    "enforce_eager",
)


@dataclass(frozen=True)
class Remote:
    """A model that others serve, by the name they call it.

    `address` is that of the server's chat route; None where requests go there in batch files.
    """

    model: str
    address: str | None = None
    option: str = field(default="--model", compare=False)
    """Where the model was named, for messages."""

    def __post_init__(self) -> None:
        """Raises ConfigError where the name cannot be told from one of our systems."""
        if self.model in SYSTEMS or not self.model.strip() or not self.model.isprintable():
            raise ConfigError(
                f"{self.option} {self.model!r}: is no name that scores could be told by"
            )

    @classmethod
    def at(
        cls, url: str, model: str, setting: str = "--endpoint", option: str = "--model"
    ) -> "Remote":
        """From a server's address, or that with its path up to `/chat/completions`.

        Raises ConfigError, which names the `setting` of the address, where it is none, or holds
        what does not belong there, and the `option` of the model where its name is none.
        """
        try:
            parts = urlsplit(url)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # a number, or it is none
        except ValueError:
            is_whole = False
        if not is_whole or not url.isprintable() or " " in url:
            raise ConfigError(
                f"{setting}: is no address; write it as https://HOST/v1, or http://HOST:PORT"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"{setting}: leave out user, password and all from ? or # on; a key is taken from "
                "the environment (endpoint.key_variable)"
            )
        path = parts.path.rstrip("/") or ROUTE.removesuffix("/chat/completions")
        if not path.endswith("/chat/completions"):
            path += "/chat/completions"
        return cls(model, f"{parts.scheme}://{parts.netloc.lower()}{path}", option)


class Asking(Protocol):
    """What is asked of a remote model, and how its replies are read."""

    remote: Remote

    def ask(self, record: Record, source: Source) -> tuple[Row, dict[str, Any] | None]:
        """See `Chat.ask`."""

    def read(self, reply: Any) -> Row:
        """See `Chat.read`."""


class Chat:
    """What records are asked of a remote model, and `made_by`, what its generation is made by."""

    def __init__(self, config: RunConfig, remote: Remote, inputs: Inputs) -> None:
        """Raises ConfigError where a setting cannot be kept, or records cannot be asked for."""
        self.remote = remote
        self._most = config.endpoint.max_document
        self._truncation = Truncation(config.data.truncation)
        self._sampling = _sampling(config)
        self._asked = asking(config, None)
        texts, digest = all_asked(inputs, self._asked)
        self.made_by: dict[str, Any] = {
            "endpoint": remote.address or "batch",
            "sampling": self._sampling,
            "asked": texts,
            "input": digest,
        }
        if self._most is not None:
            self.made_by |= {"max_document": self._most, "truncation": self._truncation.rule}

    def ask(self, record: Record, source: Source) -> tuple[Row, dict[str, Any] | None]:
        """A record's row without what is generated, and the body of the request for that.

        There is none where the document is too long and may not be cut: the row has its error.
        """
        row: Row = {"id": record.id}
        document: str | None = record.document
        if self._most is not None:
            document, facts = self._cut(record.document, self._most)
            row |= facts
        row |= record.beside()
        if document is None:
            row["error"] = f"the document is too long: {row['document_words']} words"
            return row, None
        text = user_text(document, self._asked(record, source), record.instruction)
        messages = [{"role": "user", "content": text}]
        return row, {"model": self.remote.model, "messages": messages, **self._sampling}

    def read(self, reply: Any) -> Row:
        """What a row has of a server's reply. Raises ValueError where it is none."""
        return generated(reply)

    def each(
        self, records: Iterable[tuple[Record, Source]]
    ) -> Iterator[tuple[Row, dict[str, Any] | None]]:
        """`ask` for many."""
        return (self.ask(record, source) for record, source in records)

    def _cut(self, document: str, most: int) -> tuple[str | None, Row]:
        """What is kept of a document, None where it may not be cut; and what the row says of it."""
        words = [token.span() for token in tokens(document)]
        spans = self._truncation.spans(len(words), most)
        kept = sum(end - begin for begin, end in spans)
        if kept < len(words):
            pieces = (
                document[words[begin][0] : words[end - 1][1]] for begin, end in spans if begin < end
            )
            document = " ".join(pieces)
        facts: Row = {
            "document_words": len(words),
            "document_words_kept": kept,
            "truncated": kept < len(words),
            "truncation": self._truncation.rule,
        }
        return (document if kept <= most else None), facts


def _sampling(config: RunConfig) -> dict[str, Any]:
    """The settings of a request. Raises ConfigError for those that the API does not have."""
    neutral = Generate()
    for name in (one.name for one in fields(Generate)):
        changed = getattr(config.generate, name) != getattr(neutral, name)
        if name == "long":
            if config.generate.long in (None, "truncate"):
                continue  # of prompts that we make: here documents go whole, or by max_document
            raise ConfigError(
                "generate.long: no document is taken apart for a model that others serve; set "
                'generate.long="truncate", and endpoint.max_document where one is too long for it'
            )
        if changed and name not in (*_SENT, *_OF_THE_ENGINE):
            raise ConfigError(
                f"generate.{name}: OpenAI's API has no such setting; leave it out for a model that "
                "others serve"
            )
    sampling = {
        config.endpoint.max_tokens_name: config.generate.max_new_tokens,
        "temperature": config.generate.temperature,
        "top_p": config.generate.top_p,
        "frequency_penalty": config.generate.frequency_penalty,
        "seed": config.seed,
    }
    return {k: v for k, v in sampling.items() if k not in config.endpoint.leave_out}
