"""What a token store holds, in numbers: for `data_report.json` and the terminal."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.log import logger
from sumzero.train.epoch import Epochs
from sumzero.train.packing import EMPTY
from sumzero.train.store import TokenStore

_PERCENTILES = (5, 50, 95, 99, 100)
_WORLDS = (2, 8, 64)  # ranks that the modelled imbalance is told for


def describe(store: TokenStore, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and lengths of a store, in tokens; a prompt's by its longest paraphrase.

    `sources` are what the report has of each so far.
    """
    template = store.template
    paraphrase = np.array([max(len(b) + len(a) for b, a in way) for way in template.ways])
    asked = paraphrase[store.way] + store.question_tokens
    num_targets = np.diff(store.offsets)
    kept = np.repeat(store.kept, num_targets)
    prompts = len(template.head) + kept + asked + len(template.tail)
    targets = store.target_tokens.astype(np.int64)
    cut = store.document_tokens - store.kept
    return {
        "examples": len(store),
        "targets": store.num_branches,
        "documents_with_several_targets": int((num_targets > 1).sum()),
        "tokens": int((prompts + targets).sum()),
        "supervised_tokens": int(targets.sum()),
        "supervised_share": round(float(targets.sum() / (prompts + targets).sum()), 4),
        **_cuts(cut),
        "sources": [
            {**source, **_cuts(cut[store.source == number])}
            for number, source in enumerate(sources)
        ],
        "lengths": {
            "document": percentiles(store.document_tokens),
            "prompt": percentiles(prompts),
            "target": percentiles(targets),
        },
    }


def _cuts(cut: NDArray[Any]) -> dict[str, int]:
    """`cut` are the tokens that are left out of each document."""
    return {"documents_cut": int((cut > 0).sum()), "document_tokens_cut": int(cut.sum())}


def percentiles(lengths: NDArray[Any]) -> dict[str, int]:
    """The usual percentiles of lengths, and the largest."""
    values = np.percentile(lengths, _PERCENTILES, method="higher")
    return {
        f"p{p}" if p < 100 else "max": int(v) for p, v in zip(_PERCENTILES, values, strict=True)
    }


def describe_plan(epochs: Epochs) -> dict[str, Any]:
    """The first epoch's plan."""
    plan = epochs.epoch(0).plan
    tokens = int(plan.tokens.sum())
    full = (plan.steps != EMPTY).all(axis=1)
    weight = plan.weight[plan.steps[full]].sum(axis=1)
    worlds = [world for world in _WORLDS if world <= plan.steps.shape[1]]
    return {
        "bins": plan.num_bins,
        "steps_per_epoch": plan.num_steps,
        "efficiency": round(plan.efficiency, 5),
        "tokens": tokens,
        "tokens_without_sharing": epochs.tokens_without_sharing(),
        "imbalance": {f"{world} ranks": round(plan.imbalance(world), 5) for world in worlds},
        "step_weight_variation": round(float(weight.std() / weight.mean()), 4) if full.any() else 0,
    }


def leakage(hashes: dict[str, NDArray[np.uint64]]) -> dict[str, int]:
    """Documents that stand in two splits, by the pair; each pair is warned of."""
    found = {}
    for one, other in combinations(hashes, 2):
        common = len(np.intersect1d(hashes[one], hashes[other]))
        found[f"{one}/{other}"] = common
        if common:
            logger.warning("%s both in data.%s and data.%s", _stand(common), one, other)
    return found


def _stand(count: int) -> str:
    return "1 document stands" if count == 1 else f"{count} documents stand"


def summary(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = []
    for split, counts in report["splits"].items():
        lines.append(f"{split}: {_rows(counts)}")
        if "examples" in counts:
            lines.append(
                f"  {counts['examples']} documents with {counts['targets']} targets, "
                f"{counts['tokens']:,} tokens, {counts['supervised_share']:.1%} supervised"
            )
            for name, values in counts["lengths"].items():
                shown = ", ".join(f"{key} {value:,}" for key, value in values.items())
                lines.append(f"  {name + ' tokens:':<17} {shown}")
        if len(counts["sources"]) > 1:
            lines += [f"  {source['path']}: {_rows(source)}" for source in counts["sources"]]
    for pair, count in report["leakage"].items():
        if count:
            lines.append(f"leakage: {_stand(count)} both in {' and '.join(pair.split('/'))}")
    plan = report["plan"]
    waiting = ", ".join(f"{share:.2%} on {ranks}" for ranks, share in plan["imbalance"].items())
    saved = plan["tokens_without_sharing"] / plan["tokens"]
    lines.append(
        f"plan: {plan['steps_per_epoch']:,} steps an epoch, {plan['bins']:,} bins "
        f"{plan['efficiency']:.1%} full; "
        + (f"modelled waiting {waiting}; " if waiting else "")
        + f"sharing documents feeds {saved:.2f} times fewer tokens"
    )
    return "\n".join(lines)


def _rows(counts: dict[str, Any]) -> str:
    """What became of rows and documents, of a split or a source."""
    by_reason = ", ".join(f"{n} x {why}" for why, n in counts["rejected_by_reason"].items())
    said = f"{counts['read']} read, {counts['kept']} kept, {counts['rejected']} rejected"
    if by_reason:
        said += f" ({by_reason})"
    if counts.get("documents_cut"):
        said += (
            f"; {counts['documents_cut']} documents cut, {counts['document_tokens_cut']:,} tokens "
            "left out"
        )
    return said
