import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from sumzero.config import Lora
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, family, make_batch
from sumzero.train.flops import Rates, StepFlops, Work, supervised_pairs
from sumzero.train.structure import Structure
from sumzero.train.supervised import SupervisedLM

from .tiny_models import TINY, tiny_model

RANK = 2
FAMILIES = [
    Family([11, 12, 13, 14, 15], (Branch([16, 17], [18, 19, 20]),)),
    Family([21, 22], (Branch([23], [24, 25]),)),
]
TOKENS, PAIRS = np.array([9, 4]), np.array([45, 10])
SUPERVISED, BRANCHES = np.array([3, 2]), np.array([1, 1])
MATMULS = ("aten.mm", "aten.addmm", "aten._grouped_mm", "sumzero.linear_cross_entropy")


def packed(name, attention=NAME):
    lm = tiny_model(name)
    lm.set_attn_implementation(attention)
    if name == "qwen3_moe":  # a loop over experts: torch does not count the grouped product
        lm.set_experts_implementation("eager")
    return lm


def with_adapters(lm):
    lm.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, target_modules="all-linear"), lm)
    return lm


def counted(run):
    """Operations of a forward and backward pass: those of weights, by torch's own counter."""

    def head(hidden, weight, bias, labels, weights, *more, out_val=None, **_):
        grad_hidden = more[2]  # one product for the logits, one for the gradient of hidden
        return (2 + 2 * grad_hidden) * hidden[0] * weight[0] * weight[1]

    op = torch.ops.sumzero.linear_cross_entropy
    with FlopCounterMode(display=False, custom_mapping={op: head}) as counter:
        run().backward()
    by_op = counter.get_flop_counts()["Global"]
    return {str(name): count for name, count in by_op.items()}


def work():
    last = supervised_pairs(TOKENS, PAIRS, SUPERVISED, BRANCHES)
    return Work(*(np.array([x.sum()]) for x in (TOKENS, PAIRS, SUPERVISED, last)))


def without_attention(rates):
    return Rates(rates.token, 0.0, rates.supervised, 0.0)


KINDS = [(name, lora) for name in TINY for lora in (None, Lora(rank=RANK))]
# Phi's MLP of the first layer is fed with what its attention is, so with adapters it too has no
# gradient of its input; peft has no adapters for fused experts.
KINDS = [x for x in KINDS if x not in (("phi", Lora(rank=RANK)), ("qwen3_moe", Lora(rank=RANK)))]


@pytest.mark.parametrize(("name", "lora"), KINDS)
def test_products_with_weights_are_those_that_torch_counts(name, lora):
    """To the operation, on a packed row, last layer trimmed where it is."""
    structure = Structure.of_model(packed(name), lora)
    lm = packed(name)
    if lora:
        lm = with_adapters(lm)
    model = SupervisedLM(lm, Backends("sdpa", "sdpa")).train()
    found = counted(lambda: model(make_batch(FAMILIES, 0)))
    products = sum(found.get(op, 0) for op in MATMULS)
    assert products == without_attention(StepFlops(structure).model).of(work())[0], found


def test_attention_is_what_torch_counts_of_dense_scores():
    """Dense attention takes all T^2 pairs of a document: with them for those that are causal, the
    counts are equal."""
    length = 12
    lm = packed("llama", "eager")
    structure = Structure.of_model(packed("llama"), fused=False)
    ids = torch.arange(length)[None]
    found = counted(lambda: lm(input_ids=ids, use_cache=False).logits.sum())
    dense = Rates(pair=StepFlops(structure).model.pair).of(
        Work(*(np.array([x]) for x in (0, length**2, 0, 0)))
    )
    assert found["aten.bmm"] == dense[0]


def test_pairs_of_supervised_queries():
    """Against a count one by one, of lone targets and branches of one length."""
    prefix, asked, target = 7, 3, 4
    for count in (1, 2, 5):
        fed = asked + target - 1
        pairs = prefix * (prefix + 1) // 2 + count * sum(prefix + i + 1 for i in range(fed))
        want = count * sum(prefix + i + 1 for i in range(fed - target, fed))
        found = supervised_pairs(
            *(np.array([x]) for x in (prefix + count * fed, pairs, count * target, count))
        )
        assert found[0] == pytest.approx(want, rel=1e-12)


def rows(documents):
    """Of 12 targets; those of one document are its branches."""
    return [
        {
            "id": str(i),
            "document": f"Text {i % documents}. " + "A text to sum up. " * (1 + i % documents % 4),
            "target": "A text. " * (1 + i % 3),
        }
        for i in range(12)
    ]


@pytest.mark.parametrize(("documents", "tolerance"), [(12, 0), (4, 0.05)])
def test_a_step_has_the_operations_of_its_bins(prepared, model_folder, documents, tolerance):
    """Against the batches that training is fed with; branches are taken to be equally long."""
    made = prepared(
        rows(documents), model=model_folder, max_length=96, training={"bins_per_step": 2}
    )
    epochs = made.epochs()
    epoch, structure = epochs.epoch(0), Structure.of(made.config)
    flops, work = StepFlops(structure), Work.of(epoch)
    np.testing.assert_array_equal(work.tokens, epoch.plan.tokens)
    for number in range(epoch.plan.num_bins):
        batch = make_batch(
            [family(epochs.store, epoch.layout, piece) for piece in epoch.plan.members(number)], 0
        )
        seen = batch.position_ids[0] + 1  # of its own document, a token sees those before it
        assert work.pairs[number] == seen.sum()
        assert work.supervised[number] == len(batch.positions)
        last = int(seen[batch.positions].sum())
        assert work.last_pairs[number] == pytest.approx(last, rel=tolerance, abs=1e-6)
    steps = [flops.step(epoch, index) for index in range(epoch.plan.num_steps)]
    for found, rates in zip(
        zip(*steps, strict=True), (flops.model, flops.conventional), strict=True
    ):
        # Each step is rounded to a whole operation.
        assert sum(found) == pytest.approx(rates.of(work).sum(), rel=0, abs=len(steps))


def test_the_conventional_figure_is_six_operations_a_token_and_parameter():
    """The head's and the layers' matrices and norms, without the table of embeddings."""
    structure = Structure.of_model(tiny_model("llama"))
    table = 300 * 32
    rates = StepFlops(structure).conventional
    assert rates.token == 6 * (structure.numel - table - 32)  # nor the last norm, of no layer
    assert rates.pair == 2 * 12 * structure.layers * structure.queries
    frozen = StepFlops(Structure.of_model(tiny_model("llama"), Lora(rank=RANK)))
    assert frozen.model.token < StepFlops(structure).model.token
