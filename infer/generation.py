"""A generation that is whole: every id has one row, in the order of the input.

generations/FINGERPRINT/merged.jsonl    all rows, proven complete
                        manifest.json   what made them
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.infer.shards import Row, there
from sumzero.runfolder import RunFolder, alone, read_json, read_jsonl, write_json, write_jsonl

SYSTEMS = ("finetuned", "untrained", "lead1")
_PATIENCE = 120.0  # seconds, for another process that merges the same


@dataclass(frozen=True)
class Generation:
    """A finished generation: its folder and manifest."""

    folder: Path
    manifest: dict[str, Any]

    def rows(self) -> list[Row]:
        """The merged rows, in input order."""
        return read_jsonl(self.folder / "merged.jsonl")


def found(where: Path) -> Generation | None:
    """The generation of a folder where it is finished; from then on it is its system's newest."""
    file = where / "manifest.json"
    if not file.is_file():
        return None
    manifest = read_json(file, "sumzero generate")
    manifest["finished"] = time.time()
    write_json(file, manifest)
    return Generation(where, manifest)


def finished_generations(folder: RunFolder) -> dict[str, Generation]:
    """The newest finished generation of each system."""
    newest: dict[str, Generation] = {}
    for file in folder.generations.glob("*/manifest.json"):
        generation = Generation(file.parent, read_json(file, "sumzero generate"))
        system = generation.manifest["system"]
        before = newest.get(system)
        if not before or generation.manifest["finished"] > before.manifest["finished"]:
            newest[system] = generation
    return {system: newest[system] for system in reversed(SYSTEMS) if system in newest}


def merge(where: Path, ids: Sequence[str], facts: dict[str, Any]) -> Generation:
    """Proves that every id has exactly one row, and writes them in input order with a manifest.

    `facts` are what the manifest says besides. Raises RunError where a row is missing, doubled,
    damaged or unknown.
    """
    with alone(where, "sumzero merge", _PATIENCE, lock=".merge.lock"):
        rows = there(where)
        missing, unknown = set(ids) - rows.keys(), rows.keys() - set(ids)
        if missing or unknown:
            raise RunError(
                f"{where}: {len(missing)} inputs have no row, {len(unknown)} rows have no input, "
                f"{min(missing or unknown)!r} first"
            )
        merged = [rows[id_] for id_ in ids]
        write_jsonl(where / "merged.jsonl", merged)
        manifest = {
            **facts,
            "rows": len(merged),
            "errors": sum("error" in row for row in merged),
            "truncated": sum(bool(row.get("truncated")) for row in merged),
            "stopped_by_length": sum(row.get("finish_reason") == "length" for row in merged),
            "output_tokens": sum(row.get("output_tokens", 0) for row in merged),
            "finished": time.time(),
        }
        write_json(where / "manifest.json", manifest)
    return Generation(where, manifest)
