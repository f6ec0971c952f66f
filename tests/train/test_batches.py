import torch

from sumzero.train.batches import make_batch


def test_targets_are_predicted_from_the_token_before_and_nothing_else_is():
    batch = make_batch([([1, 2, 3], [4, 5]), ([6], [7]), ([8, 9], [10, 11, 12])], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 6, 8, 9, 10, 11]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 0, 1, 2, 3]]
    assert batch.lengths == (4, 1, 4)
    fed = batch.input_ids[0, batch.positions].tolist()
    assert list(zip(fed, batch.labels.tolist(), strict=True)) == [
        (3, 4), (4, 5), (6, 7), (9, 10), (10, 11), (11, 12),
    ]  # fmt: skip


def test_an_empty_bin_has_one_token_and_no_label():
    batch = make_batch([], pad_id=5)
    assert batch.input_ids.tolist() == [[5]]
    assert batch.lengths == (1,)
    assert batch.positions.shape == batch.labels.shape == (0,)
    assert batch.positions.dtype == torch.int64
