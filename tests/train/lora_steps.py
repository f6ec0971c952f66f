"""Run by test_elastic.py in forks: steps of a model with adapters, saved and resumed by a Saver.

Every rank sees the same bins, shared out in turn, as `train/batches.py` does it.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model

from sumzero.config import Model, Train
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.ranks import ranks
from sumzero.train import checkpoint
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start, zero3_loading
from sumzero.train.layout import load_universal, zero_stage
from sumzero.train.model import load_model
from sumzero.train.saver import Saver
from sumzero.train.supervised import SupervisedLM

BINS = [
    [Family([11, 12, 13, 14], (Branch([15], [16, 17, 18]), Branch([19, 20], [19])))],
    [Family([21, 22], (Branch([], [23, 24]),))],
    [Family([31, 32, 33], (Branch([34], [35]),))],
    [Family([41, 42, 43, 44, 45], (Branch([46, 47], [48, 49, 50]),))],
]
COUNT = 10  # supervised tokens of all


def main():
    folder, model_folder, zero_file, steps, out = sys.argv[1:]
    who = ranks()
    start(who)
    train = Train(deepspeed=zero_file)
    mine = BINS[who.rank :: who.world]
    mine += [[]] * (-(-len(BINS) // who.world) - len(mine))
    settings = deepspeed_settings(Model(dtype="float32"), train, len(mine))
    resume = checkpoint.find(Path(folder), {"zero_stage": zero_stage(settings)}, who, settings)
    if resume and resume.universal:
        settings = load_universal(settings)
    with zero3_loading(settings):
        lm = load_model(model_folder, torch.float32, attention=NAME)
    torch.manual_seed(7)
    adapters = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    inject_adapter_in_model(adapters, lm)
    engine = Engine(SupervisedLM(lm, Backends("sdpa", "sdpa")).train(), settings, train)
    done = 0
    if resume:
        engine.load(Path(folder), resume.name)
        done = resume.state["step"]
    saver = Saver(engine, Path(folder), who, train)
    for step in range(done, int(steps)):
        loss = torch.zeros(())
        for families in mine:
            summed = engine.model(make_batch(families, 0))
            engine.backward(summed, COUNT)
            engine.step(1e-2)
            loss += summed.detach()
        value = float(engine.gather(loss).sum()) / COUNT
        if who.is_main:
            with open(out, "a", encoding="utf-8") as file:
                line = {"step": step + 1, "loss": value, "norm": engine.gradient_norm}
                file.write(json.dumps({**line, "counted": engine._engine.global_steps}) + "\n")
    for best in (False, True):  # the same step twice
        saver.save(int(steps), {"zero_stage": zero_stage(settings)}, best=best)
    engine.close()
    return 0
