"""Long documents as trees of prompts, and all trees of a job at once.

    map_reduce   every chunk is summarized; the summaries, joined by blank lines, are the text of
                 the next level, which is cut and summarized in turn until one prompt holds it
    refine       chunk by chunk: each prompt's document is the summary so far, a blank line and the
                 next chunk

Every prompt is one "document -> summary", which is all that a fine-tuned summarizer knows. Each is
a node with a row of its own: the last has the record's own id, the others ID#LEVEL.INDEX, from 0.
A tree is a function of its document and of the rows there are, so what was interrupted goes on from
any subset of them to the same end.

It ends: summaries that together have more than nine tenths of the tokens they were made from, all
empty ones, and a summary that leaves no room beside the next chunk make the record's row an error.
A document of n chunks so takes at most 10 n prompts; with summaries a tenth as long, 1.1 n.

The nodes of all documents wait in one queue, so an engine that reads it stays full while there are
documents left. A document is cut when the queue is empty, and held until its last row.
"""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sumzero.errors import DataError
from sumzero.infer.chunks import Chunk, Count, split
from sumzero.infer.rows import Row
from sumzero.prompt import SEPARATOR

IN_PARTS = ("map_reduce", "refine")
_SHRINK = 0.9  # of a level's tokens: what its summaries may have at most
_SEAM = 8  # tokens for a blank line, and for what a text has more in other company
_LEAST = 16  # tokens of a chunk


@dataclass(frozen=True)
class Way:
    """How the documents of a job are taken apart.

    `max_new_tokens` bounds a summary. `mark` stands between a record's id and a node's place; see
    `mark_of`.
    """

    long: Literal["map_reduce", "refine"]
    count: Count
    max_new_tokens: int
    mark: str = "#"


@dataclass(frozen=True, slots=True)
class Node:
    """One prompt: its row's id, its record's, its document and the tokens of that.

    `span` are characters of the record's document; above the first level of map_reduce, of the
    joined summaries below. `children` are indices into the level before: what it is made from.
    """

    id: str
    of: str
    document: str
    tokens: int
    span: tuple[int, int]
    children: tuple[int, ...]


