"""Run by test_unequal_ranks.py on two ranks: gradients under ZeRO-3 beside those of one process."""

import json
import os
import sys

import torch
from deepspeed.utils import safe_get_full_grad
from peft import LoraConfig, inject_adapter_in_model

from sumzero.config import Model, Train
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.ranks import ranks
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
        torch.manual_seed(7)
        adapters = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        inject_adapter_in_model(adapters, lm)
    if "frozen" in variant:
        lm.get_output_embeddings().weight.requires_grad_(False)
    if "checkpointed" in variant:
        lm.gradient_checkpointing_enable()
    return SupervisedLM(lm, Backends("sdpa", "sdpa"), **options)


def main(out, zero_file, variants):
    who = ranks()
    start(who)
    errors = {}
    for name, folder in variants.items():
        alone = prepared(folder, name).train()
        for families in (families for rank in WORK for families in rank):
            (alone(make_batch(families, 0)) / COUNT).backward()

        train = Train(deepspeed=zero_file)
        settings = deepspeed_settings(Model(dtype="float32"), train, len(WORK[who.rank]))
        engine = Engine(prepared(folder, name, settings).train(), settings, train)
        for micro_step, families in enumerate(WORK[who.rank]):
            if micro_step:
                engine.step(0.0)
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
