import pytest
import torch

from sumzero.errors import DataError
from sumzero.kernels import patch
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.proof import prove_packing
from sumzero.train.supervised import SupervisedLM

from .tiny_models import TINY, TINY_RECURRENT, VOCAB_SIZE, tiny_model


def _prove(kind, dtype=torch.float32, *, shared=True, fused=True, prepare=None):
    lm = tiny_model(kind, dtype, attn_implementation=NAME)
    if prepare is not None:
        prepare(lm)
    model = SupervisedLM(lm, Backends("sdpa", "sdpa"), fused=fused)
    return prove_packing(model, lm.config, VOCAB_SIZE, dtype, shared=shared)


@pytest.mark.parametrize("kind", TINY)
def test_the_layout_changes_nothing_on_the_usual_models(kind):
    assert _prove(kind) < 1e-5
    assert _prove(kind, torch.bfloat16) < 5e-2


@pytest.mark.parametrize("kind", TINY_RECURRENT)
def test_a_model_that_leaks_between_documents_is_refused(kind):
    with pytest.raises(DataError, match="cannot be trained on packed sequences"):
        _prove(kind)


def test_the_layers_that_leak_are_named():
    with pytest.raises(DataError, match="Qwen3Next.*for its layers of linear_attention: logits"):
        _prove("qwen3_next")
