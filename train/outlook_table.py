"""What `sumzero plan` prints: the table of options, the choice and the assumptions; or JSON."""

from typing import Any

from sumzero.config import RunConfig
from sumzero.train.estimate import (
    ACHIEVED,
    GIB,
    HOST_BANDWIDTH,
    LINKS,
    NVME_BANDWIDTH,
    RESERVE,
    Option,
)
from sumzero.train.planner import Outlook

_PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "buffers", "update")
_HEADER = (
    *("preset", "recompute", "GiB", "params", "grads", "optim", "activ", "logits", "buffers"),
    *("update", "host", "GB sent", "s/step", "tokens/s", "longest bin", "fits"),
)


def table(config: RunConfig, found: Outlook) -> str:
    """For people."""
    structure, cluster = found.structure, found.cluster
    head = (
        f"{config.model.path}: {_count(structure.numel)} parameters, "
        f"{_count(structure.trained_numel)} trained, {config.model.dtype}; "
        f"{cluster.world} x {cluster.device.name}, {cluster.local} a node, "
        f"{found.room / GIB:.0f} GiB each\n"
        f"a step: {config.train.bins_per_step} bins of {config.data.max_length} tokens, "
        f"{found.own.tokens:,.0f} tokens; GiB a GPU by part, host GiB a node, GB sent a GPU"
    )
    rows = [list(_HEADER), *(_cells(option, found) for option in found.options)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"{name}: cannot run this recipe: {why}" for name, why in found.refused.items()]
    notes = [f"  - {text}" for text in assumptions(found)]
    return "\n".join([head, "", *lines, "", *verdict(found), "", "assumed:", *notes])


def verdict(found: Outlook) -> list[str]:
    """The choice, and whether the recipe's own fits."""
    own, chosen = found.own, found.chosen
    lines = []
    if found.over(own):
        lines.append(
            f"the recipe's own choice ({_named(own)}) does not fit: "
            f"{found.over(own) / GIB:.1f} GiB over"
        )
    if chosen is None:
        least = min(found.options, key=lambda option: option.memory.total)
        lines.append(
            f"nothing fits; least is over by {_named(least)}: {found.over(least) / GIB:.1f} GiB. "
            "Take more GPUs, a lower data.max_length, LoRA or a smaller model"
        )
    elif chosen is own:
        lines.append(f"recommended: the recipe's own choice ({_named(own)})")
    else:
        changes = {k: v for k, v in chosen.settings.items() if own.settings[k] != v}
        values = " ".join(f"{key}={_toml(value)}" for key, value in changes.items())
        lines.append(f"recommended: {_named(chosen)}; override with {values}")
    return lines


def as_json(config: RunConfig, found: Outlook) -> dict[str, Any]:
    """For programs: bytes, seconds, tokens."""
    structure, cluster = found.structure, found.cluster
    options = [_plain(option, found) for option in found.options]
    return {
        "model": config.model.path,
        "dtype": config.model.dtype,
        "parameters": structure.numel,
        "trained_parameters": structure.trained_numel,
        "device": cluster.device.name,
        "gpus": cluster.world,
        "gpus_per_node": cluster.local,
        "gpu_memory": found.room,
        "max_length": config.data.max_length,
        "bins_per_step": config.train.bins_per_step,
        "options": options,
        "refused": found.refused,
        "recipe": options[found.options.index(found.own)],
        "recommended": (
            None if found.chosen is None else options[found.options.index(found.chosen)]
        ),
        "assumptions": assumptions(found),
    }


def assumptions(found: Outlook) -> list[str]:
    """What the figures rest on."""
    device = found.cluster.device
    return [
        f"{ACHIEVED:.0%} of {device.bfloat16 / 1e12:,.0f} TFLOP/s (bfloat16) or "
        f"{device.float32 / 1e12:,.0f} (float32), {LINKS:.0%} of memory and link rates",
        f"{device.link / 1e9:,.0f} GB/s a GPU within a node, {device.network / 1e9:,.0f} between "
        f"nodes, {device.host / 1e9:,.0f} to the host",
        f"offloaded: {HOST_BANDWIDTH / 1e9:,.0f} GB/s of host memory and "
        f"{NVME_BANDWIDTH / 1e9:,.0f} GB/s of NVMe a node",
        f"{RESERVE / GIB:.0f} GiB a GPU for CUDA, NCCL and fragmentation; flash attention",
        "activations, buffers and times are computed, not measured on a GPU: docs/planner.md",
    ]


def _cells(option: Option, found: Outlook) -> list[str]:
    memory, over = option.memory, found.over(option)
    mark = ", recommended" if option is found.chosen else ""
    own = ", the recipe" if option is found.own else ""
    sent = option.traffic.total.intra + option.traffic.total.inter
    return [
        _preset(option),
        "yes" if option.checkpointing else "no",
        _gib(memory.total),
        *(_gib(getattr(memory, part)) for part in _PARTS),
        _gib(memory.host * found.cluster.local),
        f"{sent / 1e9:.1f}",
        f"{option.seconds:.2f}" if option.seconds >= 0.1 else f"{option.seconds:.2g}",
        f"{option.rate:,.0f}",
        f"{option.longest_bin:,}",
        (f"does not fit: {over / GIB:.1f} GiB over" if over else "fits") + own + mark,
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size else "-"


def _preset(option: Option) -> str:
    shared = option.sequence_parallel
    return f"{option.preset}, k={shared}" if shared > 1 else option.preset


def _named(option: Option) -> str:
    return f"{_preset(option)}, {'with' if option.checkpointing else 'no'} gradient checkpointing"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(option: Option, found: Outlook) -> dict[str, Any]:
    traffic = option.traffic.total
    return {
        "settings": option.settings,
        "micro_steps": option.micro_steps,
        "fits": not found.over(option),
        "bytes_over": found.over(option),
        "memory": {part: getattr(option.memory, part) for part in (*_PARTS, "reserve")}
        | {"total": option.memory.total, "host": option.memory.host, "nvme": option.memory.nvme},
        "bytes_sent": {
            "within_node": round(traffic.intra),
            "between_nodes": round(traffic.inter),
            "host": round(traffic.host),
        },
        "flops": round(option.flops),
        "seconds": option.seconds,
        "tokens_per_second": option.rate,
        "longest_bin": option.longest_bin,
    }
