"""Keeps freed memory in the process, where training runs on CPU.

By default glibc gives large blocks back to the system when they are freed, and every page of the
next one is a fault. A layer's activations are such blocks, made and freed in each operation:
docs/kernels.md has what their faults cost. Where the C library is another one, nothing changes.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """No large block of its own from the system, and nothing given back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
