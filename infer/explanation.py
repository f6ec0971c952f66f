"""The explanation of one summary at work: what is to be scored next, and in the end its row.

First the whole prompt is scored, and random ablations, which the weights are fitted to. A summary
that is checked is scored under ablations held out, and without each source in turn; then, without
the sources that each method has on top.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xxhash

from sumzero.config import Explain
from sumzero.infer import attribution
from sumzero.infer.ablated import Ablated
from sumzero.infer.alignment import alignment
from sumzero.infer.attribution import Floats, Kept
from sumzero.infer.rows import Row
from sumzero.infer.sources import Sources, Span, sentence_spans

METHODS = ("ablation", "leave_one_out", "alignment", "random")
TOP = (1, 3, 5)
_FEWEST_HELD_OUT = 5


class Explanation:
    """Asks for ablations until it is `done`; `begin`, then `take` each that was asked for."""

    def __init__(self, about: Ablated, settings: Explain, seed: int, *, is_checked: bool) -> None:
        self._about, self._settings, self._is_checked = about, settings, is_checked
        self._sums: dict[bytes, Floats] = {}
        self._logprobs: Sequence[float] = ()
        self._asked: set[bytes] = set()
        self._tokens = 0
        self._cost: dict[str, int] = {}
        num = len(about.sources.there)
        draws = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(about.record.id.encode())])
        more = settings.held_out if is_checked else 0
        drawn = attribution.ablations(num, settings.ablations + more, draws)
        self._drawn = drawn[: settings.ablations]
        self._fitted, self._held_out = attribution.apart(drawn, more)
        self._whole = np.ones(num, bool)
        self._without_each = ~np.eye(num, dtype=bool)
        # With mean 0: weights that are all positive foretell more the more is there, and so is it.
        self._random = draws.random((len(about.summary.sentences), num)) - 0.5
        self._ranking: dict[str, Floats] = {}

    @property
    def done(self) -> bool:
        """Whether all is scored."""
        return len(self._sums) == len(self._asked)

    def begin(self) -> list[tuple[Kept, list[int]]]:
        """Ablations to be scored, each with its prompt and the summary as token ids."""
        first = self._ask([self._whole, *self._drawn])
        self._cost = {"prompts": len(first), "tokens": sum(len(ids) for _, ids in first)}
        if self._is_checked:
            first += self._ask([*self._fitted, *self._held_out, *self._without_each])
        return first

    def take(self, kept: Kept, logprobs: Sequence[float]) -> list[tuple[Kept, list[int]]]:
        """Takes the log-probabilities of the summary's tokens under an ablation.

        Returns what can be asked now and could not before.
        """
        self._sums[kept.tobytes()] = self._about.summary.sums(logprobs)
        if kept.all():
            self._logprobs = logprobs
        if not self.done or self._ranking:
            return []
        self._ranking = {"ablation": self._fit(self._drawn)}
        if not self._is_checked:
            return []
        there = list(self._about.sources.there)
        without = self._scores(self._without_each)
        self._ranking |= {
            "leave_one_out": (self._scores([self._whole]) - without).T,
            "alignment": self._alignment()[:, there],
            "random": self._random,
        }
        return self._ask(
            attribution.without_top(weights, most)
            for method in METHODS
            for weights in self._ranking[method]
            for most in self._tops()
        )

    def row(self) -> Row:
        """What is written of it."""
        sources, summary = self._about.sources, self._about.summary
        weights = np.zeros((len(summary.sentences), len(sources.spans)))
        weights[:, list(sources.there)] = self._ranking["ablation"]
        row = {
            **sentences_of(sources, summary.sentences),
            "weights": _rounded(weights),
            "alignment": _rounded(self._alignment()),
            "summary_logprobs": _rounded(self._sums[self._whole.tobytes()]),
            "token_logprobs": _rounded(self._logprobs),
            "token_spans": summary.spans,
            "prompt_tokens": self._about.prompt_tokens,
            "cost": self._cost,
        }
        if self._is_checked:
            row["check"] = self._check()
            more = {"prompts": len(self._asked), "tokens": self._tokens}
            row["cost"] |= {f"check_{name}": more[name] - self._cost[name] for name in more}
        return row

    def _ask(self, wanted: Iterable[Kept]) -> list[tuple[Kept, list[int]]]:
        new = {kept.tobytes(): kept for kept in wanted if kept.tobytes() not in self._asked}
        if not new:
            return []
        self._asked |= new.keys()
        prompts = self._about.prompts(np.stack(list(new.values())))
        self._tokens += sum(map(len, prompts))
        return list(zip(new.values(), prompts, strict=True))

    def _scores(self, kept_MN: Iterable[Kept]) -> Floats:
        """The log-probability of each sentence under ablations (M, S)."""
        return np.stack([self._sums[kept.tobytes()] for kept in kept_MN])

    def _fit(self, kept_MN: Kept) -> Floats:
        scores = self._scores(kept_MN)
        if self._settings.score == "logit":
            scores = attribution.log_odds(scores)
        penalty = self._settings.penalty * self._about.summary.sizes
        return attribution.fit(kept_MN, scores, penalty)[0]

    def _alignment(self) -> Floats:
        return aligned(self._about.sources, _texts(self._about))

    def _tops(self) -> list[int]:
        return [most for most in TOP if most < len(self._whole)]

    def _check(self) -> dict[str, Any]:
        """Means over the summary's sentences that have tokens, by method."""
        found: dict[str, Any] = {"lds": {}, "drop": {str(most): {} for most in self._tops()}}
        by = dict(self._ranking)
        if is_tested := len(self._held_out) >= _FEWEST_HELD_OUT:
            by["ablation"] = self._fit(self._fitted)
            held_out = self._scores(self._held_out)
        whole = self._scores([self._whole])[0]
        for method in METHODS:
            if is_tested:
                scores = (
                    attribution.datamodelling_score(weights, self._held_out, held_out[:, number])
                    for number, weights in enumerate(by[method])
                )
                if known := [score for score in scores if score is not None]:
                    found["lds"][method] = round(float(np.mean(known)), 4)
            for most in self._tops():
                kept = [attribution.without_top(x, most) for x in self._ranking[method]]
                drops = whole - np.diagonal(self._scores(kept))
                mean = drops[self._about.summary.sizes > 0].mean()
                found["drop"][str(most)][method] = round(float(mean), 4)
        pairs = zip(self._ranking["ablation"], self._ranking["leave_one_out"], strict=True)
        agree = [x for x in (attribution.rank_correlation(a, b) for a, b in pairs) if x is not None]
        if agree:
            found["agrees_with_leave_one_out"] = round(float(np.mean(agree)), 4)
        return found


