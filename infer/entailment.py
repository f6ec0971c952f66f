"""How far a document entails a summary, by any cross-encoder of natural language inference.

    score = mean over the summary's sentences of the highest P(entailment | window, sentence)

over windows of the document: as many whole sentences as fit beside the summary's into the model's
length, each window beginning with the last sentence of the one before. So does SummaC (Laban et al.
2022, zero-shot: maximum over the document, mean over the summary), with single sentences as
premises; AlignScore (Zha et al. 2023) takes chunks.

The model is a local folder, or one of the Hub's that is in the cache. Its text is data: no control
token comes of it. Memory: pairs of some million tokens, and a batch of at most `batch_tokens`.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sumzero import __version__
from sumzero.errors import DataError
from sumzero.loading import local_folder
from sumzero.sentences import sentence_ends, sentences
from sumzero.usertext import UserText
from sumzero.weights_digest import weights_digest

FloatArray = NDArray[np.float64]
_MOST = 1024  # tokens of a pair where the model names no limit
_LEAST = 16
_PORTION = 1 << 22  # tokens of pairs that are held and sorted at once


@dataclass(frozen=True)
class _Pair:
    """A premise and a hypothesis as one input, and where its probability belongs."""

    ids: list[int]
    types: list[int]
    row: int
    sentence: int


class Entailment:
    """Scores summaries by their documents with the model of a folder or Hub name."""

    name = "nli"

    def __init__(
        self,
        path: str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Loads it: to the GPU where there is one, there in bfloat16, else in float32.

        Raises DataError where it is no such model, or has no label for entailment.
        """
        folder = local_folder(path, None)
        self._path = path
        on_gpu = torch.cuda.is_available() if device is None else device != "cpu"
        self._device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self._batch_tokens = batch_tokens or (32768 if on_gpu else 1024)  # docs/faithfulness.md
        self._tokenizer = _tokenizer(folder)
        self._model = _model(folder, dtype).to(self._device)
        self.label = _entailment_label(path, self._model.config.label2id)
        self._text = UserText(self._tokenizer)
        self._space = self._leading_space()
        self._frame = _Frame(self._tokenizer)
        self.max_length = _max_length(self._tokenizer, self._model)
        if self.max_length - self._frame.size < _LEAST:
            raise DataError(f"{path}: takes {self.max_length} tokens, too few for two texts")
        self.signature = "|".join(
            [
                f"model:{Path(path).name or path}@{weights_digest(folder)[:8]}",
                f"label:{self._model.config.id2label[self.label]}",
                f"premise:window{self.max_length}",
                "hypothesis:sentence",
                "split:rule",
                "agg:max-mean",
                f"dtype:{str(dtype).removeprefix('torch.')}",
                f"v:sumzero-{__version__}",
            ]
        )

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> FloatArray:
        """The scores (n) in [0, 1] of n summaries; NaN of those without a word.

        Raises DataError where the model gives no numbers.
        """
        pairs = (
            pair
            for row, (document, summary) in enumerate(zip(documents, summaries, strict=True))
            for pair in self._pairs(row, document, summary)
        )
        best: dict[tuple[int, int], float] = {}
        for batch in chain.from_iterable(map(self._batches, _portions(pairs))):
            for pair, found in zip(batch, self._probabilities(batch), strict=True):
                key = pair.row, pair.sentence
                best[key] = max(best.get(key, 0.0), found)
        scores = np.full(len(documents), np.nan)
        for row, some in groupby(sorted(best), key=lambda key: key[0]):
            scores[row] = np.mean([best[key] for key in some])
        return scores

    def windows(self, document: str, budget: int) -> list[list[int]]:
        """Token ids of the document's windows, each at most `budget`; one of none for no text.

        Sentences that are longer are cut into parts.
        """
        text = self._space + document.strip()
        ids, spans = self._text.encode_spans(text)
        cuts = np.searchsorted([begin for begin, _ in spans], sentence_ends(text)).tolist()
        bounds = sorted({0, len(ids), *cuts})
        parts = [
            ids[at : min(at + budget, end)]
            for begin, end in pairwise(bounds)
            for at in range(begin, end, budget)
        ]
        return list(_joined(parts, budget)) or [[]]

    def _pairs(self, row: int, document: str, summary: str) -> Iterator[_Pair]:
        """All windows with all sentences, of one summary."""
        said = [self._space + text for text in sentences(summary)]
        if not said:
            return
        room = self.max_length - self._frame.size
        hypotheses = [ids[: room // 2] for ids in self._text.encode(said)]
        budget = room - max(map(len, hypotheses))
        for window in self.windows(document, budget):
            for sentence, hypothesis in enumerate(hypotheses):
                yield _Pair(*self._frame.around(window, hypothesis), row, sentence)

    def _batches(self, pairs: list[_Pair]) -> Iterator[list[_Pair]]:
        """The longest first, so that what does not fit into memory fails at once."""
        batch: list[_Pair] = []
        for pair in sorted(pairs, key=lambda pair: -len(pair.ids)):
            if batch and (len(batch) + 1) * len(batch[0].ids) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(pair)
        if batch:
            yield batch

    def _probabilities(self, batch: list[_Pair]) -> list[float]:
        width = len(batch[0].ids)
        pad = self._tokenizer.pad_token_id or 0

        def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
            filled = [row + [filler] * (width - len(row)) for row in rows]
            return torch.tensor(filled, device=self._device)

        given = {
            "input_ids": padded([pair.ids for pair in batch], pad),
            "attention_mask": padded([[1] * len(pair.ids) for pair in batch], 0),
        }
        if "token_type_ids" in self._tokenizer.model_input_names:
            given["token_type_ids"] = padded([pair.types for pair in batch], 0)
        with torch.inference_mode():
            logits = self._model(**given).logits
        wide = logits if logits.dtype == torch.float64 else logits.float()
        found: list[float] = wide.softmax(-1)[:, self.label].tolist()
        if not all(map(isfinite, found)):
            why = f"its weights are damaged, or too large for {logits.dtype}"
            raise DataError(f"{self._path}: its probabilities are no numbers (NaN): {why}")
        return found

    def _leading_space(self) -> str:
        """What text is begun with, so that its first word is encoded as the tokenizer's own.

        `UserText` puts no space before a text; some tokenizers do.
        """
        word = "The"
        own = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        return "" if self._text.encode([word])[0] == own else " "


class _Frame:
    """The control tokens around a pair of texts, as the tokenizer puts them."""

    def __init__(self, tokenizer: Any) -> None:
        found = tokenizer("a", "b", return_token_type_ids=True)
        sides, ids, types = found.sequence_ids(0), found["input_ids"], found["token_type_ids"]
        first = [at for at, side in enumerate(sides) if side == 0]
        second = [at for at, side in enumerate(sides) if side == 1]
        self._ids = [
            ids[: first[0]],
            ids[first[-1] + 1 : second[0]],
            ids[second[-1] + 1 :],
        ]
        self._types = [
            types[: first[0]],
            types[first[-1] + 1 : second[0]],
            types[second[-1] + 1 :],
        ]
        self._type_of = types[first[0]], types[second[0]]
        self.size = sum(map(len, self._ids))

    def around(self, premise: list[int], hypothesis: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and token types of both in one input."""
        (a, b, c), (x, y, z) = self._ids, self._types
        of_premise, of_hypothesis = self._type_of
        return (
            [*a, *premise, *b, *hypothesis, *c],
            [*x, *[of_premise] * len(premise), *y, *[of_hypothesis] * len(hypothesis), *z],
        )


def _portions(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Of about _PORTION tokens each: of a long document every window meets every sentence."""
    portion: list[_Pair] = []
    size = 0
    for pair in pairs:
        portion.append(pair)
        size += len(pair.ids)
        if size >= _PORTION:
            yield portion
            portion, size = [], 0
    yield portion


def _joined(parts: list[list[int]], budget: int) -> Iterator[list[int]]:
    """Windows of as many parts as fit; the next one begins with the last of them, if it fits."""
    start = 0
    while start < len(parts):
        end, size = start, 0
        while end < len(parts) and size + len(parts[end]) <= budget:
            size += len(parts[end])
            end += 1
        yield [id_ for part in parts[start:end] for id_ in part]
        if end == len(parts):
            return
        again = end - start > 1 and len(parts[end - 1]) + len(parts[end]) <= budget
        start = end - 1 if again else end


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: no tokenizer can be loaded: {reason}") from None
    if not tokenizer.is_fast:
        raise DataError(f"{folder}: has no tokenizer.json (a fast tokenizer is needed)")
    return tokenizer


def _model(folder: Path, dtype: torch.dtype) -> Any:
    """The classifier; a model whose classifier would be made up is refused."""
    library = logging.getLogger("transformers")
    before = library.level
    library.setLevel(logging.ERROR)  # what matters of its warnings is said below
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: no classifier of texts can be loaded: {reason}") from None
    finally:
        library.setLevel(before)
    if missing := sorted(report["missing_keys"]):
        raise DataError(
            f"{folder}: is no classifier of texts, its weights have no {missing[0]}; score.nli "
            "wants a model of natural language inference"
        )
    return model.eval()


def _entailment_label(path: str, labels: dict[str, int]) -> int:
    for name, index in labels.items():
        if name.casefold() == "entailment":
            return index
    raise DataError(
        f"{path}: none of its labels is entailment; it has {', '.join(labels)}. score.nli wants a "
        "model of natural language inference, with the labels' names in its config.json (label2id)"
    )


def _max_length(tokenizer: Any, model: Any) -> int:
    """Tokens of an input; models that count positions from their padding's have fewer than rows."""
    limit = min(int(tokenizer.model_max_length), _MOST)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        table = next(
            (part for name, part in model.named_modules() if name.endswith(".position_embeddings")),
            None,
        )
        padding = getattr(table, "padding_idx", None)
        limit = min(limit, positions - (0 if padding is None else padding + 1))
    return limit
