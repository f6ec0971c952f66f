"""The token store: a split's examples in one memory-mapped Arrow file, each document once.

A row is an example: a document and the targets that were written for it, as token ids. How a
target may be asked for (the paraphrases of an instruction) is told by number; their tokens stand in
the file's metadata, with the template's. Which paraphrase is used is drawn anew each epoch, so
nothing is tokenised in training and lengths differ a little from epoch to epoch.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from sumzero.errors import RunError
from sumzero.prompt import Truncation
from sumzero.train.parts import IDS

Ids = NDArray[np.int32]
SCHEMA = pa.schema(
    [
        ("source", pa.int16()),  # index among the split's sources
        ("hash", pa.uint64()),  # of the document's text
        ("document", IDS),  # as cut to data.max_length
        ("document_tokens", pa.int32()),  # before any cut
        ("kept", pa.int32()),  # what is fed of it
        ("alike", pa.bool_()),  # whether all targets are asked for in the same words
        ("ids", pa.list_(pa.string())),  # these and the following have an element a target
        ("keys", pa.list_(pa.uint64())),  # hashes of the ids
        ("ways", pa.list_(pa.int32())),  # index into `Template.ways`
        ("questions", pa.list_(IDS)),  # of the row; empty where it has none
        ("targets", pa.list_(IDS)),  # each ends with the end of turn
    ]
)


@dataclass(frozen=True)
class Template:
    """What stands around user text, as token ids.

    `head` before the document; `ways[i]` are the paraphrases of way i, each as the ids before and
    after the question; `tail` ends the prompt. `truncation` is the rule.
    """

    head: list[int]
    tail: list[int]
    ways: list[list[tuple[list[int], list[int]]]]
    truncation: str

    def to_json(self) -> str:
        """For the store's metadata; `Template(*json.loads(text))` reads it back."""
        return json.dumps([self.head, self.tail, self.ways, self.truncation])

    def asked(self, way: int, paraphrase: int, question: Ids) -> Ids:
        """What stands between document and target: the instruction and the assistant's header."""
        before, after = self.ways[way][paraphrase]
        return np.concatenate(
            [np.array(before, np.int32), question, after + self.tail], dtype=np.int32
        )


class TokenStore:
    """A split's examples. Arrays are by example (E) or by branch, that is by target (B).

    `source`, `hash`, `kept`, `document_tokens`, `alike` (E); `offsets` (E + 1) of an example's
    branches; `key`, `way`, `question_tokens`, `target_tokens` (B).
    """

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise RunError(f"{file} is missing; run `sumzero prepare RUN.toml` first")
        try:
            with pa.memory_map(str(file)) as content:  # datasets keeps no metadata but its own
                schema = pa.ipc.open_stream(content).schema
            if not schema.equals(SCHEMA) or not schema.metadata:
                raise ValueError("not a token store of this version")
            self.template = Template(*json.loads(schema.metadata[b"template"]))
            self._rows = Dataset.from_file(str(file)).with_format("arrow")
            table = self._rows.data.table
            table.validate()
            if not len(table):
                raise ValueError("it has no rows")
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # not of the content
                raise
            told = " ".join(str(error).split())[:200]
            raise RunError(
                f"{file}: damaged ({told}); remove it and run `sumzero prepare RUN.toml`"
            ) from None
        self.truncation = Truncation(self.template.truncation)
        self.source, self.hash, self.kept, self.document_tokens, self.alike = (
            table[name].to_numpy()
            for name in ("source", "hash", "kept", "document_tokens", "alike")
        )
        counts = pc.list_value_length(table["targets"]).to_numpy()
        self.offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.key, self.way = (pc.list_flatten(table[name]).to_numpy() for name in ("keys", "ways"))
        self.question_tokens, self.target_tokens = (
            pc.list_value_length(pc.list_flatten(table[name])).to_numpy()
            for name in ("questions", "targets")
        )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.kept)

    @property
    def num_branches(self) -> int:
        """Number of targets."""
        return len(self.key)

    def row(self, example: int) -> tuple[Ids, list[Ids], list[Ids]]:
        """An example's document ids as they are fed, and each target's question ids and ids."""
        row = self._rows[example]
        document = _lists(row["document"].chunk(0))[0]
        spans = self.truncation.spans(len(document), int(self.kept[example]))
        kept = np.concatenate([document[begin:end] for begin, end in spans])
        questions, targets = (
            _lists(row[name].chunk(0).flatten()) for name in ("questions", "targets")
        )
        return kept, questions, targets

    def identities(self, example: int) -> list[str]:
        """The record ids of an example's targets."""
        names: list[str] = self._rows[example]["ids"][0].as_py()
        return names


def _lists(column: Any) -> list[Ids]:
    """The lists of a list array, without copying."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    return [values[begin:end] for begin, end in pairwise(offsets.tolist())]
