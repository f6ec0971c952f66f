"""Run on every rank by test_loading_on_ranks.py: loads each folder by ZeRO-3, writes what it saw.

Its argument is a folder: `tiny` holds a model's folder a kind, `large` is one of many experts.
"""

import gc
import json
import sys
from pathlib import Path

import deepspeed
import torch

from sumzero.config import Train
from sumzero.errors import DataError
from sumzero.ranks import ranks
from sumzero.train import engine
from sumzero.train.attest import attest
from sumzero.train.model import load_model


def anonymous_memory():
    """In bytes: of this process, without files mapped into it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def load(folder, settings, dtype):
    with engine.zero3_loading(settings):
        return load_model(str(folder), dtype)


def refusal(model, folder):
    try:
        attest(model, str(folder))
    except DataError as error:
        return str(error)
    return ""


def seen(who, folder, settings):
    """Of one kind, in float32 from float32 files and in bfloat16."""
    model = load(folder, settings, torch.bfloat16)
    report = {"bfloat16": refusal(model, folder)}
    plain = load_model(str(folder), torch.bfloat16)
    buffers = dict(plain.named_buffers())
    report["buffers"] = [
        name
        for name, found in model.named_buffers()
        if found.dtype != buffers[name].dtype or not torch.equal(found, buffers[name])
    ]
    model = load(folder, settings, torch.float32)
    report["split"] = all(hasattr(x, "ds_tensor") for x in model.parameters())
    report["loaded"] = refusal(model, folder)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        plain = load_model(str(folder), torch.float32)
        whole = dict(plain.named_parameters())
        report["different"] = [
            name for name, found in model.named_parameters() if not torch.equal(found, whole[name])
        ]
    name, parameter = list(model.named_parameters())[-2]
    kept = parameter.ds_tensor.clone()
    if who.rank == who.world - 1:
        parameter.ds_tensor[0] += 1
    report["changed"] = [name, refusal(model, folder)]
    parameter.ds_tensor.copy_(kept)
    report["mended"] = refusal(model, folder)
    return report


def in_the_engine(folder, settings, threshold):
    """Where parameters of fewer elements than `threshold` persist on every rank."""
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = threshold
    trainer = engine.Engine(load(folder, settings, torch.float32), settings, Train())
    persist = {x.ds_persist for x in trainer.module.parameters()}
    return {"persist": sorted(persist), "refusal": refusal(trainer.module, folder)}


def most_memory(folder, settings):
    """While loading: the most that is held when a parameter is registered, beyond the start's."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    gc.collect()
    before, most = anonymous_memory(), 0

    def look(*_):
        nonlocal most
        most = max(most, anonymous_memory() - before)

    handle = register_module_parameter_registration_hook(look)
    model = load(folder, settings, torch.bfloat16)
    handle.remove()
    sizes = [x.ds_numel * x.element_size() for x in model.parameters()]
    return {"most": most, "whole": sum(sizes), "largest": max(sizes)}


def main(folder):
    who = ranks()
    engine.start(who)
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }
    report = {path.name: seen(who, path, settings) for path in sorted((folder / "tiny").iterdir())}
    report["memory"] = most_memory(folder / "large", settings)
    report["engine"] = [
        in_the_engine(folder / "tiny" / "qwen3_moe", settings, threshold) for threshold in (0, 100)
    ]
    (folder / f"rank{who.rank}.json").write_text(json.dumps(report), encoding="utf-8")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
