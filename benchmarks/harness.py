"""What every benchmark shares: arguments, timing, the JSON line, the file of results."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers"  # filled by `make peers`
_PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "datasets", "deepspeed", "sumzero")


def main(
    name: str,
    measure: Callable[[argparse.Namespace, "Results"], None],
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Runs a benchmark from the command line and ends with one JSON line.

    `arguments` adds those that this one takes beside the common ones.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 3 minutes")
    parser.add_argument("--save", action="store_true", help=f"append to results/{name}.jsonl")
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args()
    sys.path.append(str(PEERS))
    results = Results(quick=options.quick)
    measure(options, results)
    line = {"benchmark": name, "device": device(), "quick": options.quick, "results": results.rows}
    if options.save:
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit()}
        versions = {package: _version(package) for package in (*_PACKAGES, *results.peers)}
        file = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**line, **about, "versions": versions}) + "\n")
    print(json.dumps(line))


class Results:
    """Rows of a benchmark, shown as they come."""

    def __init__(self, *, quick: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.peers: list[str] = []
        self._quick = quick

    def add(
        self,
        name: str,
        value: float | None,
        unit: str,
        *,
        peer: str | None = None,
        peer_value: float | None = None,
        ratio: float | None = None,
        goal: str | None = None,
        met: bool | None = None,
    ) -> None:
        """A figure of ours, a peer's beside it; a goal speaks of the full size only."""
        row = {
            "name": name,
            "value": _rounded(value),
            "unit": unit,
            "peer": peer,
            "peer_value": _rounded(peer_value),
            "ratio": _rounded(ratio),
            "goal": goal,
            "met": None if self._quick else met,
        }
        self.rows.append(row)
        shown = ", ".join(f"{key} {x}" for key, x in row.items() if x is not None and key != "name")
        print(f"{name}: {shown}", file=sys.stderr)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def cpu_dtype() -> str:
    """What the CPU is fast at: without instructions for it bfloat16 is 100 times slower."""
    import torch

    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def device() -> str:
    """The machine, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
