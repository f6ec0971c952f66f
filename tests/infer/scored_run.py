"""Scored runs for the tests of the report: a lead baseline, and a model whose answers are given."""

import json
import random

from sumzero.infer.batches import read_batch
from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate, merge_shards
from sumzero.infer.score import score
from sumzero.runfile import check
from sumzero.runfolder import RunFolder, write_json

# What must stay text wherever it stands: markup, ends of scripts, comments, line ends of old
# JavaScript, quotes, and what template engines and format strings look for.
HOSTILE = (
    '</script><script>window.hit = 1</script><img src=x onerror="window.hit = 2"><!-- <script> '
    "\u2028 & &amp; ' \" ` ${7 * 7} {{ 7 * 7 }} {% raw %} %s 🙂 ]]>"
)


def source_rows(count=8):
    """Records of three sentences each; the first of them is hostile throughout."""
    rows = [
        {
            "id": f"r{number}",
            "document": f"Cat {number} sat on 🙂 mats. It was warm there. Dogs ran by {number}.",
            "target": [f"Cat {number} sat."],
        }
        for number in range(1, count)
    ]
    hostile = {
        "id": HOSTILE,
        "document": f"{HOSTILE} Here it ends.",
        "target": [HOSTILE, "It ends."],
    }
    return [hostile, *rows]


def run_settings(folder, name, rows, **more):
    """The settings of a run whose test split is `rows`."""
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"name": name, "runs": str(folder / "runs"), "data": {"test": {"path": str(data)}}}
    return check({**values, **more}, "run.toml")


def answered(folder, config, texts, system="org/a-model"):
    """Takes `texts` by id for the answers of a model of others; those that are None are errors."""
    lines = []
    for id_, text in texts.items():
        reason = "length" if text and text.endswith("…") else "stop"
        choice = {"message": {"content": text}, "finish_reason": reason}
        body = {"choices": [choice]} if text is not None else {"error": {"message": HOSTILE}}
        status = 200 if text is not None else 400
        lines.append({"custom_id": id_, "response": {"status_code": status, "body": body}})
    file = folder / "answered.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    read_batch(config, Remote(system), [file])
    return merge_shards(config, Remote(system))


def scored_run(folder, name="run", *, rows=None, texts=None, system="org/a-model", **more):
    """A run that is scored: its settings. `texts` are by default the documents' first words."""
    rows = source_rows() if rows is None else rows
    config = run_settings(folder, name, rows, **more)
    RunFolder.of(config).begin(config)
    generate(config, "lead1")
    if texts is None:
        texts = {row["id"]: " ".join(row["document"].split()[:6]) for row in rows}
    answered(folder, config, texts, system)
    score(config)
    return config


def trained(config, steps=120, *, ends=True):
    """Writes what a training of the run would have left: events, environment, data report, plan."""
    folder = RunFolder.of(config)
    rng = random.Random(0)
    folder.events.write("start", step=0, steps=steps, ranks=2, packing_difference=1e-7)
    for step in range(1, steps + 1 if ends else steps // 2):
        folder.events.write(
            "step",
            step=step,
            loss=3 / step**0.3 + rng.random() / 10 if step != 7 else float("nan"),
            lr=1e-3 * (1 - step / (steps + 1)),
            gradient_norm=1 + rng.random(),
            tokens_per_second=1000 + 50 * rng.random(),
            seconds_per_step=0.5,
        )
        if step % 40 == 0:
            folder.events.write("evaluation", step=step, loss=3 / step**0.3 + 0.1)
    if ends:
        folder.events.write("end", step=steps, seconds=60.0, tokens_per_second=1010.0)
        folder.events.write("stage", stage="train", seconds=61.5)
    packages = {"torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.19.0"}
    about = {"python": "3.11.7", "platform": "Linux", "device": "cpu", "ranks": 2}
    write_json(folder.environment, about | {"attention": {"plain": "sdpa"}, "packages": packages})
    lengths = {"p5": 10, "p50": 20, "p95": 50, "p99": 60, "max": 64}
    counts = {"read": 70, "kept": 68, "rejected": 2, "rejected_by_reason": {HOSTILE: 2}}
    made = {"examples": 60, "targets": 68, "tokens": 4000, "supervised_tokens": 900}
    split = {**counts, **made, "documents_cut": 5, "document_tokens_cut": 99}
    split["lengths"] = {"document": lengths, "prompt": lengths, "target": lengths}
    split["sources"] = [{**counts, "path": HOSTILE, "documents_cut": 5}] * 2
    plan = {"bins": 30, "steps_per_epoch": 15, "efficiency": 0.98, "tokens": 4000}
    plan |= {"tokens_without_sharing": 5000, "imbalance": {"2 ranks": 0.01}}
    leakage = {"train/test": 1}
    write_json(folder.data_report, {"splits": {"train": split}, "leakage": leakage, "plan": plan})
    write_json(folder.plan, {"bins": 30, "efficiency": 0.98, "steps": steps})
