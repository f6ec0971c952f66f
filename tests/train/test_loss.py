import pytest
import torch
import torch.nn.functional as F

from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.loss import packed_logits, summed_loss
from sumzero.train.model import load_model

SDPA = Backends("sdpa", "sdpa")

FAMILIES = [
    Family([11, 12, 13, 14], (Branch([15], [16, 17, 18]), Branch([], [19]))),
    Family([21, 22], (Branch([], [23, 24]),)),
]


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder), torch.float32).eval()


def test_by_token_every_position_counts_the_same(model):
    batch = make_batch(FAMILIES, 0)
    logits = packed_logits(model, batch, SDPA)
    want = F.cross_entropy(logits, batch.labels, reduction="sum")
    assert torch.equal(summed_loss(model, batch, SDPA), want)


def test_by_target_the_loss_is_the_sum_of_the_targets_means(model):
    batch = make_batch(FAMILIES, 0, "target")
    logits = packed_logits(model, batch, SDPA)
    each = F.cross_entropy(logits, batch.labels, reduction="none").split([3, 1, 2])
    want = sum(losses.mean() for losses in each)
    torch.testing.assert_close(summed_loss(model, batch, SDPA), want)


@pytest.mark.parametrize("loss_weight", ["token", "target"])
def test_an_empty_bin_has_loss_0_and_a_gradient_of_0_everywhere(model, loss_weight):
    loss = summed_loss(model, make_batch([], 0, loss_weight), SDPA)
    assert loss == 0
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("loss_weight", ["token", "target"])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2],
)
def test_the_loss_is_float32_unless_the_model_is_float64(
    model_folder, dtype, expected, loss_weight
):
    model = load_model(str(model_folder), torch.float32).to(dtype)
    batch = make_batch(FAMILIES, 0, loss_weight)
    assert summed_loss(model, batch, SDPA).dtype == expected
