"""Run by test_zero.py on two ranks: the bytes that DeepSpeed keeps, by part, before a step."""

import gc
import json
import os
import sys
import warnings
import weakref

import torch
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from peft import LoraConfig, inject_adapter_in_model

from sumzero.config import Model, Train
from sumzero.kernels.segments import Backends
from sumzero.ranks import ranks
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.engine import Engine, deepspeed_settings, start, zero3_loading
from sumzero.train.model import load_model
from sumzero.train.supervised import SupervisedLM

BATCH = make_batch([Family([21, 22], (Branch([], [23, 24]),))], 0)
MICRO_STEPS = 2
BARRIERS = 100


def storages(tensors):
    """Bytes by address of the memory that tensors hold, each once."""
    found = {}
    for x in tensors:
        if x is not None and not x.is_meta:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    found.pop(0, None)
    return found


def living():
    """Of tensors that are still there after some barriers.

    A thread of gloo's lets go of a collective's tensors some time after the collective has
    returned: 30 ms were seen on a busy machine. Each barrier gives one of its two threads another
    thing to hold.
    """
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
    tensors += [x.grad for x in tensors if x.is_leaf and x.grad is not None]
    found = [weakref.ref(x) for x in tensors]
    del tensors
    for _ in range(BARRIERS):
        torch.distributed.barrier()
    return storages(x() for x in found)


def parts(engine, before):
    """Bytes: parameters; master weights and moments; all else that came with the engine."""
    parameters = storages(
        x for p in engine.module.parameters() for x in (p.data, getattr(p, "ds_tensor", None))
    )
    zero = engine._optimizer
    masters = getattr(zero, "fp32_partitioned_groups_flat", None)
    masters = zero.single_partition_of_fp32_groups if masters is None else masters
    state = [x for values in zero.optimizer.state.values() for x in values.values()]
    optimizer = storages([*masters, *(x for x in state if isinstance(x, torch.Tensor))])
    everything = living()
    rest = everything.keys() - before.keys() - parameters.keys() - optimizer.keys()
    return {
        "parameters": sum(parameters.values()),
        "optimizer": sum(optimizer[x] for x in optimizer.keys() - parameters.keys()),
        "gradients": sum(everything[x] for x in rest),
    }


class Gathered:
    """The most elements of parameters that were whole at once, under stage 3."""

    peak = 0

    def __init__(self):
        fetch, count = PartitionedParameterCoordinator.fetch_sub_module, "n_available_params"

        def counted(coordinator, *arguments, **named):
            fetch(coordinator, *arguments, **named)
            now = getattr(coordinator, f"_PartitionedParameterCoordinator__{count}")
            self.peak = max(self.peak, now)

        PartitionedParameterCoordinator.fetch_sub_module = counted


def measured(gathered, folder, zero_file, dtype, rank):
    train = Train(deepspeed=zero_file)
    settings = deepspeed_settings(Model(dtype=dtype), train, MICRO_STEPS)
    before = living()
    with zero3_loading(settings):
        lm = load_model(folder, getattr(torch, dtype))
    if rank:
        for parameter in lm.parameters():
            parameter.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, target_modules="all-linear"), lm)
        lm.to(getattr(torch, dtype))
    engine = Engine(SupervisedLM(lm, Backends("sdpa", "sdpa")).train(), settings, train)
    del lm
    for micro_step in range(2 * MICRO_STEPS):  # in the second step all state is there
        if micro_step == MICRO_STEPS:  # and modules are known in their order
            gathered.peak = 0
        if micro_step:
            engine.step(1e-3)
        engine.backward(engine.model(BATCH), 2)
    found = parts(engine, before) | {"gathered": gathered.peak}
    engine.step(1e-3)
    return found


def main(out, cases):
    start(ranks())
    gathered = Gathered()
    gc.freeze()  # what was imported is not looked through again
    found = {name: measured(gathered, *case) for name, case in cases.items()}
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, found)
    if torch.distributed.get_rank() == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(everyone, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(os.environ["CASES"]))
