"""Proves that the weights in memory are those in the model's files, wherever ZeRO-3 has put them.

A tensor's checksum is the sum of (2i + 1)^3 bits(i) modulo 2^64, over its elements i in row-major
order and their bit patterns in the model's dtype. Each rank sums its own partition at the elements'
places in the whole, and a share of the slices of the files; one all-reduce of three integers a
tensor puts the sums together. Nothing is gathered, and a slice, or one parameter where transformers
fuses several tensors into it, is all that is held at a time. Cost: one pass over a rank's partition
and its share of the files.

Why cubes of odd numbers. One changed element changes the sum by an odd number times a difference
that is not 0, so not by a multiple of 2^64. Two that change places change it by (x - y) times
(x^2 + xy + y^2) times the difference of their bits: the middle factor is odd, and of twos the first
holds 32 at most (fewer than 2^32 elements), the last 31 (32 bits and fewer). Weights of first
degree would do for these two, but not tell exchanged rows whose bits have equal sums.

Of a parameter in 4 bits the checksum is that of all it is read with, and what the file holds is
quantised in the same way, on the same device, before it is summed: bitsandbytes gives the same bits
for the same values.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sumzero.errors import DataError
from sumzero.train.engine import own_share
from sumzero.train.four_bit import is_quantised, parts, quantised_as
from sumzero.train.weights import sources, weight_files

_SLICE = 1 << 16  # elements: their weights, of 8 bytes, fit a cache
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def attest(
    model: PreTrainedModel,
    path: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Compares a loaded model with the safetensors files of the folder or Hub name it came from.

    `device` is one that the ranks' collectives run on. All ranks call it together, on a model as
    `load_model` gives it, before anything changes its weights or their names. Every parameter and
    stored buffer is looked at. Raises DataError, on all ranks alike, where a parameter is in no
    file or a tensor is not what its file holds.
    """
    rank, world = 0, 1
    if torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    held = model.state_dict(keep_vars=True)  # a tied parameter is there under each of its names
    place = {name: i for i, name in enumerate(held)}
    found, wanted, copies, origin = torch.zeros(4, len(held), dtype=torch.int64)
    for name, tensor in held.items():
        if is_quantised(tensor):
            found[place[name]], copies[place[name]] = _checksum_of_parts(tensor), world
            continue
        part, first, num_sharing = own_share(tensor)
        found[place[name]] = checksum(part, first)
        copies[place[name]] = world // num_sharing
    files = weight_files(path, revision)
    loads = [0] * world
    for source in sources(model, held, files):
        owner = loads.index(min(loads))
        loads[owner] += source.size
        if owner == rank:
            for name, values in source.values(model).items():
                wanted[place[name]] = _wanted(held[name], values)
                origin[place[name]] = 1 + files.index(source.file)
    if world > 1:
        sums = torch.stack([found, wanted, origin]).to(device)
        torch.distributed.all_reduce(sums)
        found, wanted, origin = sums.cpu()
    there = {id(held[name]) for name in held if origin[place[name]]}
    missing = [name for name, parameter in model.named_parameters() if id(parameter) not in there]
    _refuse(path, missing, "in no file of the model")
    different = [
        f"{name} ({files[origin[i] - 1].name})"
        for name, i in place.items()
        if origin[i] and found[i] != wanted[i] * copies[i]
    ]
    _refuse(path, different, "not what the files hold, after loading")


def _refuse(path: str, names: list[str], fault: str) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"{path}: weights are {fault}: {', '.join(names[:3])}{more}")


def checksum(flat: Tensor, first: int = 0) -> Tensor:
    """Of elements first, first + 1, ... of a tensor, given as one dimension; int64 scalar."""
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, flat.numel(), _SLICE):
        part = flat[begin : begin + _SLICE]
        place = torch.arange(
            2 * (first + begin) + 1, 2 * (first + begin + part.numel()), 2, device=flat.device
        )
        bits = part.view(_BITS[part.element_size()])
        total += (place * place).mul_(place).mul_(bits).sum()
    return total


def _wanted(held: Tensor, values: Tensor) -> Tensor:
    if is_quantised(held):
        return _checksum_of_parts(quantised_as(held, values))
    return _checksum_as(held.dtype, values)


def _checksum_of_parts(quantised: Tensor) -> Tensor:
    total, first = torch.zeros((), dtype=torch.int64), 0
    for part in parts(quantised):
        total += checksum(part, first).cpu()
        first += part.numel()
    return total


def _checksum_as(dtype: torch.dtype, values: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.int64)
    for begin in range(0, values.numel(), _SLICE):
        total += checksum(values.view(-1)[begin : begin + _SLICE].to(dtype), begin)
    return total
