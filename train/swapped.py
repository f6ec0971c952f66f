"""Checkpoints of optimizer state that lies on NVMe: the same files as of any other ZeRO-3 run.

DeepSpeed 0.19 copies its swap files beside such a checkpoint and reads them back without the
moments, and nothing can be exported from them. Here the swap files are mapped into memory while a
checkpoint is saved or loaded, and DeepSpeed sees ordinary tensors: pages come and go as they are
written, so that memory holds no more than before. What was saved so resumes without NVMe too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.serialization import config as serialization


@contextmanager
def mapped(optimizer: Any) -> Iterator[None]:
    """While open, the state of a ZeRO-3 optimizer that swaps is in place, as tensors over files.

    It may be written to or replaced; it is on NVMe again afterwards. Does nothing to an optimizer
    that does not swap.
    """
    if not getattr(optimizer, "swap_optimizer", False):
        yield
        return
    swapper = optimizer.optimizer_swapper
    swapped = [
        (flat, swapper.swap_params_info[flat.ds_id])
        for flat in optimizer.fp32_partitioned_groups_flat
        if flat.ds_id in swapper.swap_params_info
    ]
    for _, info in swapped:
        for context in info.tensors:
            context.compute_tensor.data = _file(context, info, swapper)
    optimizer.swap_optimizer = False
    # A checkpoint's own tensors are paged in too.
    as_before, serialization.load.mmap = serialization.load.mmap, True
    try:
        yield
    finally:
        serialization.load.mmap = as_before
        optimizer.swap_optimizer = True
        for flat, info in swapped:
            # Loading has put other tensors into the optimizer's state.
            info.tensors, info.has_state_tensors = info.tensors[:1], False
            swapper._update_param_state_info(info, flat)
            for context in info.tensors:
                file = _file(context, info, swapper)
                if context.compute_tensor.data_ptr() != file.data_ptr():
                    file.copy_(context.compute_tensor)
            info.release_memory()


def _file(context: Any, info: Any, swapper: Any) -> torch.Tensor:
    """The values in a swap file, mapped; the file, made where missing, is as long as reads are."""
    length = swapper._io_aligned_numel(info.numel())
    whole = torch.from_file(context.swap_path, shared=True, size=length, dtype=info.dtype())
    return whole[: info.numel()]
