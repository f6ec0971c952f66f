"""The report of 1,000 explained records and two systems: seconds, and bytes of the page.

Synthetic documents of 1,200 and of 6,000 characters, scored; attributions.jsonl has all of them, as
`sumzero explain` writes it: weights and alignment of every pair of sentences, and the probability
of every token. Reading, drawing and writing count; scoring does not.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Results, main

LARGEST = 5_000_000
SYSTEM = "lead3"  # its rows stand for those of a model
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def measure(options: argparse.Namespace, results: Results) -> None:
    """Short documents and long ones."""
    records = 100 if options.quick else 1000
    for characters in (1_200, 6_000):
        _report(records, characters, results)


def _report(records: int, characters: int, results: Results) -> None:
    from sumzero.infer.generate import generate
    from sumzero.infer.report import report
    from sumzero.infer.score import score
    from sumzero.runfile import check

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(LETTERS, length)) for length in rng.integers(2, 9, 8000)]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
            for number in range(records):
                document = _document(words, characters, rng)
                row = {"id": f"r{number}", "document": document, "target": document[:150]}
                out.write(json.dumps(row) + "\n")
        values = {"name": "run", "runs": root, "data": {"test": {"path": f"{root}/rows.jsonl"}}}
        config = check(values, "bench_report")
        for system in ("lead1", SYSTEM):
            generate(config, system)
        score(config)
        _explain(folder / "rows.jsonl", folder / "run", rng)
        begun = time.perf_counter()
        page = report(config)
        seconds = time.perf_counter() - begun
        size = page.stat().st_size
        said = page.read_text(encoding="utf-8").split('id="browser-data">')[1]
        shown = json.loads(said.split("</script>")[0])["examples"]
    assert all("sure" in example["outputs"][0] for example in shown)
    name = f"{records} explained records of {characters} characters"
    results.add(name, seconds, "s")
    results.add(f"{name}: page", size, "bytes", goal=f"<= {LARGEST}", met=size <= LARGEST)
    results.add(f"{name}: shown", len(shown), "records")
    whole = sum(example["left_out"] == 0 for example in shown)
    results.add(f"{name}: shown with their whole document", whole, "records")


def _document(words: list[str], characters: int, rng: np.random.Generator) -> str:
    """Sentences of 20 words, up to so many characters."""
    text = ""
    while len(text) < characters:
        text += " ".join(rng.choice(words, 20)).capitalize() + ". "
    return text[:characters].rsplit(" ", 1)[0]


def _explain(rows: Path, run: Path, rng: np.random.Generator) -> None:
    """Writes attributions.jsonl of all rows with random weights."""
    from sumzero.infer.sources import sentence_spans

    texts = {}
    for manifest in (run / "generations").glob("*/manifest.json"):
        about = json.loads(manifest.read_text(encoding="utf-8"))
        if about["system"] == SYSTEM:
            made = manifest.parent
    for line in (made / "merged.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[row["id"]] = row["text"]
    with (run / "attributions.jsonl").open("w", encoding="utf-8") as out:
        head = {"kind": "explanation", "system": SYSTEM, "generation": made.name}
        out.write(json.dumps(head) + "\n")
        for line in rows.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            text = texts[row["id"]]
            document, summary = sentence_spans(row["document"]), sentence_spans(text)
            ends = [*range(4, len(text), 4), len(text)]  # tokens of four characters
            shape = len(summary), len(document)
            told = {
                "id": row["id"],
                "system": SYSTEM,
                "document_sentences": document,
                "summary_sentences": summary,
                "weights": rng.exponential(1, shape).round(5).tolist(),
                "alignment": rng.random(shape).round(5).tolist(),
                "token_spans": list(zip([0, *ends], ends, strict=False)),
                "token_logprobs": (-rng.exponential(1, len(ends))).round(5).tolist(),
            }
            out.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main("bench_report", measure)
