"""Memory of a packed row: what is kept of its forward pass, and what its loss and buffers take.

A layer of fused kernels keeps for its backward pass, in elements a token (M hidden size, Q and K
widths of queries and keys, I intermediate size; see kernels/):

    input of the first norm, normalised      2 M    queries, keys, values, attended    2 Q + 2 K
    input of the second norm, normalised     2 M    gate, up, their product            3 I

and, in float32, a number for each norm and token and one for each head. Where queries and keys are
normalised, also Q + K before it. Layers of transformers' own keep 3 M for each norm and I more.
Where ranks share a bin, queries, keys and values are kept as they are exchanged, so with the key
heads that are repeated, and what was attended both before and after its exchange: 3 Q + 2 K.
tests/train/test_activations.py holds this to what autograd keeps on a CPU, which is the same but
for the attention kernel, which there keeps neither its sums nor what it gave; peaks on a GPU were
not measured.
"""

from dataclasses import dataclass

from sumzero.train.structure import Structure
from sumzero.train.zero import Zero

_TILE = 256 * 2**20  # bytes of logits at once, where the head's gradient is summed or not needed


@dataclass(frozen=True)
class Row:
    """The largest bin of a micro-step, a rank's part of it: tokens and supervised positions.

    `sharing` ranks have a part each.
    """

    tokens: int
    supervised: int
    sharing: int = 1


def kept(structure: Structure, row: Row, *, itemsize: int, checkpointing: bool) -> int:
    """Bytes that are alive at the end of the forward pass, or with checkpointing while a layer is
    run again, and what its backward pass makes besides."""
    layer = layer_bytes(structure, row.tokens, itemsize, row.sharing)
    last = layer
    if structure.trims:
        last = layer_bytes(structure, row.supervised, itemsize) + itemsize * row.tokens * (
            2 * structure.hidden + 2 * structure.keys
        )
    inputs = itemsize * row.tokens * structure.hidden
    # Gradients of gate, up and their product, of the layer's output and of a norm's.
    backward = itemsize * row.tokens * (3 * structure.intermediate + 2 * structure.hidden)
    if checkpointing:
        return structure.layers * inputs + max(layer, last) + backward
    return (structure.layers - 1) * layer + last + backward


def layer_bytes(structure: Structure, tokens: int, itemsize: int, sharing: int = 1) -> int:
    """What one layer keeps for its backward pass; of `sharing` ranks each has `tokens` of a bin."""
    size, queries, keys = structure.hidden, structure.queries, structure.keys
    elements = 4 * size + 2 * queries + 2 * keys + 3 * structure.intermediate
    if sharing > 1:
        elements += queries + 2 * (structure.exchanged_keys(sharing) - keys)
    floats = 2 + structure.heads
    if structure.norms_heads:
        elements += queries + keys
        floats += structure.heads * (queries + keys) // queries
    if not structure.fused:
        elements += 6 * size // itemsize * 2 + structure.intermediate
    adapters = sum(w.shape[0] for w in structure.weights if w.name.endswith(".lora_A"))
    return tokens * (itemsize * (elements + adapters // structure.layers) + 4 * floats)


def logits(structure: Structure, row: Row, *, itemsize: int) -> int:
    """Bytes of the loss (kernels/linear_cross_entropy.py): logits, sums of gradients, its inputs.

    Where the head is trained and there are few rows, all logits are kept; else a tile, and a
    float32 sum of the weight's gradient.
    """
    hidden = itemsize * row.supervised * structure.hidden
    everything = itemsize * row.supervised * structure.vocab
    tile = min(everything, _TILE)
    if structure.trained_head:
        one_tile = row.supervised * itemsize <= structure.hidden * 4
        tile = everything if one_tile else tile + 4 * structure.head_numel
    return tile + 2 * hidden


def exchange(structure: Structure, row: Row, *, itemsize: int) -> int:
    """Bytes that ranks which share a bin send and receive at once, at the most, before attention.

    kernels/ulysses.py: queries, keys and values of all heads. 0 where each rank has its own bin.
    """
    if row.sharing == 1:
        return 0
    widths = structure.queries + 2 * structure.exchanged_keys(row.sharing)
    return 2 * itemsize * row.tokens * widths


def buffers(
    structure: Structure,
    zero: Zero,
    *,
    itemsize: int,
    micro_steps: int,
    share: int,
) -> int:
    """Bytes on the device of what is on its way: buckets, gathered parameters, whole gradients.

    `share` is the number of elements whose gradients a rank sums up.
    """
    largest_gradient = itemsize * max(w.numel for w in structure.weights if w.trained)
    bucket = itemsize * zero.reduce_bucket
    if zero.stage < 3:
        # Of a later micro-step gradients are whole again before they are added.
        again = micro_steps > 1 and zero.offload_optimizer == "none"
        sums = 0 if zero.accumulates_float32 or not again else itemsize * share
        return bucket * (1 + zero.overlaps) + largest_gradient + sums
    # A bucket that was gathered is copied into its parameters.
    gathered = gathered_numel(structure, zero)
    gathered += min(gathered, zero.prefetch_bucket)
    # A bucket, and its copy in the order of the ranks.
    reduced = bucket * zero.contiguous + itemsize * min(zero.reduce_bucket, structure.trained_numel)
    return itemsize * gathered + reduced + largest_gradient


def gathered_numel(structure: Structure, zero: Zero) -> int:
    """Elements of parameters that a rank of stage 3 has whole at once, at the most.

    Every module that runs asks for another `stage3_prefetch_bucket_size` ahead, so that prefetching
    stops at `stage3_max_live_parameters` only. Parameters that are used again within
    `stage3_max_reuse_distance` stay: half of it in either direction of the turn from forward to
    backward. What a module needs at once comes on top, twice where layers are run again.
    """
    split = [w for w in structure.weights if w.numel > zero.persistence]
    if not split:
        return 0
    of_layers = max((w.numel for w in split if w.layer is not None), default=0)
    needed = max(w.numel for w in split) + of_layers
    ahead = zero.max_live if zero.prefetch_bucket else 0
    return min(sum(w.numel for w in split), needed + max(ahead, zero.max_reuse // 2))


def update_bytes(zero: Zero, share: int, itemsize: int) -> int:
    """Bytes on the device while AdamW, fused, steps: the gradients in float32 and, while they are
    made, once more as they were; a sub-group at a time under stage 3. No activations live then."""
    if zero.offload_optimizer != "none":
        return 0
    return (4 + itemsize) * (min(share, zero.sub_group) if zero.stage == 3 else share)
