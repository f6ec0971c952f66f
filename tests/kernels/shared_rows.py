"""Run by test_ulysses.py on three ranks: attention over parts of a row beside that over all of it.

Each case is run by the first ranks of the three, as many as it asks for.
"""

import json
import sys
from dataclasses import replace

import torch
import torch.distributed as dist

from sumzero.errors import ConfigError
from sumzero.kernels.packed_attention import packed_attention
from sumzero.kernels.segments import Backends, Segments

SIZE = 8  # of a head
SDPA = Backends("sdpa", "sdpa")


def _tensors(case, num_tokens, dtype):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(num_tokens, heads, SIZE, generator=generator, dtype=torch.float64).to(dtype)
        for heads in (case["heads"], case["key_heads"], case["key_heads"], case["heads"])
    ]


def _attend(case, tensors, ranks=None):
    """The output and the gradients of q, k and v."""
    segments = Segments.of(case["lengths"], "cpu", SDPA, case["prefix_of"])
    segments = replace(segments, ranks=ranks)
    *inputs, gradient = (x.clone().requires_grad_() for x in tensors)
    out = packed_attention(
        *inputs, segments, scale=0.4, window=case["window"], softcap=case["softcap"]
    )
    return [out, *torch.autograd.grad(out, inputs, gradient)]


def _errors(case, dtype, ranks):
    """Of the output and each gradient, the largest difference over the largest number."""
    num_tokens = sum(case["lengths"])
    tensors = _tensors(case, num_tokens, dtype)
    length = num_tokens // dist.get_world_size(ranks)
    begin = dist.get_rank(ranks) * length
    own = slice(begin, begin + length)
    found = _attend(case, [x[own] for x in tensors], ranks)
    errors = []
    for want, got in zip(_attend(case, tensors), found, strict=True):
        assert got.dtype == dtype
        errors.append(float((got - want[own]).abs().max() / want.abs().max()))
    return errors


def _refused(ranks):
    case = {"heads": 3, "key_heads": 1, "lengths": [4], "prefix_of": None}
    try:
        _attend({**case, "window": None, "softcap": None}, _tensors(case, 2, torch.float32), ranks)
    except ConfigError as error:
        return str(error)
    return ""


def main(cases, out):
    dist.init_process_group("gloo")
    groups = {size: dist.new_group(range(size)) for size in (2, 3)}
    found = {}
    for name, case in cases.items():
        if dist.get_rank() < case["ranks"]:
            for dtype in (torch.float64, torch.bfloat16):
                found[f"{name}, {dtype}"] = _errors(case, dtype, groups[case["ranks"]])
    if dist.get_rank() < 2:
        found["refused"] = _refused(groups[2])
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    if dist.get_rank() == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(everyone, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