def sentences_of(sources: Sources, summary: Sequence[Span]) -> Row:
    """What a row says of the sentences of document and summary."""
    row: Row = {"document_sentences": sources.spans, "summary_sentences": summary}
    there = set(sources.there)
    if cut := [number for number in range(len(sources.spans)) if number not in there]:
        row["cut"] = cut
    if sources.cut_in_two:
        row["cut_in_two"] = sources.cut_in_two
    if sources.sentences > len(sources.spans):
        row["joined"] = sources.sentences
    return row


def aligned(sources: Sources, texts: Sequence[str]) -> Floats:
    """The alignment (S, N) of a summary's sentences with all parts of a document."""
    return alignment([sources.document[begin:end] for begin, end in sources.spans], texts)


def unscored_row(document: str, text: str, most: int) -> Row:
    """The row of a summary that no single prompt has made: its alignment, and no weights."""
    sources = Sources.of(document, [(0, len(document))], most)
    spans = sentence_spans(text)
    shares = aligned(sources, [text[begin:end] for begin, end in spans])
    return {
        **sentences_of(sources, spans),
        "weights": None,
        "alignment": _rounded(shares),
        "in_parts": True,
    }


def _texts(about: Ablated) -> list[str]:
    return [about.text[begin:end] for begin, end in about.summary.sentences]


def _rounded(values: Floats | Sequence[float]) -> Any:
    return np.round(np.asarray(values, np.float64), 4).tolist()
