"""A run whose summaries are to be explained: an export of random weights, and texts of no model."""

import json

from transformers import GenerationConfig

from sumzero.infer.answering import answers
from sumzero.infer.generate import merged
from sumzero.infer.job import open_job
from sumzero.infer.shards import Shard, append
from sumzero.runfile import load

from .model_run import Reader
from .served_run import promised
from .sure_model import write_model

SENTENCES = (
    "The cat sat on the mat.",
    "It was warm!",
    "A model reads the document once.",
    "Čeští přátelé pijí naïve café.",
    "这是一个用于检查的句子。",
    "It writes a short summary <|end|> of the text.",
    "The price rose by 50 % in 2021.",
    "def get_name(self, index): the name of the index.",
)
ROWS = [
    {"id": f"row-{i}", "document": " ".join(SENTENCES[(i + j) % 8] for j in range(1 + i % 8))}
    for i in range(12)
]
ROWS.append({"id": "long", "document": " ".join(SENTENCES[:4]) * 12})


def write_run_file(root, tokenizer):
    """The run file, of a run with records and an export."""
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = root / "run.toml"
    file.write_text(f"""
        runs = "{root}/runs"
        [data.test]
        path = "{root}/test.jsonl"
        [generate]
        max_new_tokens = 30
        max_in_flight = 16
        dtype = "float32"
        long = "truncate"
        cpu_kv_cache_gib = 0.1
        [explain]
        ablations = 16
        checked = 3
        held_out = 8
        batched_tokens = 64
    """)
    export = root / "runs" / "run" / "export"
    renderer, _ = promised(export, tokenizer)
    write_model(export, tokenizer)
    GenerationConfig(eos_token_id=renderer.stop_ids).save_pretrained(export)
    return file


def generated(run_file, tokenizer):
    """Summaries that the export has not written; how likely they are is what counts."""
    job = open_job(load(run_file), "finetuned", None)
    reader = Reader(tokenizer, lambda prompt: f"{prompt[20:45]}. It was warm. 很短。")
    records = iter(job.inputs)
    job.where.mkdir(parents=True)
    append(Shard(0, 1).file(job.where), answers(reader, records, job.config, job.model, None))
    return merged(job)
