"""Bytes that autograd keeps of a packed row."""

import torch

from sumzero.train.batches import Branch, Family, make_batch

SHAPE = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 160}


def row():
    """A document of 120 tokens and a target of 20."""
    return make_batch([Family(list(range(100, 220)), (Branch([5], list(range(10, 30))),))], 0)


def kept_bytes(model, batch, backward=False):
    """Of the forward pass of a `SupervisedLM`, parameters apart; `backward` runs that one, too."""
    parameters = {x.untyped_storage().data_ptr() for x in model.parameters()}
    found, alive = {}, []

    def keep(x):
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)  # so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(batch)
    if backward:
        loss.backward()
    return sum(size for address, size in found.items() if address not in parameters)
