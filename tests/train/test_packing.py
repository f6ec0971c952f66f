import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.train.packing import EMPTY, Pieces, make_plan

LIMIT = 100
lengths_lists = st.lists(st.integers(1, LIMIT), min_size=1, max_size=300)


def _pieces(lengths):
    lengths = np.array(lengths, dtype=np.int64)
    supervised = np.maximum(1, lengths // 4)
    return Pieces(lengths, lengths * (lengths + 1) // 2, supervised, supervised)


def _plan(lengths, bins_per_step=4, limit=LIMIT, **settings):
    return make_plan(_pieces(lengths), limit=limit, bins_per_step=bins_per_step, **settings)


def _long_tailed(number, limit=8192, mean=1230):
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - 0.5, 1.0, number)
    return drawn.clip(16, limit).astype(np.int64)


def _best_fit_decreasing(lengths, limit):
    """The textbook's way, a piece at a time."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting, default=limit)
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    return len(rooms)


@given(lengths_lists, st.integers(0, 3))
def test_every_piece_is_in_one_bin_and_no_bin_is_over_the_limit(lengths, epoch):
    plan = _plan(lengths, epoch=epoch)
    assert sorted(plan.order.tolist()) == list(range(len(lengths)))
    fill = [sum(lengths[i] for i in plan.members(bin_)) for bin_ in range(plan.num_bins)]
    assert fill == plan.tokens.tolist()
    assert max(fill) <= LIMIT
    assert min(fill) > 0
    assert plan.weight.sum() == plan.supervised.sum() == sum(max(1, n // 4) for n in lengths)


@settings(max_examples=300)
@given(lengths_lists)
def test_there_are_as_many_bins_as_by_the_textbook(lengths):
    assert _plan(lengths).num_bins == _best_fit_decreasing(lengths, LIMIT)


def test_bins_are_full_on_long_tailed_lengths():
    assert _plan(_long_tailed(20_000), limit=8192).efficiency > 0.997


def test_a_limit_beyond_sixteen_bits_packs_too():
    lengths = _long_tailed(2000, limit=131_072, mean=30_000)
    plan = _plan(lengths, limit=131_072)
    assert sorted(plan.order.tolist()) == list(range(2000))
    assert plan.tokens.max() <= 131_072


@given(lengths_lists, st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2))
def test_every_number_of_ranks_sees_the_same_steps(lengths, bins_per_step, width, world, epoch):
    plan = _plan(lengths, bins_per_step, balance_width=width, epoch=epoch)
    assert plan.num_steps == -(-plan.num_bins // bins_per_step)
    seen = []
    for index in range(plan.num_steps):
        table = plan.assignment(index, world)
        assert table.shape == (plan.num_micro_steps(world), world)
        bins = table[table != EMPTY].tolist()
        assert sorted(bins) == sorted(plan.step(index).tolist())
        seen += bins
    assert sorted(seen) == list(range(plan.num_bins))
    assert all(len(plan.step(index)) == bins_per_step for index in range(plan.num_steps - 1))


def test_bins_that_run_side_by_side_cost_nearly_the_same():
    lengths = _long_tailed(200_000)
    balanced = _plan(lengths, bins_per_step=32, limit=8192)
    assert balanced.imbalance(8) < 0.01
    at_random = np.random.default_rng(0).permutation(balanced.cost)[:24_000].reshape(-1, 8)
    assert 1 - at_random.mean() / at_random.max(1).mean() > 0.03
    assert _plan(lengths, bins_per_step=32, limit=8192, balance_width=32).imbalance(8) < 0.003


def test_steps_have_nearly_the_same_number_of_supervised_tokens():
    lengths = _long_tailed(200_000)
    random = np.random.default_rng(1)
    share = random.lognormal(np.log(0.08), 0.5, len(lengths))
    supervised = np.minimum(np.maximum(8, lengths * share), lengths - 1).astype(np.int64)
    pieces = Pieces(lengths, lengths * (lengths + 1) // 2, supervised, supervised)
    plan = make_plan(pieces, limit=8192, bins_per_step=32)
    of_steps = plan.weight[plan.steps[:-1]].sum(axis=1)
    assert of_steps.std() / of_steps.mean() < 0.05


def test_a_step_has_short_and_long_documents_unless_it_is_to_be_all_alike():
    lengths = _long_tailed(200_000)

    def dispersion(**settings):
        plan = _plan(lengths, bins_per_step=32, limit=8192, **settings)
        pieces = np.diff(plan.starts)
        mean = plan.tokens[plan.steps[:-1]].sum(1) / pieces[plan.steps[:-1]].sum(1)
        return mean.std() / mean.mean()

    assert dispersion() < 0.5 * dispersion(balance_width=32)


def test_epochs_differ_in_neighbours_and_order_and_a_rerun_does_not():
    lengths = [30] * 60
    plan, again, other = _plan(lengths), _plan(lengths), _plan(lengths, epoch=1)
    assert plan.digest == again.digest
    assert np.array_equal(plan.steps, again.steps)
    assert plan.digest != other.digest
    assert plan.digest != _plan(lengths, seed=1).digest
    neighbours = {frozenset(plan.members(bin_).tolist()) for bin_ in range(plan.num_bins)}
    later = {frozenset(other.members(bin_).tolist()) for bin_ in range(other.num_bins)}
    assert len(neighbours & later) < 5


def test_the_order_of_lengths_does_not_steer_the_order_of_steps():
    plan = _plan(np.sort(_long_tailed(100_000)), bins_per_step=32, limit=8192)
    weight = plan.weight[plan.steps[:-1]].sum(axis=1)
    place = np.arange(len(weight))
    assert abs(np.corrcoef(weight, place)[0, 1]) < 0.1


@pytest.mark.parametrize("lengths", [[], [LIMIT + 1], [0]])
def test_lengths_that_cannot_be_packed_are_refused(lengths):
    with pytest.raises(ValueError, match="between 1 and 100"):
        _plan(lengths)
