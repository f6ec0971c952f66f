"""How ZeRO splits the optimizer's state into shards, as far as a checkpoint depends on it."""

from typing import Any

UNIVERSAL = "universal"  # the folder of a converted checkpoint, beside the others
_DEFAULTS = {
    "sub_group_size": 1_000_000_000,
    "round_robin_gradients": False,
    "parameter_alignment": False,
    "mics_shard_size": -1,
}


def zero_stage(settings: dict[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed configuration."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def shard_layout(settings: dict[str, Any], world: int) -> dict[str, Any]:
    """What decides, in one ZeRO stage, how the state is split: shards fit where it is the same."""
    zero = settings.get("zero_optimization", {})
    on_nvme = (zero.get("offload_optimizer") or {}).get("device") == "nvme"
    return {
        "ranks": world,
        "optimizer": "NVMe" if on_nvme else "memory",
        **{key: zero.get(key, default) for key, default in _DEFAULTS.items()},
    }


def load_universal(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with which DeepSpeed loads a converted checkpoint."""
    return settings | {"checkpoint": {"load_universal": True}}
