"""Writes a Hugging Face model folder's safetensors files, a shard at a time."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from sumzero.runfolder import write_json

LIMIT = 5 * 10**9  # bytes of a shard, as save_pretrained's "5GB"


class ShardWriter:
    """Collects tensors up to `limit` bytes, then writes them as a file and forgets them.

    One file is called model.safetensors; several model-00001-of-0000N.safetensors with an index.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._waiting: dict[str, Tensor] = {}
        self._size = 0
        self._shards: list[list[str]] = []
        self.total_size = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor; writes those before it where it would pass the limit."""
        size = tensor.numel() * tensor.element_size()
        if self._waiting and self._size + size > self._limit:
            self._write()
        self._waiting[name] = tensor.contiguous()
        self._size += size
        self.total_size += size

    def close(self, total_parameters: int) -> None:
        """Writes what is left, gives the files their names, and writes the index."""
        if self._waiting:
            self._write()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, 1):
            file = SAFE_WEIGHTS_NAME
            if count > 1:
                file = file.replace(".", f"-{number:05d}-of-{count:05d}.")
            self._unnamed(number).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        if count > 1:
            write_json(
                self._folder / SAFE_WEIGHTS_INDEX_NAME,
                {
                    "metadata": {
                        "total_parameters": total_parameters,
                        "total_size": self.total_size,
                    },
                    "weight_map": dict(sorted(weight_map.items())),
                },
            )

    def _write(self) -> None:
        self._shards.append(list(self._waiting))
        write_safetensors(self._unnamed(len(self._shards)), self._waiting)
        self._waiting, self._size = {}, 0

    def _unnamed(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}.partial"


def write_safetensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file that is on the disk when this returns."""
    save_file(tensors, file, metadata={"format": "pt"})
    with file.open("rb") as written:
        os.fsync(written.fileno())


def as_bytes(tensor: Tensor) -> memoryview:
    """A contiguous CPU tensor's memory, to be read."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
