from dataclasses import replace

import pytest

from sumzero.train.communication import Cluster, moved, step_traffic
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


def test_a_gather_reaches_every_other_device_and_node():
    found = moved(16.0, NODES)
    assert found.intra == 15.0
    assert found.inter == 1.0  # of half the bytes, the share of one of eight
    assert moved(16.0, NODE).inter == 0.0
    one = moved(16.0, replace(NODE, world=1))
    assert one.intra == one.inter == 0.0


def test_stage_3_gathers_twice_and_scatters_once_a_micro_step():
    found = sent(ZERO3).total
    assert found.intra == pytest.approx(3 * 3 * SIZE * 15 / 16)
    assert found.inter == pytest.approx(3 * 3 * SIZE / 16)
    assert sent(ZERO3).exposed.intra == 0.0
    assert sent(replace(ZERO3, overlaps=False)).hidden.intra == 0.0


def test_what_every_rank_keeps_is_not_gathered():
    zero = replace(ZERO3, persistence=100)
    kept = persistent_numel(STRUCTURE, zero)
    assert 0 < kept < STRUCTURE.numel
    less = sent(ZERO3).total.intra - sent(zero).total.intra
    assert less == pytest.approx(3 * 2 * 2 * kept * 15 / 16)


def test_stage_2_reduces_each_micro_step_and_gathers_once():
    found = sent(replace(ZERO3, stage=2, overlaps=True))
    assert found.hidden.intra == pytest.approx(3 * 2 * SIZE * 15 / 16)
    assert found.exposed.intra == pytest.approx(SIZE * 15 / 16)


def test_zeropp_crosses_nodes_with_a_quarter_of_the_bytes():
    """Half for int8 weights forward, none backward, a quarter for int4 gradients: 0.75 of 3."""
    zeropp = replace(ZERO3, hpz=8, quantizes_weights=True, quantizes_gradients=True)
    assert sent(zeropp).total.inter == pytest.approx(sent(ZERO3).total.inter / 4)


def test_ranks_that_share_a_bin_exchange_heads():
    alone, shared = sent(ZERO3), sent(ZERO3, sequence_parallel=4)
    each = 2 * 100 * (2 * STRUCTURE.queries + 2 * STRUCTURE.keys) * 3 / 4
    more = shared.exposed.intra - alone.exposed.intra
    assert more == pytest.approx(each * STRUCTURE.layers * 2 * 3)
    assert shared.hidden == alone.hidden


def test_offloading_goes_to_the_host():
    zero = replace(ZERO3, offload_optimizer="cpu", offload_parameters="cpu")
    found = sent(zero).total
    assert found.host == pytest.approx(3 * 3 * SIZE / 16)
    assert found.intra == sent(ZERO3).total.intra
