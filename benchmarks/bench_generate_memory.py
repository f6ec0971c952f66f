"""Generation at volume: memory and time of a million rows through the engine without a model.

`sumzero generate --engine echo` reads, deals out, answers, proves and merges; the memory is that of
the whole process, from its start to its end. Private memory leaves out pages of mapped files, which
the system takes back when it needs them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT, Results, main

ROWS = (10_000, 1_000_000)
QUICK = (1000, 20_000)
GOAL = 128  # bytes a row
RUN = """
runs = "{folder}/runs"
data.test.path = "{file}"
"""


def measure(options: argparse.Namespace, results: Results) -> None:
    """Both sizes, and the growth from one to the other."""
    sizes = QUICK if options.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        found = [_generated(Path(name), size) for size in sizes]
    (few_private, few_resident, _), (private, resident, seconds) = found
    for what, value, few in (
        ("private memory", private, few_private),
        ("resident memory", resident, few_resident),
    ):
        results.add(
            f"{what}, {sizes[1]} rows",
            value / 2**20,
            "MiB",
            peer=f"{sizes[0]} rows",
            peer_value=few / 2**20,
            ratio=value / few,
        )
    each = (private - few_private) / (sizes[1] - sizes[0])
    results.add("growth a row", each, "bytes", goal=f"{GOAL} bytes", met=each <= GOAL)
    results.add("reading to merged file", sizes[1] / seconds, "rows/s")


def _generated(folder: Path, rows: int) -> tuple[int, int, float]:
    """Peaks of private and of resident memory in bytes, and seconds, of a generation."""
    import psutil

    file, run_file = folder / f"{rows}.jsonl", folder / f"{rows}.toml"
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            document = f"Line {number} of a text that is small. " * (1 + number * 7919 % 5)
            out.write(json.dumps({"id": f"row-{number}", "document": document}) + "\n")
    run_file.write_text(RUN.format(folder=folder, file=file), encoding="utf-8")
    command = [sys.executable, "-m", "sumzero.cli", "generate", str(run_file), "--engine", "echo"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    watched = psutil.Process(process.pid)
    private = resident = 0
    while True:
        memory = watched.memory_info()
        private = max(private, memory.rss - memory.shared)
        resident = max(resident, memory.rss)
        try:
            code = process.wait(0.05)
            break
        except subprocess.TimeoutExpired:
            continue
    seconds = time.perf_counter() - begun
    assert process.stdout
    said = process.stdout.read()
    process.stdout.close()
    if code or f" {rows} rows, 0 errors" not in said:
        raise SystemExit(f"sumzero generate ended with {code}: {said}")
    return private, resident, seconds


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main("bench_generate_memory", measure)
