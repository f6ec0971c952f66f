"""Run on several ranks: a few steps of training, a checkpoint, and the weights that are live then.

    trained_on_ranks.py CASES    CASES: JSON, a list of {out, model, stage, dtype, lora}

It leaves OUT/step-000002, as a run saves it, and OUT/live.safetensors: every trainable
parameter whole, in float32, by its name in the model.
"""

import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file

from sumzero.config import Lora, Model, Train
from sumzero.kernels.segments import Backends
from sumzero.ranks import ranks
from sumzero.train.adapters import add_adapters, bin_seed
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start, zero3_loading
from sumzero.train.four_bit import quantization
from sumzero.train.model import load_model
from sumzero.train.saver import Saver
from sumzero.train.supervised import PREFIX, SupervisedLM

LONG = Family([11, 12, 13, 14], (Branch([15], [16, 17, 18]), Branch([19, 20], [19])))
SHORT = Family([21, 22], (Branch([], [23, 24]),))


def train(case, who):
    out, dtype = Path(case["out"]), getattr(torch, case["dtype"])
    zero = {"stage": case["stage"], "stage3_param_persistence_threshold": 0}
    file = out / "zero.json"
    if who.is_main:
        out.mkdir(parents=True)
        file.write_text(json.dumps({"zero_optimization": zero}))
    torch.distributed.barrier()
    lora = Lora(**case["lora"]) if case["lora"] else None
    settings = Train(deepspeed=str(file), lora=lora)
    zero = deepspeed_settings(Model(dtype=case["dtype"]), settings, 1)
    with zero3_loading(zero):
        lm = load_model(case["model"], dtype, quantization=quantization(lora, zero, dtype))
    if lora:
        add_adapters(lm, lora, 5)
    model = SupervisedLM(lm, Backends("sdpa", "sdpa")).train()
    engine = Engine(model, zero, settings)
    for step in range(2):
        torch.manual_seed(bin_seed(0, step, who.rank))
        families = [LONG, SHORT] if who.rank == 0 else [SHORT]
        engine.backward(engine.model(make_batch(families, 0)), 9)
        engine.step(0.05)
    Saver(engine, out, who, settings).save(2, {})
    live = {
        name.removeprefix(PREFIX): whole(parameter)
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }
    if who.is_main:
        save_file(live, out / "live.safetensors")
    torch.distributed.barrier()


def whole(parameter):
    found = safe_get_full_fp32_param(parameter)
    return (parameter.detach().float() if found is None else found).clone()


if __name__ == "__main__":
    start(ranks())
    for one in json.loads(sys.argv[1]):
        train(one, ranks())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
