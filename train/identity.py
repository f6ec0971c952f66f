"""What must be the same for a checkpoint to be continued, and what may change.

    may change                                  why
    number of ranks, train.sequence_parallel    steps are defined on the global batch (docs/data.md)
    train.deepspeed, of the same ZeRO stage     where the same state lies
    train.gradient_checkpointing,               the same numbers, up to rounding, in other time
    model.attention                             and memory
    save_*, keep_*, log_every, eval_every,      when it is saved, looked at, shown and stopped
    early_stop, max_minutes, stall_minutes,
    max_skipped, spike, wandb, peak_tflops      (all of [train])

All else of [model] and [train] may not, nor the prepared data, the plan (which follows from data,
seed and settings), the seed, and the ZeRO stage, which DeepSpeed's checkpoints cannot switch.
"""

from pathlib import Path
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.runfile import as_dict

_MAY_CHANGE = {
    "model.attention",
    *(
        f"train.{key}"
        for key in (
            "deepspeed",
            "early_stop",
            "eval_every",
            "gradient_checkpointing",
            "keep_every",
            "keep_last",
            "log_every",
            "max_minutes",
            "max_skipped",
            "peak_tflops",
            "save_async",
            "save_every",
            "save_minutes",
            "sequence_parallel",
            "spike",
            "stall_minutes",
            "wandb",
        )
    ),
}


def identity(config: RunConfig, data: str, plan: str, stage: int) -> dict[str, Any]:
    """What a checkpoint says of its run; `data` and `plan` are digests, `stage` is ZeRO's.

    It holds all settings of [model] and [train], also those that may change.
    """
    settings = as_dict(config)
    return {
        "data": data,
        "plan": plan,
        "seed": config.seed,
        "zero_stage": stage,
        "model": settings["model"],
        "train": settings["train"],
    }


def check_resumable(state: dict[str, Any], expected: dict[str, Any], where: Path) -> None:
    """Raises RunError with every setting of `expected` that is another in a checkpoint's state."""
    changed = [
        f"{key} ({_shown(before)} -> {_shown(now)})"
        for key, before, now in _differences(state, expected)
        if key not in _MAY_CHANGE
    ]
    if changed:
        raise RunError(
            f"{where}: cannot be used: {', '.join(changed)} changed since; set back what you "
            "changed, or give the run another name to train from the start"
        )


def _differences(
    state: dict[str, Any], expected: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """(key path, value in the checkpoint, value now) of what differs; None where it is not set."""
    found = []
    for key in {**expected, **(state if prefix else {})}:
        before, now = state.get(key), expected.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append((prefix + key, before, now))
    return found


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
