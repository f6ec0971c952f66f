"""Settings of models that others serve, behind an OpenAI-compatible server or in batches."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sumzero.setting import SETTINGS, Count, Positive


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Endpoint:
    """How a server is asked (`--endpoint`), and what it is told. Sampling is that of [generate]."""

    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "OPENAI_API_KEY"
    """The environment variable that holds the key; where it is not set, none is sent."""
    max_in_flight: Count = 32
    """Requests at once."""
    timeout: Positive = 600.0
    """Seconds that a request may take, from its connection to its last byte."""
    max_retries: Annotated[int, Field(ge=0)] = 8
    """How often a request is sent again that the server could not take or answer."""
    backoff: Positive = 1.0
    """Seconds before it is sent again; doubled each time, up to 60, with jitter."""
    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls `generate.max_new_tokens`; some know only the second."""
    leave_out: Annotated[
        tuple[Literal["temperature", "top_p", "frequency_penalty", "seed"], ...],
        Field(strict=False),
    ] = ()
    """What the server or the model refuses to be told; its own default holds for them."""
    max_document: Count | None = None
    """Cuts documents, by `data.truncation`, to so many words (of Chinese, Japanese and Korean,
    characters)."""
