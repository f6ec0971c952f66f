"""Documents read once against plain transformers on separate sequences: loss and every gradient."""

import pytest
import torch
import torch.nn.functional as F

from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.supervised import PREFIX, SupervisedLM

from .tiny_models import TINY, VOCAB_SIZE, tiny_model

NATIVE = {  # models whose norms do not go through float32 when the rest is float64
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "starcoder2": {"sliding_window": 9}
    | dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.0),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}  # relative


def _ids(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (count,), generator=generator).tolist()


def _family(prefix, *branches, seed):
    return Family(
        _ids(prefix, seed),
        tuple(
            Branch(_ids(prompt, seed + 2 * i + 1), _ids(target, seed + 2 * i + 2))
            for i, (prompt, target) in enumerate(branches)
        ),
    )


QUESTIONS = _family(40, (5, 7), (2, 21), (9, 1), seed=100)
REFERENCES = _family(23, (0, 8), (0, 3), (0, 16), (0, 1), seed=200)
BOTH = _family(12, (0, 6), (4, 5), seed=300)
ALONE = _family(30, (3, 11), seed=400)
ALONE_IN_PREFIX = _family(17, (0, 9), seed=500)
BINS = {
    "one target": [[ALONE]],
    "questions": [[QUESTIONS]],
    "references": [[REFERENCES]],
    "bins of several, one empty": [
        [ALONE, QUESTIONS, ALONE_IN_PREFIX],
        [],
        [REFERENCES, BOTH],
    ],
}


def _separate(model, bins, loss_weight):
    for family in (family for families in bins for family in families):
        for branch in family.branches:
            fed = [*family.prefix, *branch.prompt]
            logits_TV = model(input_ids=torch.tensor([fed + branch.target])).logits[0]
            yield F.cross_entropy(
                logits_TV[len(fed) - 1 : -1],
                torch.tensor(branch.target),
                reduction="mean" if loss_weight == "target" else "sum",
            )


def _shared(model, bins, loss_weight):
    for families in bins:
        yield model(make_batch(families, 0, loss_weight))


def _loss_and_gradients(model, losses):
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    return total, {name.removeprefix(PREFIX): x.grad for name, x in model.named_parameters()}


def _assert_equal(kind, bins, loss_weight, dtype, tolerance, **changes):
    if kind == "qwen3_moe":  # grouped products take no float64
        changes["experts_implementation"] = "eager"
    exact = "eager" if kind == "gemma2" else "sdpa"  # sdpa has no soft cap, eager no float64
    plain = tiny_model(kind, dtype, attn_implementation=exact, **changes)
    lm = tiny_model(kind, dtype, attn_implementation=NAME, **changes)
    ours = SupervisedLM(lm, Backends("sdpa", "sdpa"))
    want, wanted = _loss_and_gradients(plain, _separate(plain, bins, loss_weight))
    found, gradients = _loss_and_gradients(ours, _shared(ours, bins, loss_weight))
    assert found == pytest.approx(want, rel=tolerance)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        error = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert error <= tolerance, name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("loss_weight", ["token", "target"])
@pytest.mark.parametrize("bins", BINS.values(), ids=BINS)
@pytest.mark.parametrize("kind", TINY)
def test_equals_separate_sequences_in_plain_transformers(kind, bins, loss_weight, dtype):
    _assert_equal(kind, bins, loss_weight, dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", NATIVE)
def test_equals_them_to_the_last_digits_where_all_of_the_model_is_float64(kind):
    bins = BINS["bins of several, one empty"]
    _assert_equal(kind, bins, "token", torch.float64, 1e-12, **NATIVE[kind])


def test_the_bins_hold_the_document_once():
    batch = make_batch([QUESTIONS], 0)
    assert batch.input_ids.shape[1] == 40 + (5 + 7 - 1) + (2 + 21 - 1) + (9 + 1 - 1)
    assert set(batch.prefix_of) == {-1, 0}
