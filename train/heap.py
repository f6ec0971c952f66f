"""Keeps freed memory in the process, where training runs on CPU.

By default glibc gives large blocks back to the system when they are freed, and every page of the
next one is a fault. A layer's activations are such blocks, made and freed in each operation:
docs/kernels.md has what their faults cost. Where the C library is another one, nothing changes.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """No large block of its own from the system, nothing given back; whether glibc took it on."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    never = -1
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, never))
