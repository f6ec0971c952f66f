"""A generation that is whole: every id has one row, in the order of the input.

generations/FINGERPRINT/merged.jsonl     all rows, proven complete
                        merged.parquet   the same, where it was asked for (table.py)
                        manifest.json    what made them
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.infer.inputs import Inputs
from sumzero.infer.rows import Row, there
from sumzero.runfolder import RunFolder, alone, atomic_file, write_json

SYSTEMS = ("finetuned", "untrained", "lead3", "lead1", "echo")
MERGED, PARQUET, MANIFEST = "merged.jsonl", "merged.parquet", "manifest.json"
LOCK = ".merge.lock"
PATIENCE = 120.0  # seconds, for another process that writes the same
_AGAIN = "run `sumzero generate` again, which makes no row twice"


@dataclass(frozen=True)
class Generation:
    """A finished generation: its folder and manifest."""

    folder: Path
    manifest: dict[str, Any]

    def rows(self) -> list[Row]:
        """The merged rows, in input order."""
        return list(self.each_row())

    def each_row(self) -> Iterator[Row]:
        """The same, one at a time. Raises RunError where one is damaged, or all are missing."""
        file = self.folder / MERGED
        again = f"remove {self.folder / MANIFEST} and {_AGAIN}"
        try:
            lines = file.open("rb")
        except FileNotFoundError:
            raise RunError(f"{file} is missing; {again}") from None
        with lines:
            for number, line in enumerate(lines, 1):
                row = _parsed(line)
                if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                    raise RunError(f"{file}:{number}: is damaged; {again}")
                yield row


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _manifest(file: Path) -> dict[str, Any]:
    """What made a generation. Raises RunError where the file does not say so."""
    manifest = _parsed(file.read_bytes())
    if not isinstance(manifest, dict) or not {"system", "rows", "finished"} <= manifest.keys():
        raise RunError(f"{file} is damaged; remove it and {_AGAIN}")
    return manifest


def found(where: Path) -> Generation | None:
    """The generation of a folder where it is finished; from then on it is its system's newest."""
    file = where / MANIFEST
    if not file.is_file():
        return None
    with alone(where, "sumzero generate", PATIENCE, lock=LOCK):  # two must not write at once
        manifest = _manifest(file)
        manifest["finished"] = time.time()
        write_json(file, manifest)
    return Generation(where, manifest)


def finished_generations(folder: RunFolder) -> dict[str, Generation]:
    """The newest finished generation of each system, of the test records.

    Systems that have a name of their own, as models of others have, stand last.
    """
    newest: dict[str, Generation] = {}
    for file in folder.generations.glob(f"*/{MANIFEST}"):
        generation = Generation(file.parent, _manifest(file))
        if "input_file" in generation.manifest:  # of other records
            continue
        system = generation.manifest["system"]
        before = newest.get(system)
        if not before or generation.manifest["finished"] > before.manifest["finished"]:
            newest[system] = generation
    order = [*reversed(SYSTEMS), *sorted(newest.keys() - set(SYSTEMS))]
    return {system: newest[system] for system in order if system in newest}


def merge(where: Path, inputs: Inputs, facts: dict[str, Any]) -> Generation:
    """Proves that every input has exactly one row, and writes them in its order with a manifest.

    `facts` are what the manifest says besides. Raises RunError where a row is missing, doubled,
    damaged or unknown.
    """
    with alone(where, "sumzero merge", PATIENCE, lock=LOCK):
        rows = there(where, inputs)
        rows.prove(inputs)
        counts = dict.fromkeys(("rows", "errors", "truncated", "stopped_by_length"), 0)
        output_tokens = 0
        (where / PARQUET).unlink(missing_ok=True)  # of rows before these
        with atomic_file(where / MERGED) as out:
            for line, row in rows.in_order(inputs):
                out.write(line)
                counts["rows"] += 1
                counts["errors"] += "error" in row
                counts["truncated"] += bool(row.get("truncated"))
                counts["stopped_by_length"] += row.get("finish_reason") == "length"
                output_tokens += row.get("output_tokens", 0)
        manifest = {
            **facts,
            **counts,
            "rejected": inputs.rejected,  # rows of the input that are no records
            "output_tokens": output_tokens,
            "finished": time.time(),
        }
        write_json(where / MANIFEST, manifest)
    return Generation(where, manifest)
