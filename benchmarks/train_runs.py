"""Runs of systems on the same weights and records, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from train_shapes import Shape
from train_workloads import Workload, workload

_PROGRAM = Path(__file__).with_name("train_systems.py")
_TIMED = {"cpu": 3, "cuda": 10}  # steps, unless a job says otherwise
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}


class Runs:
    """While open, the random weights of a shape lie in a folder for all."""

    def __init__(self, shape: Shape, device: str, row_tokens: int) -> None:
        self._shape, self._device, self._row_tokens = shape, device, row_tokens
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> "Runs":
        self._start({"system": "weights"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def run(
        self, work: str, *, recompute: bool = False, keep_memory: bool = False, **job: Any
    ) -> dict[str, Any]:
        """What train_systems.py prints of a job; `error` alone where memory did not suffice.

        `keep_memory` has glibc keep freed memory, as SumZero does by itself on the CPU.
        """
        job = {"timed": _TIMED[self._device], **job, "workload": work, "recompute": recompute}
        lines = self._start(job, _KEEP_MEMORY if keep_memory else {})
        found: dict[str, Any] = json.loads(lines[-1])
        print(f"  {job}: {found.get('seconds', found.get('error'))}", file=sys.stderr)
        return found

    def records(self, work: str) -> Workload:
        """The records of a step."""
        return self._records[work]

    def token_ratio(self, work: str) -> float:
        """Tokens of the separate sequences, to those laid out with each document once."""
        return self.records(work).tokens / self.records(work).laid_out

    @cached_property
    def _records(self) -> dict[str, Workload]:
        names = ("single-target", "5-target")
        return {name: workload(name, self._row_tokens, self._shape.vocab) for name in names}

    def _start(self, job: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
        job = {
            **job,
            **{"model": self._folder.name, "device": self._device, "shape": asdict(self._shape)},
            **{"row_tokens": self._row_tokens, "vocab": self._shape.vocab},
        }
        if self._device == "cpu":
            job["threads"] = len(os.sched_getaffinity(0))
        done = subprocess.run(
            [sys.executable, _PROGRAM, json.dumps(job)],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{job['system']} failed:\n{done.stderr[-3000:]}")
        return done.stdout.splitlines()
