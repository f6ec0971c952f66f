"""`score.nli` and `score.judge`: pairs of a document and a summary in a second.

Models have the shapes of those that people use, and random weights, on which speed does not depend:
DeBERTa-v3-base for nli, Qwen3-0.6B for the judge. Documents are abstracts of papers, with three
summaries each. Tokenizers are trained on them, so a text has not as many tokens as with those
models' own. Models are loaded, and an engine is warm, before the clock runs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from generate_run import SHARED, texts
from harness import Results, cpu_dtype, main

Shape = dict[str, int]
Rows = Sequence[tuple[str, list[str]]]
ROWS, QUICK = 24, 8  # documents
VOCABULARY = 8192
ENCODER = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 128100,
}
QUICK_ENCODER = ENCODER | {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "vocab_size": VOCABULARY,
}
CHAT = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
}
QUICK_CHAT = CHAT | {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 768,
    "vocab_size": VOCABULARY,
}
_LENGTH = 512  # DeBERTa's
_FITS = 1800  # characters of a document that goes into one input


def measure(options: argparse.Namespace, results: Results) -> None:
    """nli, then the judge."""
    quick = options.quick
    rows = _rows(QUICK if quick else ROWS)
    with tempfile.TemporaryDirectory() as name:
        _nli(Path(name) / "nli", QUICK_ENCODER if quick else ENCODER, rows, results)
        _judge(Path(name) / "judge", QUICK_CHAT if quick else CHAT, rows, results)


def _rows(count: int) -> Rows:
    """Documents, each with its summaries; without the papers, made-up words and parts of them."""
    file = SHARED / "scitldr_dev150.jsonl"
    if not file.is_file():
        return [
            (text[:_FITS], [text[at : at + 120] for at in (0, 150, 300)]) for text in texts(count)
        ]
    read = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    fit = [(row["document"], row["references"]) for row in read if len(row["document"]) <= _FITS]
    return [(document, said[:3]) for document, said in fit if len(said) > 2][:count]


def _nli(folder: Path, shape: Shape, rows: Rows, results: Results) -> None:
    """One summary a document, beside transformers' pipeline, pair after pair."""
    from transformers import pipeline

    from sumzero.infer.entailment import Entailment
    from sumzero.sentences import sentences

    _write_encoder(folder, shape, rows)
    pairs = [(document, said[0]) for document, said in rows]
    ours = Entailment(str(folder))
    peer = pipeline("text-classification", str(folder), **_device())

    def one_by_one(documents: Sequence[str], summaries: Sequence[str]) -> None:
        for document, summary in zip(documents, summaries, strict=True):
            for said in sentences(summary):
                peer({"text": document, "text_pair": said}, truncation=True, top_k=None)

    for score in (ours.score, one_by_one):
        _rate(score, pairs[:2])
    rate, by_peer = _rate(ours.score, pairs), _rate(one_by_one, pairs)
    sizes = [len(peer.tokenizer(*pair)["input_ids"]) for pair in pairs]
    results.add("tokens of a document and its summary", float(np.mean(sizes)), "tokens")
    results.add(
        "nli",
        rate,
        "summaries/s",
        peer="transformers' pipeline, one by one",
        peer_value=by_peer,
        ratio=rate / by_peer,
    )


def _judge(folder: Path, shape: Shape, rows: Rows, results: Results) -> None:
    """One summary a document, and three that follow each other, of other documents."""
    from sumzero.infer.judge import Judge
    from sumzero.runfile import check

    dtype = _write_chat(folder, shape, rows)
    values = {
        "name": "run",
        "runs": str(folder / "runs"),
        "generate": {"dtype": dtype, "cpu_kv_cache_gib": 1.0},
        "score": {"judge": str(folder), "judge_max_length": 2 * _LENGTH},
    }
    one, three = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    with Judge(check(values, "run.toml")) as judge:
        judge.score(["A text."], ["A text."])  # the engine starts
        alone = _rate(judge.score, [(text, said[0]) for text, said in one])
        together = _rate(judge.score, [(text, each) for text, said in three for each in said])
    results.add("judge, one summary a document", alone, "summaries/s")
    results.add(
        "judge, three summaries of a document",
        together,
        "summaries/s",
        peer="one",
        peer_value=alone,
        ratio=together / alone,
    )


def _rate(
    score: Callable[[Sequence[str], Sequence[str]], Any], pairs: Sequence[tuple[str, str]]
) -> float:
    """Pairs in a second."""
    documents, summaries = [a for a, _ in pairs], [b for _, b in pairs]
    begun = time.perf_counter()
    score(documents, summaries)
    return len(pairs) / (time.perf_counter() - begun)


def _device() -> dict[str, Any]:
    """Where, and in what type, `Entailment` computes too."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {"device": 0 if on_gpu else -1, "dtype": torch.bfloat16 if on_gpu else torch.float32}


def _write_encoder(folder: Path, shape: Shape, rows: Rows) -> None:
    """A cross-encoder with labels of natural language inference."""
    from tokenizers.processors import TemplateProcessing
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    from sumzero.train.scratch import END_OF_TEXT, END_OF_TURN

    tokenizer = _tokenizer(rows)
    tokenizer.model_max_length = _LENGTH
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TURN}",
        pair=f"{END_OF_TEXT} $A {END_OF_TURN} $B:1 {END_OF_TURN}:1",
        special_tokens=[
            (mark, tokenizer.convert_tokens_to_ids(mark)) for mark in (END_OF_TEXT, END_OF_TURN)
        ],
    )
    labels = ("entailment", "neutral", "contradiction")
    config = DebertaV2Config(
        **shape,
        max_position_embeddings=_LENGTH,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_chat(folder: Path, shape: Shape, rows: Rows) -> str:
    """A chat model; its type."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    dtype = "bfloat16" if torch.cuda.is_available() else cpu_dtype()
    config = Qwen3Config(**shape, max_position_embeddings=4 * _LENGTH, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    _tokenizer(rows).save_pretrained(folder)
    return dtype


def _tokenizer(rows: Rows) -> Any:
    from sumzero.train.scratch import train_tokenizer

    texts = (" ".join([document, *summaries]) for document, summaries in rows)
    return train_tokenizer(texts, VOCABULARY)


if __name__ == "__main__":
    main("bench_faithfulness", measure)
