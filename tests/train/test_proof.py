import pytest
import torch

from sumzero.errors import DataError
from sumzero.kernels import patch
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.rms_norm import rms_norm
from sumzero.kernels.segments import Backends, Segments
from sumzero.train import loss
from sumzero.train.proof import prove_packing
from sumzero.train.supervised import SupervisedLM

from .tiny_models import TINY, TINY_RECURRENT, VOCAB_SIZE, tiny_model


def _prove(kind, dtype=torch.float32, *, shared=True, of=SupervisedLM):
    lm = tiny_model(kind, dtype, attn_implementation=NAME)
    return prove_packing(of(lm, Backends("sdpa", "sdpa")), lm, VOCAB_SIZE, shared=shared)


@pytest.mark.parametrize("kind", TINY)
def test_the_layout_changes_nothing_on_the_usual_models(kind):
    assert _prove(kind) < 1e-5
    assert _prove(kind, torch.bfloat16) < 5e-2


@pytest.mark.parametrize("kind", TINY_RECURRENT)
def test_a_model_that_leaks_between_documents_is_refused(kind):
    with pytest.raises(DataError, match="cannot be trained on packed sequences"):
        _prove(kind)


def test_the_layers_that_leak_are_named():
    with pytest.raises(DataError, match=r"Qwen3NextForCausalLM .* for its layers of linear_att"):
        _prove("qwen3_next")


class WithoutPrefixes(SupervisedLM):
    """As a model whose branches do not see their prefix."""

    def _segments(self, batch, backends, queries=None):
        return Segments.of(batch.lengths, "cpu", backends, None, queries)


def test_a_model_that_can_be_packed_but_cannot_share_is_told_the_setting():
    assert _prove("llama", shared=False, of=WithoutPrefixes) < 1e-5
    with pytest.raises(DataError, match=r"for several targets: .*data\.share_documents = false"):
        _prove("llama", of=WithoutPrefixes)


def test_layers_that_compute_something_else_than_the_models_own_are_refused(monkeypatch):
    monkeypatch.setattr(patch, "rms_norm", lambda x, *weights: 1.01 * rms_norm(x, *weights))
    with pytest.raises(DataError, match=r"Qwen2ForCausalLM gives other.*model\.fused_layers = fal"):
        _prove("qwen2")


def test_a_loss_that_is_not_that_of_the_logits_is_refused(monkeypatch):
    monkeypatch.setattr(loss, "linear_cross_entropy", lambda hidden, *_, **__: hidden.sum())
    with pytest.raises(DataError, match="has another loss than its logits give"):
        _prove("qwen2")


def test_the_model_is_left_as_it_was():
    lm = tiny_model("qwen3", attn_implementation=NAME)
    model = SupervisedLM(lm, Backends("sdpa", "sdpa")).train()
    before = [name for name, module in lm.named_modules() if "forward" in vars(module)]
    prove_packing(model, lm, VOCAB_SIZE, shared=True)
    assert model.training
    assert before == [name for name, module in lm.named_modules() if "forward" in vars(module)]
