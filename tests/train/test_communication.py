from dataclasses import replace

import pytest

from sumzero.train.communication import Cluster, Traffic, exchanged, moved, step_traffic
from sumzero.train.devices import device_called
from sumzero.train.structure import Structure
from sumzero.train.zero import Zero, persistent_numel

from .tiny_models import tiny_model

STRUCTURE = Structure.of_model(tiny_model("llama"))
SIZE = 2.0 * STRUCTURE.numel
NODES = Cluster(device_called("H100"), 16, 8)
NODE = replace(NODES, world=8)
ZERO3 = Zero.of({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}})


def sent(zero, cluster=NODES, **changes):
    options = {"itemsize": 2, "micro_steps": 3, "tokens": 100.0} | changes
    return step_traffic(STRUCTURE, zero, cluster, **options)


def by_ring(size, cluster):
    """What rings send within and between nodes, edge by edge and chunk by chunk; by device.

    As many rings as a node has devices, each of which leaves the nodes through another device.
    """
    world, of_node = cluster.world, cluster.local
    sent = {rank: [0.0, 0.0] for rank in range(world)}
    for turn in range(of_node):
        ring = [
            node * of_node + (turn + step) % of_node
            for node in range(world // of_node)
            for step in range(of_node)
        ]
        for _ in range(world - 1):  # every device hands on the chunk that it got last
            for rank, following in zip(ring, ring[1:] + ring[:1], strict=True):
                sent[rank][rank // of_node != following // of_node] += size / world / of_node
    return sent


@pytest.mark.parametrize(("world", "per_node"), [(16, 8), (24, 8), (8, 8), (4, 8), (4, 1), (1, 8)])
def test_a_gather_sends_what_rings_send(world, per_node):
    cluster = Cluster(NODES.device, world, per_node)
    found = moved(16.0, cluster)
    for intra, inter in by_ring(16.0, cluster).values():
        assert found.intra == pytest.approx(intra, abs=1e-12)
        assert found.inter == pytest.approx(inter, abs=1e-12)


def test_of_two_nodes_each_sends_the_other_nearly_all_that_is_gathered():
    assert 8 * moved(1.0, NODES).inter == pytest.approx(15 / 16)


def test_ranks_of_two_nodes_exchange_half_between_them():
    found = exchanged(16.0, NODES, 16)
    assert (found.intra, found.inter) == (7.0, 8.0)
    assert exchanged(16.0, NODES, 4) == Traffic(intra=12.0)


def test_stage_3_gathers_twice_and_scatters_once_a_micro_step():
    found = sent(ZERO3).total
    assert found.intra + found.inter == pytest.approx(3 * 3 * SIZE * 15 / 16)
    assert found.inter == pytest.approx(3 * 3 * SIZE * 15 / 16 / 8)
    assert sent(ZERO3).exposed.intra == 0.0
    assert sent(replace(ZERO3, overlaps=False)).hidden.intra == 0.0


def test_what_every_rank_keeps_is_not_gathered():
    zero = replace(ZERO3, persistence=100)
    kept = persistent_numel(STRUCTURE, zero)
    assert 0 < kept < STRUCTURE.numel
    less = sent(ZERO3, NODE).total.intra - sent(zero, NODE).total.intra
    assert less == pytest.approx(3 * 2 * 2 * kept * 7 / 8)


def test_stage_2_reduces_each_micro_step_and_gathers_once():
    found = sent(replace(ZERO3, stage=2, overlaps=True), NODE)
    assert found.hidden.intra == pytest.approx(3 * 2 * SIZE * 7 / 8)
    assert found.exposed.intra == pytest.approx(SIZE * 7 / 8)


def test_zeropp_crosses_nodes_with_a_fifth_of_the_bytes():
    """Half for int8 weights forward, around a ring; none backward; a quarter for int4 gradients, of
    which half is for the other node."""
    zeropp = replace(ZERO3, hpz=8, quantizes_weights=True, quantizes_gradients=True)
    assert sent(zeropp).total.inter == pytest.approx(3 * SIZE / 8 * (15 / 16 / 2 + 1 / 4 / 2))
    assert sent(zeropp).total.inter < 0.22 * sent(ZERO3).total.inter


def test_ranks_that_share_a_bin_exchange_heads():
    """Of 2 key heads 4 ranks need 4."""
    alone, shared = sent(ZERO3), sent(ZERO3, sequence_parallel=4)
    each = 2 * 100 * (2 * STRUCTURE.queries + 2 * 2 * STRUCTURE.keys) * 3 / 4
    more = shared.exposed.intra - alone.exposed.intra
    assert more == pytest.approx(each * STRUCTURE.layers * 2 * 3)
    assert shared.hidden == alone.hidden


def test_offloading_goes_to_the_host():
    zero = replace(ZERO3, offload_optimizer="cpu", offload_parameters="cpu")
    found = sent(zero).total
    assert found.host == pytest.approx(3 * 3 * SIZE / 16)
    assert found.intra == sent(ZERO3).total.intra
