"""`sumzero demo`: the whole way on real data and this machine, with the numbers it gave.

Docstrings of installed code (or the user's own records) are split, a small model is made and
trained, and its summaries are scored beside the untrained model's and the lead baseline's.
"""

import hashlib
import os
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sumzero.config import RunConfig, Source
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.harvest import harvest
from sumzero.infer.generation import finished_generations
from sumzero.infer.score_table import table
from sumzero.log import progress
from sumzero.pipeline import Stages, require_packages, run
from sumzero.readers import files
from sumzero.records import Record, read_all
from sumzero.runfile import check, override
from sumzero.runfolder import RunFolder, read_json, read_jsonl, write_jsonl
from sumzero.sentences import first_sentence

COUNTS = {"train": 20000, "test": 200}
_HELD_OUT = 0.1  # share of a user's own documents that is generated for
_MAX_HELD_OUT = 200
RECIPE = Path(__file__).parent / "recipes" / "demo.toml"


def demo(data: str | None, overrides: Sequence[str]) -> int:
    """Runs the demo, prints the scores, times and verdict. Returns 0, or 1 if a baseline won."""
    require_packages()
    config = settings(data, overrides)
    folder = RunFolder.of(config)
    records = folder.root / "records"
    if data is not None:
        files(replace(config.data.train[0], path=str(data)))  # raises before anything is emptied
    if data is not None and Path(data).resolve().is_relative_to(folder.root.resolve()):
        raise DataError(f"{data}: lies in {folder.root}, which a demo empties; move it elsewhere")
    if folder.root.is_dir():
        if not records.is_dir():
            raise RunError(f"{folder.root} is there and no demo's; choose another with name=NAME")
        shutil.rmtree(folder.root)  # a demo begins anew: its times are the point
    records.mkdir(parents=True)

    def gather(stages: Stages) -> None:
        if data is None:
            with stages("harvest"):
                write_harvest(records, COUNTS)
        else:
            with stages("split"):
                split_records(config, data, records)

    placed = with_paths(config, records)
    scores, stages = run(placed, before=gather)
    print(summary(folder, scores, stages))
    return 0 if verdict(scores)[0] else 1


def settings(data: str | None, overrides: Sequence[str]) -> RunConfig:
    """The demo's settings with overrides; columns of the user's data go to `data.train`."""
    values = {"name": RECIPE.stem, **tomllib.loads(RECIPE.read_text(encoding="utf-8"))}
    if data is not None:
        values["data"]["train"] = {"path": data}
        del values["data"]["max_prompt"]  # a function's head tells what it does; a text's does not
    for text in overrides:
        override(values, text)
    config = check(values, "demo")
    if len(config.data.train) != 1:
        raise ConfigError("demo: data.train: the demo takes one source; set its columns only")
    return config


def write_harvest(records: Path, counts: dict[str, int]) -> None:
    """Harvests docstrings into `train.jsonl` and `test.jsonl`."""
    rows: dict[str, list[dict[str, str]]] = {split: [] for split in counts}
    with progress(iter(()), "harvesting docstrings", total=sum(counts.values()), unit="") as bar:
        for split, docstring in harvest(counts, processes=len(os.sched_getaffinity(0))):
            rows[split].append(docstring.row())
            bar.update(1)
    if not all(rows.values()):
        raise DataError("no docstrings found in the installed packages; use --data FILE")
    for split, of_split in rows.items():
        write_jsonl(records / f"{split}.jsonl", of_split)


def split_records(config: RunConfig, data: str, records: Path) -> None:
    """Splits a user's records by hash of the document: the same text is never in both splits."""
    found, rejects = read_all([replace(config.data.train[0], path=str(data))], need_targets=True)
    held_out: list[Record] = []
    train: list[Record] = []
    limit = min(_MAX_HELD_OUT, max(1, round(_HELD_OUT * len(found))))
    by_hash = sorted(found, key=lambda record: hashlib.sha256(record.document.encode()).digest())
    boundary = by_hash[limit - 1].document
    for index, record in enumerate(by_hash):
        (held_out if index < limit or record.document == boundary else train).append(record)
    if not train:
        raise DataError(f"{data}: {len(found)} records are too few to split; give at least 20")
    for split, of_split in (("train", train), ("test", held_out)):
        write_jsonl(records / f"{split}.jsonl", [_row(record) for record in of_split])
    write_jsonl(records / "rejected.jsonl", map(asdict, rejects))


def verdict(scores: dict[str, Any]) -> tuple[bool, str]:
    """Whether the fine-tuned model's ROUGE-L is above both others', and a sentence that says so."""
    value = {name: found["metrics"]["rougeL"]["value"] for name, found in scores["systems"].items()}
    won = value["finetuned"] > max(value["untrained"], value["lead1"])
    return won, (
        f"The fine-tuned model's ROUGE-L, {value['finetuned']:.2f}, is "
        f"{'above' if won else 'NOT above'} the untrained model's, {value['untrained']:.2f}, and "
        f"the lead baseline's, {value['lead1']:.2f}."
    )


def summary(folder: RunFolder, scores: dict[str, Any], stages: Stages) -> str:
    """What the demo prints at its end."""
    events = read_jsonl(folder.root / "events.jsonl")
    made = finished_generations(folder)["finetuned"].manifest
    plan = read_json(folder.plan, "sumzero demo")
    end = next(event for event in reversed(events) if event["event"] == "end")
    losses = [event["loss"] for event in events if event["event"] == "step"]
    training = [f"{plan['steps']} steps"]
    if "tokens_per_second" in end:  # not where it was killed between its last step and its end
        training.insert(0, f"{end['tokens_per_second']:,.0f} tokens/s")
    if losses:
        training.append(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    rate = made["rows"] / max(made["seconds_generate"], 1e-9)
    times = "\n".join(f"  {name:<20}{seconds:7.1f} s" for name, seconds in stages.seconds.items())
    return "\n".join(
        [
            "",
            table(scores),
            "",
            f"training    {', '.join(training)}",
            f"generation  {rate:,.1f} summaries/s ({made['output_tokens']} tokens), "
            f"engine start {made['seconds_start']:.1f} s",
            times,
            f"  {'all':<20}{sum(stages.seconds.values()):7.1f} s",
            "",
            verdict(scores)[1],
            f"report: {folder.report}",
        ]
    )


def with_paths(config: RunConfig, records: Path) -> RunConfig:
    """The settings with the files of `_row` in place of the user's own; the task stays the same."""
    (given,) = config.data.train
    written = Source(
        path="",
        task=given.task,
        language=given.language,
        target_language=given.target_language,
        instructions=given.instructions,
        instruction="instruction" if given.instruction else None,
        language_column="language" if given.language_column else None,
        lead="lead",
    )
    train, test = (
        replace(written, path=str(records / f"{split}.jsonl")) for split in ("train", "test")
    )
    return replace(config, data=replace(config.data, train=(train,), test=(test,)))


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "document": record.document,
        "instruction": record.instruction,
        "target": list(record.targets),
        "language": record.language,
        "lead": record.lead or first_sentence(record.document),
    }
