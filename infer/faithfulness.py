"""The metrics that ask a model whether a summary keeps to its document: `nli` and `judge`.

Both are optional (score.nli, score.judge). Summaries come by batches, as they are measured; a model
is given a block of them at once, so that it works full batches, sorted by length.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.infer.measures import Batch

FloatArray = NDArray[np.float64]
_BLOCK = 2048  # summaries that a model is given at once


class Faithful(Protocol):
    """A metric of this kind."""

    name: str
    signature: str

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> FloatArray:
        """Scores (n) in [0, 1]; NaN where there is nothing to judge."""


class Faithfulness(ExitStack):
    """Scores what passes; without a model that is asked for it does nothing.

    Only summaries are scored: answers and translations have NaN, and so have rows that failed. To
    be closed, since a judge may have engines.
    """

    def __init__(self, config: RunConfig) -> None:
        """Loads the models. Raises DataError where one is not of its kind."""
        super().__init__()
        self._models: list[Faithful] = []
        self._values: dict[tuple[str, str], list[FloatArray]] = {}
        if config.score.nli is not None:
            from sumzero.infer.entailment import Entailment

            self._models.append(Entailment(config.score.nli))
        if config.score.judge is not None:
            from sumzero.infer.judge import Judge

            self._models.append(self.enter_context(Judge(config)))

    @property
    def signatures(self) -> dict[str, str]:
        """Of each metric how it is made."""
        return {model.name: model.signature for model in self._models}

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; what they hold is scored by the time the last one has passed."""
        if not self._models:
            yield from batches
            return
        block: list[Batch] = []
        size = 0
        for batch in batches:
            block.append(batch)
            size += len(batch.wanted) * len(batch.texts)
            if size >= _BLOCK:
                self._score(block)
                block, size = [], 0
            yield batch
        self._score(block)

    def columns(self, system: str) -> dict[str, FloatArray]:
        """A system's values (N) by metric, in percent, of all batches that have passed.

        A metric that no row has is left out.
        """
        found = {
            model.name: 100 * np.concatenate(self._values[model.name, system])
            for model in self._models
        }
        return {name: values for name, values in found.items() if not np.isnan(values).all()}

    def _score(self, block: list[Batch]) -> None:
        systems = list(dict.fromkeys(system for batch in block for system in batch.texts))
        # By document, so that its summaries by several systems follow each other.
        places, documents, summaries = [], [], []
        row = 0
        for batch in block:
            for index, wanted in enumerate(batch.wanted):
                for column, system in enumerate(systems):
                    text = batch.texts[system][index]
                    if wanted.task == "summarize" and not text.failed:
                        places.append((row, column))
                        documents.append(wanted.document)
                        summaries.append(text.text)
                row += 1
        for model in self._models:
            values = np.full((row, len(systems)), np.nan)
            if places:
                values[tuple(np.transpose(places))] = model.score(documents, summaries)
            for column, system in enumerate(systems):
                self._values.setdefault((model.name, system), []).append(values[:, column])
