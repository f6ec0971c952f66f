"""Settings of `sumzero score`."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from sumzero.setting import SETTINGS


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Score:
    """How summaries are scored."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the 95% intervals."""
    nli: str | None = None
    """A model of natural language inference, a local folder or Hub name: adds the metric `nli`, how
    far a summary is entailed by its document (docs/faithfulness.md)."""
    judge: str | None = None
    """A chat model, a local folder or Hub name: adds the metric `judge`, its probability that all
    of a summary is supported by its document."""
    judge_endpoint: str | None = None
    """The address of an OpenAI-compatible server that has the judge, under the name `judge`; see
    [endpoint] for how it is asked."""
    judge_max_length: Annotated[int, Field(ge=64)] = 8192
    """Tokens of a prompt to a judge of ours, if the model takes as many; what does not fit is not
    judged."""

    @model_validator(mode="after")
    def _judge_named(self) -> "Score":
        if self.judge_endpoint is not None and self.judge is None:
            raise ValueError("judge_endpoint needs the model's name there: set judge")
        return self
