import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sumzero.errors import DataError
from sumzero.train import attest as attesting
from sumzero.train.attest import attest, checksum
from sumzero.train.model import load_model

from .tiny_models import TINY, TINY_RECURRENT, tiny_model

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
DTYPES = st.sampled_from(list(BITS))
WORD = st.integers(-(2**15), 2**15 - 1)  # bit patterns of either dtype
PLACE = st.integers(0, 2**32 - 1)


def _tensor(bits, dtype):
    return torch.tensor(bits, dtype=BITS[dtype]).view(dtype)


def _at(place, bits, dtype):
    return int(checksum(_tensor([bits], dtype), place))


@given(st.lists(WORD, max_size=40), DTYPES, st.integers(0, 40), st.integers(1, 7))
def test_a_checksum_is_its_formula_and_the_sum_of_its_parts(bits, dtype, cut, per_slice):
    want = sum((2 * i + 1) ** 3 * x for i, x in enumerate(bits)) % 2**64
    flat, cut = _tensor(bits, dtype), min(cut, len(bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attesting, "_SLICE", per_slice)
        assert int(checksum(flat)) % 2**64 == want
        parts = checksum(flat[:cut]) + checksum(flat[cut:], cut)
    assert int(parts) % 2**64 == want


@given(PLACE, st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_a_changed_element_always_shows(place, before, after):
    assume(before != after)
    assert _at(place, before, torch.float32) != _at(place, after, torch.float32)


HIGH = st.integers(0, 31).map(lambda power: -(2**power))  # differences of many factors of two


@given(PLACE, PLACE, HIGH, HIGH | st.just(0))
def test_a_swapped_pair_always_shows(one, other, a, b):
    assume(one != other and a != b)
    before = _at(one, a, torch.float32) + _at(other, b, torch.float32)
    after = _at(one, b, torch.float32) + _at(other, a, torch.float32)
    assert (before - after) % 2**64 != 0


def test_the_hardest_pair_shows():
    """The most factors of two that 2^32 places and 32 bits can have: 2^63 remains."""
    a, b = -(2**31), 0
    difference = _at(0, a, torch.float32) - _at(2**31, a, torch.float32)
    assert (difference - _at(0, b, torch.float32)) % 2**64 == 2**63


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    tiny_model("qwen3", tie_word_embeddings=False).save_pretrained(folder, max_shard_size="60KB")
    return str(folder)


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("kind", [*TINY, *TINY_RECURRENT])
def test_what_was_loaded_is_attested(tmp_path, kind, dtype):
    tiny_model(kind).save_pretrained(tmp_path, max_shard_size="60KB")
    model = load_model(str(tmp_path), dtype)
    assert next(model.parameters()).dtype == dtype
    attest(model, str(tmp_path))


def _swap_two_elements(model):
    flat = model.model.layers[1].mlp.up_proj.weight.view(-1)
    flat[[5, 6]] = flat[[6, 5]]


def _swap_two_rows(model):
    weight = model.model.layers[1].mlp.up_proj.weight
    weight[[5, 6]] = weight[[6, 5]]


def _exchange_two_parameters(model):
    mlp = model.model.layers[1].mlp
    mlp.up_proj, mlp.gate_proj = mlp.gate_proj, mlp.up_proj


def _zero_the_tail(model):
    model.model.layers[1].mlp.up_proj.weight.view(-1)[-3:] = 0


def _cast_through_float16(model):
    weight = model.model.layers[1].mlp.up_proj.weight
    weight.copy_(weight.half())


def _leave_at_random(model):
    torch.nn.init.normal_(model.model.layers[1].mlp.up_proj.weight, std=0.2)


def _flip_the_last_bit(model):
    model.model.layers[1].mlp.up_proj.weight.view(torch.int32)[3, 3] ^= 1


@pytest.mark.parametrize(
    "spoil",
    [
        _swap_two_elements,
        _swap_two_rows,
        _exchange_two_parameters,
        _zero_the_tail,
        _cast_through_float16,
        _leave_at_random,
        _flip_the_last_bit,
    ],
)
def test_a_spoiled_parameter_is_refused_by_name_and_file(qwen3, spoil):
    model = load_model(qwen3, torch.float32)
    with torch.no_grad():
        spoil(model)
    with pytest.raises(
        DataError, match=r"after loading: .*layers\.1\.mlp\.up_proj\.weight \(model-0000\d-of-"
    ):
        attest(model, qwen3)


def test_an_expert_in_another_place_is_refused(tmp_path):
    tiny_model("qwen3_moe").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), torch.float32)
    with torch.no_grad():
        experts = model.model.layers[0].mlp.experts.gate_up_proj
        experts[[0, 1]] = experts[[1, 0]]
    with pytest.raises(DataError, match=r"after loading: model\.layers\.0\.mlp\.experts\.gate_up"):
        attest(model, str(tmp_path))


def test_many_spoiled_parameters_are_counted(qwen3):
    model = load_model(qwen3, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    more = len(list(model.parameters())) - 3
    with pytest.raises(DataError, match=rf"and {more} more$"):
        attest(model, qwen3)


def test_a_parameter_that_no_file_holds_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), torch.float32)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"in no file of the model: model\.norm\.weight$"):
        attest(model, str(tmp_path))


def test_a_tied_head_is_attested_by_the_embeddings_and_by_its_own_copy(tmp_path):
    tiny_model("qwen3").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert "lm_head.weight" not in weights
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        file,
        metadata={"format": "pt"},
    )
    attest(load_model(str(tmp_path), torch.float32), str(tmp_path))
