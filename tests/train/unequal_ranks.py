"""Run by test_unequal_ranks.py on two ranks: gradients under ZeRO-3 beside those of one process."""

import json
import os
import sys

import torch
from deepspeed.utils import safe_get_full_grad

from sumzero.config import Lora, Model, Train
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.ranks import ranks
from sumzero.train.adapters import add_adapters, bin_seed
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start, zero3_loading
from sumzero.train.model import load_model
from sumzero.train.supervised import SupervisedLM

LONG = Family([11, 12, 13, 14], (Branch([15], [16, 17, 18]), Branch([19, 20], [19])))
SHORT = Family([21, 22], (Branch([], [23, 24]),))
WORK = [[[LONG, SHORT], [], [SHORT]], [[], [], [LONG]]]  # of each rank, by micro-step
COUNT = 12  # supervised tokens of all


def prepared(folder, variant, settings=None, dtype=torch.float32, **options):
    with zero3_loading(settings or {}):
        lm = load_model(folder, dtype, attention=NAME)
    if "lora" in variant:
        add_adapters(lm, Lora(rank=2, dropout=0.3 if "dropout" in variant else 0.0), seed=7)
        torch.manual_seed(7)
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:  # they begin as zeros, and A would have no gradient
                torch.nn.init.normal_(parameter, std=0.3)
    if "frozen" in variant:
        lm.get_output_embeddings().weight.requires_grad_(False)
    if "checkpointed" in variant:
        lm.gradient_checkpointing_enable()
    return SupervisedLM(lm, Backends("sdpa", "sdpa"), **options)


def seed(rank, micro_step):
    """Of a bin, whose number tells nothing of the rank that has it."""
    return bin_seed(0, 3, 10 * rank + micro_step)


def main(out, zero_file, variants):
    who = ranks()
    start(who)
    errors = {}
    for name, folder in variants.items():
        alone = prepared(folder, name).train()
        for rank, work in enumerate(WORK):
            for micro_step, families in enumerate(work):
                torch.manual_seed(seed(rank, micro_step))
                (alone(make_batch(families, 0)) / COUNT).backward()

        train = Train(deepspeed=zero_file)
        settings = deepspeed_settings(Model(dtype="float32"), train, len(WORK[who.rank]))
        engine = Engine(prepared(folder, name, settings).train(), settings, train)
        for micro_step, families in enumerate(WORK[who.rank]):
            if micro_step:
                engine.step(0.0)
            torch.manual_seed(seed(who.rank, micro_step))
            engine.backward(engine.model(make_batch(families, 0)), COUNT)
        wanted = dict(alone.named_parameters())
        for parameter, x in engine.module.named_parameters():
            if not x.requires_grad:
                assert wanted[parameter].grad is None
                continue
            found, want = safe_get_full_grad(x), wanted[parameter].grad
            error = float((found - want).norm() / want.norm().clamp_min(1e-12))
            errors[f"{name}: {parameter}"] = error
        engine.step(0.0)
    if who.is_main:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(errors, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(os.environ["VARIANTS"]))
