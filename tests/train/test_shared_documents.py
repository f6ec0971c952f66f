"""Documents read once against plain transformers on separate sequences: loss and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.loss import summed_loss
from sumzero.train.model import load_model

SDPA = Backends("sdpa", "sdpa")

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # attention far from uniform
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama": {},
    "gemma": {},
    "qwen2": {},
    "mistral": {"sliding_window": 9},  # less than a document
}
NATIVE = {  # models whose norms do not go through float32 when the rest is float64
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "starcoder2": {"sliding_window": 9}
    | dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.0),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}  # relative


def _ids(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 300, (count,), generator=generator).tolist()


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


@pytest.fixture(scope="module", params=["qwen3", *KINDS])
def folder(request, model_folder, tmp_path_factory):
    if request.param == "qwen3":
        return str(model_folder)
    return _save(tmp_path_factory.mktemp(request.param), request.param)


def _save(path, kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | (KINDS | NATIVE)[kind]))
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


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
        yield summed_loss(model, make_batch(families, 0, loss_weight), SDPA)


def _loss_and_gradients(model, losses):
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    return total, {name: x.grad for name, x in model.named_parameters()}


def _assert_equal(folder, bins, loss_weight, dtype, tolerance):
    plain = load_model(folder, torch.float32, attention="sdpa").to(dtype)
    ours = load_model(folder, torch.float32).to(dtype)
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
def test_equals_separate_sequences_in_plain_transformers(folder, bins, loss_weight, dtype):
    _assert_equal(folder, bins, loss_weight, dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", NATIVE)
def test_equals_them_to_the_last_digits_where_all_of_the_model_is_float64(tmp_path, kind):
    bins = BINS["bins of several, one empty"]
    _assert_equal(_save(tmp_path, kind), bins, "token", torch.float64, 1e-12)


def test_the_bins_hold_the_document_once():
    batch = make_batch([QUESTIONS], 0)
    assert batch.input_ids.shape[1] == 40 + (5 + 7 - 1) + (2 + 21 - 1) + (9 + 1 - 1)
    assert set(batch.prefix_of) == {-1, 0}
