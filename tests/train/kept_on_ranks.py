"""Run by test_activations.py: what ranks that share a bin keep and exchange of a layer.

For each number of key heads: bytes that autograd keeps a layer, and those of every all-to-all of a
forward and a backward pass, in their order.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from kept_bytes import SHAPE, kept_bytes, row
from tiny_models import tiny_model

from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.sequence_parallel import SequenceGroup
from sumzero.train.supervised import SupervisedLM


def main(out, key_heads):
    dist.init_process_group("gloo")
    group = SequenceGroup.join(dist.get_world_size())
    sizes = []
    exchange = dist.all_to_all_single

    def counted(found, sent, **options):
        sizes.append(sent.nbytes)
        return exchange(found, sent, **options)

    dist.all_to_all_single = counted
    found = {}
    for heads in key_heads:
        kept = {}
        for layers in (2, 5):
            changes = SHAPE | {"num_hidden_layers": layers, "num_key_value_heads": heads}
            lm = tiny_model("qwen3", torch.bfloat16, **changes)
            lm.set_attn_implementation(NAME)
            model = SupervisedLM(lm, Backends("sdpa", "sdpa"), group=group).train()
            sizes.clear()
            kept[layers] = kept_bytes(model, row(), backward=True)
        found[heads] = {"kept": (kept[5] - kept[2]) / 3, "sent": list(sizes)}
    if dist.get_rank() == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(os.environ["KEY_HEADS"]))