class Tree:
    """The prompts of one document of which at most `limit` tokens fit into a prompt.

    `error` is why there is no summary. Where the document fits there is one node, the record's.
    """

    def __init__(self, id_: str, document: str, limit: int, way: Way) -> None:
        self.id = id_
        self.error: str | None = None
        self.levels: list[list[Node]] = []
        self._document = document
        self._chunks: list[Chunk] = []
        self._limit = limit
        self._way = way
        self._answers: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    @property
    def done(self) -> bool:
        """Whether there is nothing more to ask."""
        return self.error is not None or self.id in self._answers

    def begin(self) -> list[Node]:
        """The nodes to ask first; none where the document cannot be taken apart."""
        try:
            chunks = split(self._document, self._limit, self._way.count)
            if len(chunks) > 1 and self._way.long == "refine":
                chunks = split(self._document, self._refine_limit(), self._way.count)
        except DataError as error:
            self.error = str(error)
            return []
        self._chunks = chunks
        if self._way.long == "refine":
            return self._grown([self._refined("")])
        return self._grown(self._reduced(self._document, []))

    def take(self, row: Mapping[str, Any]) -> list[Node]:
        """Takes the row of a node that was to be asked: its `id`, and `text` or `error`.

        Returns the nodes that can be asked now and could not before. A level's errors count when it
        is complete, so that which one is told does not depend on the order of the rows.
        """
        level = self.levels[-1]
        assert any(node.id == row["id"] for node in level), row["id"]
        if "error" in row:
            self._failed[row["id"]] = row["error"]
        else:
            self._answers[row["id"]] = row["text"].strip()
        if len(self._answers) + len(self._failed) < sum(map(len, self.levels)):
            return []
        if self._failed:
            id_ = next(node.id for node in level if node.id in self._failed)
            self.error = ("" if id_ == self.id else f"{id_}: ") + self._failed[id_]
        if self.done:
            return []
        try:
            return self._grown(self._next())
        except DataError as error:
            self.error = str(error)
            return []

    def as_dict(self) -> dict[str, Any]:
        """What the output keeps: every node's id, span, tokens, children and summary, by level.

        Levels and not nodes are nested: tables, as Parquet's, have no types that hold themselves.
        """
        return {
            "long": self._way.long,
            "limit": self._limit,
            "levels": [
                [
                    {
                        "id": node.id,
                        "span": list(node.span),
                        "tokens": node.tokens,
                        "children": list(node.children),
                        "summary": self._answers.get(node.id),
                    }
                    for node in level
                ]
                for level in self.levels
            ],
        }

    def _grown(self, level: list[Node]) -> list[Node]:
        self.levels.append(level)
        return level

    def _name(self, level: int, index: int, of: int) -> str:
        return self.id if of == 1 else f"{self.id}{self._way.mark}{level}.{index}"

    def _next(self) -> list[Node]:
        answers = [self._answers[node.id] for node in self.levels[-1]]
        if self._way.long == "refine":
            return [self._refined(answers[0])]
        joined, starts = "", []
        for answer in answers:
            joined += SEPARATOR if joined and answer else ""
            starts.append(len(joined))
            joined += answer
        if not joined:
            raise DataError(f"all {len(answers)} summaries of a level are empty")
        return self._reduced(joined, starts)

    def _reduced(self, text: str, starts: list[int]) -> list[Node]:
        """The nodes of a text; `starts` is where in it the summaries of the level before begin."""
        level = len(self.levels)
        chunks = split(text, self._limit, self._way.count) if level else self._chunks
        if level and len(chunks) > 1:
            before = sum(node.tokens for node in self.levels[-1])
            after = sum(chunk.tokens for chunk in chunks)
            if after > _SHRINK * before:
                raise DataError(
                    f"{before} tokens were summarized in {after}, and a prompt has room for "
                    f"{self._limit}: too little shorter; lower generate.max_new_tokens"
                )
        begins = [chunk.begin for chunk in chunks]
        children: list[list[int]] = [[] for _ in chunks]
        for number, start in enumerate(starts):
            children[bisect_right(begins, start) - 1].append(number)
        return [
            Node(
                self._name(level, index, len(chunks)),
                self.id,
                chunk.of(text),
                chunk.tokens,
                (chunk.begin, chunk.end),
                tuple(children[index]),
            )
            for index, chunk in enumerate(chunks)
        ]

    def _refined(self, summary: str) -> Node:
        step = len(self.levels)
        chunk = self._chunks[step]
        document = (summary + SEPARATOR + chunk.of(self._document)).strip()
        tokens = self._way.count([document])[0]
        if tokens > self._limit:
            raise DataError(
                f"the summary so far and the next chunk have {tokens} tokens, and a prompt has "
                f"room for {self._limit}"
            )
        id_ = self._name(step, 0, len(self._chunks) - step)
        return Node(id_, self.id, document, tokens, (chunk.begin, chunk.end), (0,) * (step > 0))

    def _refine_limit(self) -> int:
        limit = self._limit - self._way.max_new_tokens - _SEAM
        if limit < _LEAST:
            raise DataError(
                f"there is room for {self._limit} tokens of a document, and a summary may have "
                f"{self._way.max_new_tokens}: no room for a next chunk beside it; lower "
                'generate.max_new_tokens or set generate.long = "map_reduce"'
            )
        return limit


class Forest:
    """The trees of a job. `known` gives the row of a node that is there already.

    forest = Forest(trees, known)
    while forest.more():
        for row in answered(forest.ready()):
            forest.take(row)
            ...  # what is in forest.finished by now
    """

    def __init__(
        self, trees: Iterable[Tree], known: Callable[[Node], Row | None] = lambda _: None
    ) -> None:
        self.finished: deque[Tree] = deque()
        """Trees that are done; to be taken out by who reads them."""
        self._trees = iter(trees)
        self._known = known
        self._ready: deque[Node] = deque()
        self._asked: dict[str, Tree] = {}

    def more(self) -> bool:
        """Whether a node can be asked now. Trees are opened until there is one."""
        while not self._ready and (tree := next(self._trees, None)):
            self._add(tree, tree.begin())
        return bool(self._ready)

    def ready(self) -> Iterator[Node]:
        """The nodes that can be asked, those of opened trees first; more may come with `take`."""
        while self.more():
            yield self._ready.popleft()

    def take(self, row: Row) -> None:
        """Takes the row of a node that `ready` gave, in any order: `id`, and `text` or `error`."""
        tree = self._asked.pop(row["id"])
        self._add(tree, tree.take(row))

    def _add(self, tree: Tree, nodes: list[Node]) -> None:
        todo = deque(nodes)
        while todo:
            node = todo.popleft()
            if row := self._known(node):
                todo += tree.take(row)
            else:
                self._ready.append(node)
                self._asked[node.id] = tree
        if tree.done:
            self.finished.append(tree)


def mark_of(ids: Iterable[str]) -> str:
    """What stands between a record's id and a node's place: "#", or as many as no id holds.

    So no node has the id of a record or of another record's node, and an id that holds the mark is
    of a node that is not the record's own.
    """
    longest = max((len(run) for id_ in ids for run in re.findall("#+", id_)), default=0)
    return "#" * (longest + 1)
