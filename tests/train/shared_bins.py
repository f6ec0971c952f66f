"""Run by test_sequence_parallel.py: gradients of ranks that share bins beside those of one process.

Two ranks are one group of 2; four are two groups of 2, of which one has an empty bin where the
other has none, or one of 4.
"""

import json
import os
import sys

import torch
from deepspeed.utils import safe_get_full_grad
from unequal_ranks import COUNT, LONG, SHORT, prepared

from sumzero.config import Model, Train
from sumzero.errors import DataError
from sumzero.kernels import ulysses
from sumzero.ranks import ranks
from sumzero.train.batches import make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start
from sumzero.train.proof import prove_packing
from sumzero.train.sequence_parallel import SequenceGroup

# By number of groups, group and micro-step. Rows of 12, 1, 3 and 9 tokens: most must be padded.
WORK = {
    1: [[[LONG, SHORT], [], [SHORT], [LONG]]],
    2: [[[LONG, SHORT], [], [SHORT]], [[], [], [LONG]]],
}


def compare(name, folder, zero_file, groups, group):
    """How far the ranks are from one process, relatively, by "name: parameter" and "name: loss"."""
    all_bins = [families for work in WORK[groups] for families in work]
    alone = prepared(folder, name).train()
    wanted_loss = 0.0
    for families in all_bins:
        loss = alone(make_batch(families, 0)) / COUNT
        loss.backward()
        wanted_loss += loss.item()

    work = WORK[groups][torch.distributed.get_rank() // group.size]
    train = Train(deepspeed=zero_file)
    settings = deepspeed_settings(Model(dtype="float32"), train, len(work))
    model = prepared(folder, name, settings, group=group, fused="unfused" not in name)
    engine = Engine(model.train(), settings, train)
    proof = prove_packing(engine.model, model.lm, 300, shared=True, group=group)
    found_loss = torch.zeros(())
    for micro_step, families in enumerate(work):
        if micro_step:
            engine.step(0.0)
        loss = engine.model(make_batch(families, 0))
        engine.backward(loss, COUNT)
        found_loss += loss.detach() / COUNT
    errors = {"proof": proof, "loss": abs(float(engine.gather(found_loss).sum()) / wanted_loss - 1)}
    wanted = dict(alone.named_parameters())
    for parameter, x in engine.module.named_parameters():
        if x.requires_grad:
            found, want = safe_get_full_grad(x), wanted[parameter].grad
            errors[parameter] = float((found - want).norm() / want.norm().clamp_min(1e-12))
    engine.step(0.0)
    return {f"{name}: {key}": error for key, error in errors.items()}


def wrong_order(folder, group):
    """What the start-up proof says of ranks that hand each other's parts back."""
    right = ulysses.own_part
    ulysses.own_part = lambda out, ranks: right(out.flip(0), ranks)
    model = prepared(folder, "plain", group=group)
    try:
        prove_packing(model, model.lm, 300, shared=True, group=group)
    except DataError as error:
        return str(error)
    finally:
        ulysses.own_part = right
    return ""


def main(out, variants):
    who = ranks()
    start(who)
    found = {}
    groups = {}
    for name, (folder, zero_file, size) in variants.items():
        if size not in groups:
            groups[size] = SequenceGroup.join(size)
        found |= compare(name, folder, zero_file, who.world // size, groups[size])
    found["wrong order"] = wrong_order(folder, groups[size])
    if who.is_main:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(found, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(os.environ["VARIANTS"]))
