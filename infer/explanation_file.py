"""attributions.jsonl: a line about an explanation, then one for each summary.

    {"kind": "explanation", "system", "generation", "method", "settings", "sample", "cost",
     "faithfulness", "model"}
    {"id", "system", "document_sentences": [[begin, end], ...], "summary_sentences": [[begin, end],
     ...], "weights": [[...], ...], "alignment": [[...], ...], "token_logprobs", ...}

docs/explaining.md has every field.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.infer.explained import Chosen, Explained
from sumzero.infer.explanation import METHODS, TOP
from sumzero.infer.rows import Row
from sumzero.infer.significance import bootstrap_interval
from sumzero.runfolder import RunFolder, read_jsonl, write_jsonl

Head = dict[str, Any]
_METHOD = {
    "weights": "change of a summary sentence's {} by a document sentence, in nats: Lasso on random "
    "ablations (ContextCite, arXiv 2409.00729)",
    "alignment": "share of the summary sentence's 1- to 3-grams, by rarity, in the document's",
}
_ALONE, _OF_CHECKS = ("prompts", "tokens"), ("check_prompts", "check_tokens")
_SCORES = {"logprob": "log-probability", "logit": "log-odds"}


def about(explained: Explained, chosen: Chosen, rows: Sequence[Row]) -> Head:
    """The first line: what was explained and how, at what cost, and how far it can be believed."""
    config = explained.config
    manifest = explained.generation.manifest
    settings = asdict(config.explain)
    score = _SCORES[config.explain.score]
    scored = [row for row in rows if "cost" in row]
    return {
        "kind": "explanation",
        "system": explained.system,
        "generation": explained.generation.folder.name,
        "method": _METHOD | {"weights": _METHOD["weights"].format(score)},
        "settings": {**settings, "seed": config.seed},
        "sample": {
            "rows": chosen.rows,
            "chosen": len(rows),
            "explained": len(scored),
            "alignment_only": sum(bool(row.get("in_parts")) for row in rows),
            "errors": sum("error" in row for row in rows),
            "left_out": chosen.left_out,
        },
        "cost": _cost(scored),
        "faithfulness": faithfulness(rows, config),
        "model": {
            "folder": str(explained.model.folder),
            "weights": manifest["weights"],
            "contract": manifest["contract"],
            "engine": explained.job.made_by["engine"],
        },
    }


def _cost(rows: Sequence[Row]) -> dict[str, Any]:
    """What an explanation costs in the mean: prompts, their tokens, and seconds for so many.

    Checks are not counted in. Seconds are those of all engines together while they were at work.
    """
    costs = [row["cost"] for row in rows]
    total = {name: sum(x.get(name, 0) for x in costs) for name in (*_ALONE, *_OF_CHECKS, "seconds")}
    tokens = total["tokens"] + total["check_tokens"]
    if not tokens:
        return {}
    rate = tokens / total["seconds"] if total["seconds"] else 0.0
    prompts, each = (total[name] / len(rows) for name in _ALONE)
    return {
        "prompts_per_summary": round(prompts, 2),
        "tokens_per_summary": round(each, 1),
        "seconds_per_summary": round(each / rate, 4) if rate else 0.0,
        "tokens_per_second": round(rate, 1),
        "check_tokens": total["check_tokens"],
    }


def faithfulness(rows: Iterable[Row], config: RunConfig) -> dict[str, Any]:
    """How far the weights tell what happens, beside other weights: means over checked summaries.

    `lds` is the rank correlation of told and measured scores under ablations held out; `drop` is by
    how many nats the log-probability of a summary's sentence falls without the k sources on top.
    Each with its 95% bootstrap interval. Empty where nothing was checked.
    """
    checks = [row["check"] for row in rows if "check" in row]
    if not checks:
        return {}

    def means(values: Sequence[dict[str, float]]) -> dict[str, Any]:
        having = [one for one in values if one]
        return {
            method: _mean(np.array([one[method] for one in having]), config)
            for method in METHODS
            if having
        }

    agree = [x["agrees_with_leave_one_out"] for x in checks if "agrees_with_leave_one_out" in x]
    return {
        "summaries": len(checks),
        "lds_summaries": sum(bool(check["lds"]) for check in checks),
        "lds": means([check["lds"] for check in checks]),
        "drop": {str(k): means([check["drop"].get(str(k), {}) for check in checks]) for k in TOP},
        "drop_summaries": {str(k): sum(str(k) in check["drop"] for check in checks) for k in TOP},
        "agrees_with_leave_one_out": _mean(np.array(agree), config) if agree else None,
    }


def _mean(values: NDArray[np.float64], config: RunConfig) -> dict[str, float]:
    low, high = bootstrap_interval(values, resamples=config.score.bootstrap, seed=config.seed)
    return {
        name: round(float(x), 4)
        for name, x in (("value", values.mean()), ("low", low), ("high", high))
    }


def write_explanation(file: Path, head: Head, rows: Iterable[Row]) -> None:
    """Writes the file, whole or not at all. Rows that ended in an error are counted only."""
    write_jsonl(file, chain([head], (row for row in rows if "error" not in row)))


def read_explanation(folder: RunFolder) -> tuple[Head, list[Row]]:
    """The first line and the rows. Raises RunError where there is none."""
    lines = read_jsonl(folder.attributions)
    if not lines or lines[0].get("kind") != "explanation":
        raise RunError(f"{folder.attributions}: no explanation; run `sumzero explain` first")
    return lines[0], lines[1:]


def table(head: Head) -> str:
    """What a command prints of an explanation."""
    sample, cost, found = head["sample"], head["cost"], head["faithfulness"]
    left_out = ", ".join(f"{number} {reason}" for reason, number in sample["left_out"].items())
    lines = [
        f"explained {sample['explained']} of {sample['rows']} summaries of {head['system']} "
        f"(seed {head['settings']['seed']}); left out: {left_out}"
    ]
    if sample["errors"]:
        lines.append(f"{sample['errors']} could not be explained; run it again to try them again")
    if sample["alignment_only"]:
        lines.append(f"{sample['alignment_only']} were made in parts: their alignment only")
    if cost.get("tokens_per_summary"):
        lines.append(
            f"a summary takes {cost['prompts_per_summary']:.1f} prompts, "
            f"{cost['tokens_per_summary']:,.0f} tokens, {cost['seconds_per_summary']:.2f} s"
        )
    if found:
        lines += _faithful(found)
    return "\n".join(lines)


def _faithful(found: dict[str, Any]) -> list[str]:
    columns = {"LDS": found["lds"], **{f"top {k} out": of for k, of in found["drop"].items()}}
    shown = {name: of for name, of in columns.items() if of}
    counts = {"LDS": found["lds_summaries"]}
    counts |= {f"top {k} out": count for k, count in found["drop_summaries"].items()}
    if not shown:
        return ["nothing to check: no document has more than one sentence that was read"]
    lines = [
        f"checked on {found['summaries']} summaries: LDS is a rank correlation, the others nats",
        "method".ljust(16) + "".join(f"{name:>16}" for name in shown),
    ]
    for method in METHODS:
        cells = ""
        for of in shown.values():
            value, low, high = (of[method][x] for x in ("value", "low", "high"))
            cells += f"{value:9.2f} ± {(high - low) / 2:4.2f}"
        lines.append(method.replace("_", " ").ljust(16) + cells)
    lines.append("summaries".ljust(16) + "".join(f"{counts[name]:>16}" for name in shown))
    return lines
