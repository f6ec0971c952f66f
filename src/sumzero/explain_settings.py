"""Settings of `sumzero explain`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sumzero.setting import SETTINGS, Count, NotNegative


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Explain:
    """How it is found out which parts of a document support a summary (docs/explaining.md)."""

    ablations: Annotated[int, Field(ge=8)] = 64
    """Random halves of a document's sentences under which its summary is scored; fewer where there
    are no more."""
    sources: Annotated[int, Field(ge=2)] = 100
    """Parts of a document that are told apart: of more sentences, neighbours are joined."""
    penalty: NotNegative = 0.01
    """What a sentence's weight must explain to be more than 0, in nats for each token of the
    summary's sentence (Lasso)."""
    score: Literal["logprob", "logit"] = "logprob"
    """What is explained: the log-probability of a summary's sentence, or the log-odds."""
    checked: Annotated[int, Field(ge=0)] = 20
    """So many of the explained summaries are scored under further ablations, to see whether the
    weights tell what happens."""
    held_out: Annotated[int, Field(ge=5)] = 32
    """Further random ablations of a summary that is checked."""
    batched_tokens: Count = 2048
    """Tokens that an engine computes at once: each takes memory for the logits of the whole
    vocabulary."""
