import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sumzero.train.batches import Branch, Family, make_batch

ids = st.lists(st.integers(1, 99), min_size=1, max_size=6)
branches = st.builds(Branch, st.just([]) | ids, ids)
families = st.builds(
    Family, ids, st.lists(branches, min_size=1, max_size=4).map(lambda found: tuple(found))
)


def _alone(prompt, target):
    return Family(prompt, (Branch([], target),))


def _predictions(batch):
    fed = batch.input_ids[0, batch.positions].tolist()
    return list(zip(fed, batch.labels.tolist(), strict=True))


def test_targets_are_predicted_from_the_token_before_and_nothing_else_is():
    pairs = [([1, 2, 3], [4, 5]), ([6], [7]), ([8, 9], [10, 11, 12])]
    batch = make_batch([_alone(prompt, target) for prompt, target in pairs], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 6, 8, 9, 10, 11]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 0, 1, 2, 3]]
    assert batch.lengths == (4, 1, 4)
    assert batch.prefix_of == (-1, -1, -1)
    assert _predictions(batch) == [(3, 4), (4, 5), (6, 7), (9, 10), (10, 11), (11, 12)]


def test_a_shared_document_is_laid_out_once_and_each_branch_continues_its_positions():
    questions = (Branch([5, 6], [7, 8]), Branch([9], [10, 11, 12]))
    batch = make_batch([_alone([1], [2, 3]), Family([1, 2, 3, 4], questions)], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6]]
    assert batch.lengths == (2, 4, 3, 3)
    assert batch.prefix_of == (-1, -1, 1, 1)
    assert _predictions(batch)[2:] == [(6, 7), (7, 8), (9, 10), (10, 11), (11, 12)]


def test_the_end_of_a_prompt_within_the_prefix_predicts_every_reference():
    references = (Branch([], [5, 6, 7]), Branch([], [8, 9]), Branch([], [9]))
    batch = make_batch([Family([1, 2, 3], references)], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 5, 6, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.positions.tolist() == [2, 3, 4, 2, 5, 2]
    assert batch.labels.tolist() == [5, 6, 7, 8, 9, 9]
    assert batch.lengths == (3, 2, 1)  # the third has no token to feed, hence no segment


def test_a_lone_target_and_its_document_are_one_segment():
    batch = make_batch([Family([1, 2], (Branch([3], [4, 5]),))], pad_id=0)
    assert batch.lengths == (4,)
    assert batch.prefix_of == (-1,)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3]]
    assert _predictions(batch) == [(3, 4), (4, 5)]


@given(st.lists(families, max_size=4))
def test_every_branch_reads_as_its_sequence_alone(members):
    batch = make_batch(members, pad_id=0)
    starts = np.cumsum([0, *batch.lengths])
    row, positions = batch.input_ids[0].numpy(), batch.position_ids[0].numpy()
    supervised = iter(zip(batch.positions.tolist(), batch.labels.tolist(), strict=True))

    def seen(token):
        """The ids that a token of the row sees, itself last, and their positions."""
        segment = int(np.searchsorted(starts, token, side="right")) - 1
        prefix = batch.prefix_of[segment]
        index = np.arange(starts[segment], token + 1)
        if prefix >= 0:
            index = np.concatenate([np.arange(starts[prefix], starts[prefix + 1]), index])
        return row[index].tolist(), positions[index].tolist()

    for family in members:
        for branch in family.branches:
            context = [*family.prefix, *branch.prompt]
            for expected in branch.target:
                token, label = next(supervised)
                assert label == expected
                assert seen(token) == (context, list(range(len(context))))
                context.append(expected)
    assert next(supervised, None) is None
    assert sum(batch.lengths) == len(row)
    assert batch.weights.tolist() == [1.0] * len(batch.labels)


def test_by_target_the_tokens_of_a_target_weigh_one_together():
    references = (Branch([], [5, 6, 7, 8]), Branch([2], [8, 9]))
    members = [Family([1, 2, 3], references), _alone([1], [2])]
    batch = make_batch(members, pad_id=0, loss_weight="target")
    assert batch.weights.tolist() == [0.25] * 4 + [0.5] * 2 + [1.0]
    assert batch.weights.dtype == torch.float32


def test_ids_may_be_arrays_as_they_come_from_the_store():
    prefix, prompt, target = (np.array(x, np.int32) for x in ([1, 2], [3], [4, 5]))
    empty = np.zeros(0, np.int32)
    arrays = Family(prefix, (Branch(prompt, target), Branch(empty, target)))
    lists = Family([1, 2], (Branch([3], [4, 5]), Branch([], [4, 5])))
    found, want = make_batch([arrays], 0), make_batch([lists], 0)
    for name in ("input_ids", "position_ids", "positions", "labels"):
        assert getattr(found, name).dtype == torch.int64
        assert torch.equal(getattr(found, name), getattr(want, name))


@pytest.mark.parametrize("loss_weight", ["token", "target"])
def test_an_empty_bin_has_one_token_and_no_label(loss_weight):
    batch = make_batch([], pad_id=5, loss_weight=loss_weight)
    assert batch.input_ids.tolist() == [[5]]
    assert batch.position_ids.tolist() == [[0]]
    assert batch.lengths == (1,)
    assert batch.prefix_of == (-1,)
    assert batch.positions.shape == batch.labels.shape == batch.weights.shape == (0,)
    assert batch.positions.dtype == batch.labels.dtype == torch.int64
    assert batch.weights.dtype == torch.float32
