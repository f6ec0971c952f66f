"""Answers about documents of any length: each document is a tree of prompts (forest.py).

The row of a record is that of its tree's last prompt; with the tree, where it was cut into several.
The rows of the other prompts have `of`, their record's id; a tree that was interrupted takes those
that are there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sumzero.config import Generate, Source
from sumzero.infer.chunks import counter
from sumzero.infer.engine import Request
from sumzero.infer.forest import Forest, Node, Tree, Way
from sumzero.infer.questions import question_ids
from sumzero.infer.rows import Parts, Row, answer_row, prompt_facts
from sumzero.records import Record

if TYPE_CHECKING:
    from sumzero.infer.answering import Answering, Model


@dataclass(frozen=True)
class _Work:
    """A record whose tree is at work: what it is asked, and rows of nodes that are there."""

    record: Record
    asked_ids: list[int]
    known: dict[str, Row]


class LongAnswers:
    """The answers about some records by "map_reduce" or "refine"; all their trees at once."""

    def __init__(self, model: "Model", generate: Generate, parts: Parts) -> None:
        """`parts` gives the rows of nodes that were made before."""
        assert generate.long == "map_reduce" or generate.long == "refine"
        self._model = model
        self._limit = model.contract.prompt_limit(generate.max_new_tokens)
        count = counter(model.renderer)
        self._way = Way(generate.long, count, generate.max_new_tokens, model.mark)
        self._parts = parts
        self._work: dict[str, _Work] = {}
        self._prompts: dict[str, Row] = {}  # of nodes in the engine: what their rows say of them

    def rows(
        self, engine: "Answering", records: Iterator[tuple[Record, Source]], seed: int
    ) -> Iterator[Row]:
        """A row for each record as its tree ends, and before it one for each of its other nodes."""
        forest = Forest(self._trees(records), self._known)
        stop_ids = self._model.contract.stop_ids
        for done in engine.generate(self._requests(forest), stop_ids, seed):
            row = answer_row(done, self._prompts.pop(done.id))
            forest.take(row)
            if done.id not in self._work:  # a part; the last row of a tree is the record's
                yield row
            yield from self._finished(forest, row)
        yield from self._finished(forest, {})

    def _requests(self, forest: Forest) -> Iterator[Request | None]:
        """What can be asked now; None where answers must come first."""
        while forest.more() or self._prompts:
            node = next(forest.ready(), None)
            yield self._request(node) if node else None

    def _trees(self, records: Iterator[tuple[Record, Source]]) -> Iterator[Tree]:
        renderer = self._model.renderer
        for record, source in records:
            asked = question_ids(renderer, self._model.asked(record, source), record.instruction)
            self._work[record.id] = _Work(record, asked, self._parts(record.id))
            room = self._limit - renderer.fixed_tokens(asked)
            yield Tree(record.id, record.document, room, self._way)

    def _known(self, node: Node) -> Row | None:
        return self._work[node.of].known.get(node.id)

    def _request(self, node: Node) -> Request:
        renderer, asked_ids = self._model.renderer, self._work[node.of].asked_ids
        document = renderer.encode_text([node.document])[0]
        prompt = renderer.prompt(document, self._limit, asked_ids)
        assert prompt is not None, node.id
        assert prompt.document_kept == prompt.document_tokens == node.tokens, node.id
        part = {"of": node.of} if node.id != node.of else {}
        self._prompts[node.id] = {**part, "prompt_tokens": len(prompt.ids)}
        return Request(node.id, prompt.ids)

    def _finished(self, forest: Forest, last: Row) -> Iterator[Row]:
        """The rows of the records whose trees are done; `last` is the last row that was taken."""
        while forest.finished:
            tree = forest.finished.popleft()
            record = self._work.pop(tree.id).record
            was_cut = tree.levels and tree.levels[0][0].id != tree.id
            parts = {"tree": tree.as_dict()} if was_cut else {}
            if tree.error is not None:
                yield {"id": tree.id, "error": tree.error, **record.beside(), **parts}
                continue
            size = self._way.count([record.document])[0]
            rule = self._model.renderer.truncation.rule
            facts = prompt_facts(record, size, size, last["prompt_tokens"], rule)
            yield {"id": tree.id, "text": last["text"], **facts, **last, **parts}
