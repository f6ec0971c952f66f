"""Run by test_presets.py on two ranks: three steps of a preset, the second one not finite.

Its argument is a folder: `cases.json` names each case's preset, dtype, what is trained and the
model's folder; `found.json` is written.
"""

import json
import sys
from pathlib import Path

import torch
from consolidated import consolidated_weights
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from unequal_ranks import COUNT, WORK, prepared

from sumzero.config import Model, Train
from sumzero.errors import SumZeroError
from sumzero.ranks import ranks
from sumzero.train.attest import attest
from sumzero.train.batches import make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start
from sumzero.train.saver import Saver
from sumzero.train.supervised import PREFIX

LEARNING_RATES = (1e-2, 5e-3, 2e-3)
BAD = 1  # the step, and the rank, whose loss is not finite
DECAY, CLIP = 0.1, 0.5


def trained(model, part):
    """Freezes what is not to be trained."""
    for x in model.parameters():
        is_matrix = len(getattr(x, "ds_shape", x.shape)) >= 2
        if (part == "matrices" and not is_matrix) or (part == "norms" and is_matrix):
            x.requires_grad_(False)
    return model.train()


def plain_steps(folder, part, train):
    """(weights after each finite step, their gradients' norms), by torch in one process."""
    model = trained(prepared(folder, part), part)
    named = {name: x for name, x in model.named_parameters() if x.requires_grad}
    groups = [
        {"params": [x for x in named.values() if x.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [x for x in named.values() if x.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=train.betas)
    weights, norms = [{name: x.detach().clone() for name, x in named.items()}], []
    for step, lr in enumerate(LEARNING_RATES):
        if step == BAD:
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr
        for families in (families for rank in WORK for families in rank):
            (model(make_batch(families, 0)) / COUNT).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), train.clip)))
        optimizer.step()
        optimizer.zero_grad()
        weights.append({name: x.detach().clone() for name, x in named.items()})
    return weights, norms


def state(engine):
    """Of each trained parameter: weights in float32 and, after a step, both moments."""
    found = {}
    for name, x in engine.module.named_parameters():
        if x.requires_grad:
            found[name] = safe_get_full_fp32_param(x).clone()
            for key in ("exp_avg", "exp_avg_sq"):
                moment = safe_get_full_optimizer_state(x, key)
                found[f"{name} {key}"] = moment.clone()
    return found


def distance(found, wanted, before):
    """How far weights are from those wanted, as a share of how far these have moved."""
    error = sum(float((found[name] - x).square().sum()) for name, x in wanted.items())
    moved = sum(float((before[name] - x).square().sum()) for name, x in wanted.items())
    return (error / moved) ** 0.5


def three_steps(who, case, folder):
    train = Train(
        deepspeed=case["deepspeed"],
        weight_decay=DECAY,
        clip=CLIP,
        sequence_parallel=2 if case["deepspeed"] == "zero3_ulysses" else 1,
    )
    dtype = getattr(torch, case["dtype"])
    settings = deepspeed_settings(
        Model(dtype=case["dtype"]),
        train,
        len(WORK[who.rank]),
        hidden_size=case["hidden_size"],
        swap=folder / "swap",
    )
    model = prepared(case["model"], case["part"], settings, dtype)
    if case["part"] != "lora":
        attest(model.lm, case["model"])
    engine = Engine(trained(model, case["part"]), settings, train)
    report = {"stage": engine.stage, "skipped": [], "norms": [], "first_norm": engine.gradient_norm}
    states = []
    for step, lr in enumerate(LEARNING_RATES):
        for micro_step, families in enumerate(WORK[who.rank]):
            loss = engine.model(make_batch(families, 0))
            if step == BAD and who.rank == BAD and micro_step == len(WORK[who.rank]) - 1:
                loss = loss * float(case["bad"])
            engine.backward(loss, COUNT)
            engine.step(lr)
        report["skipped"].append(engine.skipped_steps)
        report["norms"].append(engine.gradient_norm)
        states.append(state(engine))
    report["unchanged"] = all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    report["changed"] = all(
        not torch.equal(x, states[2][name]) for name, x in states[0].items() if "exp_avg" in name
    )
    if dtype == torch.float32:
        wanted, report["wanted_norms"] = plain_steps(case["model"], case["part"], train)
        report["distances"] = [
            distance(states[0], wanted[1], wanted[0]),
            distance(states[2], wanted[2], wanted[1]),
        ]
    report["swapped"] = any((folder / "swap").rglob("*.swp"))
    if report["swapped"]:
        checkpoints, tag = folder / f"checkpoints_{case['dtype']}", "step-000003"
        Saver(engine, checkpoints, who, train).save(3, {})
        again = prepared(case["model"], case["part"], settings, dtype)
        engine = Engine(trained(again, case["part"]), settings, train)
        engine.load(checkpoints, tag)
        restored = state(engine)
        report["restored"] = all(torch.equal(x, restored[key]) for key, x in states[2].items())
        exported = consolidated_weights(checkpoints, tag)
        report["exported"] = all(
            torch.equal(x, states[2][f"{PREFIX}{key}"]) for key, x in exported.items()
        )
    return report, engine


def main(folder):
    who = ranks()
    start(who)
    found = {}
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        try:
            found[name], engine = three_steps(who, case, folder)
        except SumZeroError as error:
            found[name] = {"error": str(error)}
    if who.is_main:
        (folder / "found.json").write_text(json.dumps(found))
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
