"""Low-rank adapters as vLLM takes them: room for them in an engine, and proof that it has them.

Requests of one batch may run with different adapters, and others with none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.runfolder import read_json

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has room for


def lora_arguments(adapters: Sequence[Path], *, on_cpu: bool) -> dict[str, Any]:
    """vLLM's engine arguments for adapter folders that are all to be in memory at once.

    Raises RunError where one has a rank that vLLM does not take.
    """
    if not adapters:
        return {}
    ranks = [
        read_json(x / "adapter_config.json", "sumzero export --adapter")["r"] for x in adapters
    ]
    room = next((size for size in _RANKS if size >= max(ranks)), None)
    if room is None:
        raise RunError(f"adapters of rank {max(ranks)}: vLLM takes ranks up to {_RANKS[-1]}")
    # On CPUs vLLM 0.32 takes the last place for requests without adapters that are beside some
    # with them (its pull request 48421): that one stays empty, which is zero.
    places = len(adapters) + on_cpu
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": places}


def lora_requests(adapters: Sequence[Path]) -> dict[Path | None, Any]:
    """What vLLM is told with a request, by the folder that it runs with; None is the base alone."""
    told: dict[Path | None, Any] = {None: None}
    if adapters:
        from vllm.lora.request import LoRARequest

        for number, adapter in enumerate(adapters, start=1):
            told[adapter] = LoRARequest(f"adapter-{number}", number, str(adapter))
    return told


def check_effect(adapters: Sequence[Path], found: Sequence[dict[int, float]]) -> None:
    """Raises RunError where a folder changes nothing: vLLM may leave out names it does not know.

    `found` are log-probabilities after one prompt, of the base and then with each folder.
    """
    base, *others = found
    for adapter, its in zip(adapters, others, strict=True):
        if its == base:
            raise RunError(
                f"{adapter}: the adapters change nothing: vLLM's output is that of the base alone"
            )
