"""A document read once: tokens fed and time of forward and backward, beside a copy a target.

Both ways go through the real preparation, plan and packed batches; the losses must be equal. The
bound is what sharing could give were there no limit on a bin.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness import ROOT, Results, main

SHARED = ROOT.parent / "shared" / "data"
# File, settings of its source, limit of a bin, documents that are timed; the bound by characters.
SETS: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "xquad_en250": (
        {
            "task": "answer",
            "document": "context",
            "instruction": "question",
            "targets": "answers.text",
        },
        2048,
        130,
        "1.6 to 1.8",
    ),
    "squality_long8": ({"instruction": "query", "targets": "references"}, 16384, 2, "3.2"),
    "scitldr_dev150": ({"targets": "references"}, 2048, 150, "about 2"),
}
SYNTHETIC = (1200, 8, 80, 8192)  # tokens of a document, branches, tokens of each, limit
SHAPE = {"hidden_size": 256, "num_layers": 4, "intermediate_size": 768}


def measure(options: argparse.Namespace, results: Results) -> None:
    """All sets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, branches, length, limit = SYNTHETIC
        families = 4 if options.quick else 12
        file = folder / "synthetic.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for row in _families(families, documents, branches, length):
                out.write(json.dumps(row) + "\n")
        _set(folder, "synthetic", file, {}, limit, families, results, "5.6 in tokens", 5.0)
        for set_, (source, limit, timed, bound) in SETS.items():
            file = SHARED / f"{set_}.jsonl"
            if not file.is_file():
                results.add(f"{set_}: tokens", None, f"times; {file.name} is not there")
                continue
            timed = min(timed, 1 if limit > 8192 else 20) if options.quick else timed
            _set(folder, set_, file, source, limit, timed, results, f"{bound} by characters")


def _families(count: int, document: int, branches: int, length: int) -> Iterator[dict[str, Any]]:
    """Rows whose texts have about as many tokens as asked for: a word of the list is a token."""
    choose = random.Random(0)
    words = [f"{a}{b}" for a in "bcdfghjklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    for index in range(count):
        text = " ".join(choose.choices(words, k=document))
        targets = [" ".join(choose.choices(words, k=length - 1)) for _ in range(branches)]
        yield {"id": index, "document": text, "target": targets}


def _set(
    folder: Path,
    name: str,
    file: Path,
    source: dict[str, Any],
    limit: int,
    timed: int,
    results: Results,
    bound_said: str,
    least: float | None = None,
) -> None:
    """One set; `timed` documents are trained on, `least` is the goal for tokens and time."""
    import torch

    from sumzero.config import Scratch
    from sumzero.kernels.segments import Backends
    from sumzero.pipeline import prepare
    from sumzero.runfile import check
    from sumzero.runfolder import RunFolder
    from sumzero.train.epoch import lay_out
    from sumzero.train.model import load_model
    from sumzero.train.store import TokenStore
    from sumzero.train.supervised import SupervisedLM

    values = {
        "name": name,
        "runs": str(folder / "runs"),
        "model": {
            "path": "scratch",
            "scratch": {**vars(Scratch()), **SHAPE, "vocab_size": 8192},
        },
        "data": {"train": {"path": str(file), **source}, "max_length": limit},
    }
    config = check(values, name)
    prepare(config, processes=1)
    run = RunFolder.of(config)
    store = TokenStore(run.data / "train.arrow")
    tokens, bound_tokens = {}, {}
    for share in (True, False):
        tokens[share], bound_tokens[share] = (
            int(
                lay_out(
                    *(store,),
                    weights=[1.0],
                    limit=most,
                    share=share,
                    by_target=False,
                    seed=0,
                    epoch=0,
                ).pieces.tokens.sum()
            )
            for most in (limit, 10**9)
        )
    factor, bound = tokens[False] / tokens[True], bound_tokens[False] / bound_tokens[True]
    results.add(
        f"{name}: tokens",
        factor,
        "times fewer",
        peer=f"bound by tokens ({bound_said})",
        peer_value=bound,
        ratio=factor / bound,
        goal="0.95 of the bound" + (f", and {least:g}" if least else ""),
        met=factor >= 0.95 * bound and factor >= (least or 0),
    )
    torch.manual_seed(0)
    lm = load_model(str(run.scratch_model), torch.float32)
    model = SupervisedLM(lm, Backends("sdpa", "sdpa"))
    seconds, losses = {}, {}
    for share in (True, False, True, False):  # the first two warm up
        seconds[share], losses[share] = _train(model, store, limit, share=share, documents=timed)
    results.add(
        f"{name}: forward and backward, {timed} documents",
        seconds[True],
        "s",
        peer="a copy a target",
        peer_value=seconds[False],
        ratio=seconds[False] / seconds[True],
        goal=f"{least:g} times" if least else None,
        met=seconds[False] / seconds[True] >= least if least else None,
    )
    results.add(
        f"{name}: loss",
        losses[True],
        "nats a token",
        peer="a copy a target",
        peer_value=losses[False],
        ratio=losses[True] / losses[False],
        goal="equal to 1e-5",
        met=abs(losses[True] / losses[False] - 1) < 1e-5,
    )


def _train(
    model: Any, store: Any, limit: int, *, share: bool, documents: int
) -> tuple[float, float]:
    """Seconds and loss of all packed batches of the first documents."""
    import numpy as np

    from sumzero.train.batches import family, make_batch
    from sumzero.train.epoch import lay_out
    from sumzero.train.packing import pack

    layout = lay_out(
        store, weights=[1.0], limit=limit, share=share, by_target=False, seed=0, epoch=0
    )
    pieces = np.flatnonzero(layout.example < documents)
    order, starts = pack(layout.pieces.tokens[pieces], limit, np.random.default_rng(0))
    bins = [
        make_batch([family(store, layout, piece) for piece in pieces[order[begin:end]]], 0)
        for begin, end in pairwise(starts)
    ]
    model.zero_grad()
    total, count = 0.0, 0
    begun = time.perf_counter()
    for batch in bins:
        loss = model(batch)
        loss.backward()
        total += float(loss.detach())
        count += len(batch.labels)
    return time.perf_counter() - begun, total / count


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    main("bench_shared_documents", measure)
