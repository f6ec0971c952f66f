"""Documents that do not fit into a prompt: they are found before anything is generated.

Cost: the records are read once more, and only documents with more bytes than a prompt has room for
tokens are tokenised, many at once.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from sumzero.config import Generate, Source
from sumzero.errors import ConfigError
from sumzero.infer.questions import question_ids
from sumzero.records import Record

if TYPE_CHECKING:
    from sumzero.infer.answering import Model

_TOGETHER = 64  # documents that are tokenised at once
_LEAD = 8  # tokens that a tokenizer may put before a text


def check_fit(model: "Model", records: Iterable[tuple[Record, Source]], generate: Generate) -> None:
    """Raises ConfigError where a document does not fit and `generate.long` has no way for it.

    That is where it is not set, and where a translation is to be made of summaries.
    """
    if generate.long == "truncate":
        return
    if generate.long is not None:
        records = ((record, source) for record, source in records if source.task == "translate")
    count, first = 0, ""
    for record, tokens, room in _too_long(model, records, generate.max_new_tokens):
        if generate.long is not None:
            raise ConfigError(
                f'generate.long = "{generate.long}": {record.id!r} has {tokens} tokens and a '
                f"prompt room for {room}, and a translation is not made of summaries; cut the text "
                'into records that fit, or set "truncate"'
            )
        count += 1
        first = first or f"{record.id!r} first: {tokens} tokens, and a prompt has room for {room}"
    if count:
        many = "1 document is" if count == 1 else f"{count} documents are"
        raise ConfigError(
            f"generate.long: {many} too long, {first}; say what becomes of them: "
            '"truncate", "map_reduce" or "refine" (docs/long_documents.md)'
        )


def _too_long(
    model: "Model", records: Iterable[tuple[Record, Source]], max_new_tokens: int
) -> Iterator[tuple[Record, int, int]]:
    """Those that do not fit, with their documents' tokens and how many a prompt has room for."""
    renderer = model.renderer
    limit = model.contract.prompt_limit(max_new_tokens)

    def likely() -> Iterator[tuple[Record, int]]:
        for record, source in records:
            asked = question_ids(renderer, model.asked(record, source), record.instruction)
            room = limit - renderer.fixed_tokens(asked)
            if len(record.document.encode()) + _LEAD > room:
                yield record, room

    those = likely()
    while some := list(islice(those, _TOGETHER)):
        encoded = renderer.encode_text([record.document for record, _ in some])
        for (record, room), ids in zip(some, encoded, strict=True):
            if len(ids) > room:
                yield record, len(ids), max(0, room)
