import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from sumzero.kernels import cross_entropy, reference
from sumzero.kernels import linear_cross_entropy as module
from sumzero.kernels.linear_cross_entropy import linear_cross_entropy

SIZE, COLUMNS = 8, 97
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "softcap": {"softcap": 3.0},
    "scale": {"scale": 0.3},
    "all": {"bias": True, "softcap": 3.0, "scale": 0.3},
}
# With SIZE, up to 8 rows of float32 and 16 of bfloat16 are one tile where the weight is trained.
ROWS = {"no rows": 0, "one row": 1, "one tile": 8, "many tiles, the last one partial": 45}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    """Tiles of 20 rows of bfloat16, a softmax of 3 rows at a time, products of 40 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE_BYTES", 20 * 2 * COLUMNS)
        patch.setattr(module, "_COLUMNS_AT_A_TIME", 40)
        patch.setattr(cross_entropy, "_BYTES_AT_A_TIME", 3 * 4 * COLUMNS)
        yield


def _inputs(num_rows, dtype, *, bias=False, size=SIZE, columns=COLUMNS, seed=0, device="cpu"):
    """(hidden, weight, perhaps bias), which are trained; labels; weights: 1, 0 and a fraction."""
    generator = torch.Generator().manual_seed(seed)
    # Of a wider tensor, every second row and a part of it: not contiguous.
    wide = torch.randn(2 * num_rows, size + 3, generator=generator).to(device, dtype)
    others = [torch.randn(columns, size, generator=generator)]
    others += [torch.randn(columns, generator=generator)] if bias else []
    trained = [wide[::2, :size], *(x.to(device, dtype) for x in others)]
    labels = torch.randint(columns, (num_rows,), generator=generator)
    weights = torch.tensor([1.0, 0.0, 0.3])[torch.arange(num_rows) % 3]
    return [x.requires_grad_() for x in trained], labels.to(device), weights.to(device)


def _loss(of, trained, labels, weights, *, bias=False, **head):
    bias_V = trained[2] if bias else None
    return of(*trained[:2], labels, weights, bias_V=bias_V, **head)


def _run(of, trained, *rest, **head):
    """The loss and its gradients, as one term of a larger loss: its own gradient is not 1."""
    loss = _loss(of, trained, *rest, **head)
    gradients = torch.autograd.grad(1.7 * loss, [x for x in trained if x.requires_grad])
    return loss.detach(), gradients


def _exactly(trained):
    return [x.detach().double().requires_grad_(x.requires_grad) for x in trained]


def _assert_error_is_at_most_that_of_the_plain_loss(trained, labels, weights, **head):
    exact = _exactly(trained)
    loss, gradients = _run(linear_cross_entropy, trained, labels, weights, **head)
    _, ordinary = _run(reference.linear_cross_entropy, trained, labels, weights, **head)
    want, exact_gradients = _run(reference.linear_cross_entropy, exact, labels, weights, **head)
    assert loss.dtype == torch.float32
    # A sum may be right by luck; its terms are not, all of them.
    errors = 0.0
    for row in torch.eye(len(labels), dtype=torch.float64, device=weights.device) * weights:
        both = [
            _loss(reference.linear_cross_entropy, x, labels, row, **head).detach()
            for x in (trained, exact)
        ]
        errors += (both[0].double() - both[1]).abs()
    assert (loss - want).abs() <= 2 * errors + torch.finfo(torch.float32).eps * want.abs()
    for x, found, plain, gradient in zip(
        trained, gradients, ordinary, exact_gradients, strict=True
    ):
        assert found.dtype == x.dtype
        floor = torch.finfo(x.dtype).eps * gradient.abs().amax()  # one rounding
        bound = 3 * (plain.double() - gradient).abs().amax() + floor
        assert (found.double() - gradient).abs().amax() <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 8, 45], ids=list(ROWS)[1:])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_error_is_at_most_that_of_the_plain_loss_in_the_same_precision(head, num_rows, dtype):
    inputs = _inputs(num_rows, dtype, bias="bias" in head)
    _assert_error_is_at_most_that_of_the_plain_loss(*inputs, **head)


def _assert_equals_the_reference(trained, labels, weights, **head):
    found, gradients = _run(linear_cross_entropy, trained, labels, weights, **head)
    want, wanted = _run(reference.linear_cross_entropy, trained, labels, weights, **head)
    assert found.dtype == torch.float64
    torch.testing.assert_close((found, *gradients), (want, *wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_equals_the_reference_in_float64(head, num_rows):
    inputs = _inputs(num_rows, torch.float64, bias="bias" in head)
    _assert_equals_the_reference(*inputs, **head)


@given(
    num_rows=st.integers(0, 40),
    size=st.integers(1, 12),
    columns=st.integers(1, 130),
    seed=st.integers(0, 9),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.3, 5.0]),
    softcap=st.none() | st.floats(0.5, 50),
)
def test_any_shape_equals_the_reference(num_rows, size, columns, seed, bias, scale, softcap):
    inputs = _inputs(num_rows, torch.float64, bias=bias, size=size, columns=columns, seed=seed)
    _assert_equals_the_reference(*inputs, bias=bias, scale=scale, softcap=softcap)


@pytest.mark.parametrize("num_rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen, num_rows):
    trained, labels, weights = _inputs(num_rows, torch.float64, bias=True)
    head = HEADS["all"]
    want, wanted = _run(reference.linear_cross_entropy, trained, labels, weights, **head)
    for index in frozen:
        trained[index].requires_grad_(False)
    loss = _loss(linear_cross_entropy, trained, labels, weights, **head)
    torch.testing.assert_close(loss.detach(), want, rtol=1e-12, atol=1e-12)
    assert loss.requires_grad == (len(frozen) < 3)
    for index, gradient in enumerate(wanted):
        if index in frozen:
            continue
        (found,) = torch.autograd.grad(1.7 * loss, trained[index], retain_graph=True)
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_rows", [0, 8, 45])
def test_the_gradients_that_a_pass_asks_for_and_no_others_are_computed(num_rows):
    trained, labels, weights = _inputs(num_rows, torch.float32)
    with torch.no_grad():
        loss = _loss(linear_cross_entropy, trained, labels, weights)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, _loss(linear_cross_entropy, trained, labels, weights).detach())
    found = module._op(*trained, None, labels, weights, 1.0, None, True, False, False)
    assert [x.numel() for x in found] == [1, num_rows * SIZE, 0, 0]


def test_no_rows_give_zero_and_zero_gradients():
    trained, labels, weights = _inputs(0, torch.bfloat16, bias=True)
    loss, gradients = _run(linear_cross_entropy, trained, labels, weights, bias=True)
    assert loss == 0
    for x, gradient in zip(trained, gradients, strict=True):
        assert gradient.shape == x.shape
        assert not gradient.any()


@pytest.mark.parametrize("num_rows", [8, 45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_retained_graph_gives_the_same_gradients_again(dtype, num_rows):
    trained, labels, weights = _inputs(num_rows, dtype, bias=True)
    loss = _loss(linear_cross_entropy, trained, labels, weights, bias=True)
    first = torch.autograd.grad(3 * loss, trained, retain_graph=True)
    torch.autograd.grad(loss, trained, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(3 * loss, trained), strict=True):
        assert torch.equal(one, other)


def test_gradients_are_not_differentiable():
    trained, labels, weights = _inputs(8, torch.float32)
    loss = _loss(linear_cross_entropy, trained, labels, weights)
    (gradient, _) = torch.autograd.grad(loss, trained, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [8, 45])
@pytest.mark.parametrize(
    ("head", "trains_weight"), [("plain", True), ("all", True), ("softcap", False)]
)
def test_the_operation_is_registered_as_torch_wants_it(head, trains_weight, num_rows, dtype):
    head = HEADS[head]
    trained, labels, weights = _inputs(num_rows, dtype, bias=True)
    hidden, weight, bias = trained
    weight.requires_grad_(trains_weight)
    bias = bias if "bias" in head else None
    options = head.get("scale", 1.0), head.get("softcap")
    flags = True, trains_weight, bias is not None
    torch.library.opcheck(module._op, (hidden, weight, bias, labels, weights, *options, *flags))


@pytest.mark.parametrize("num_rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph(backend, num_rows):
    trained, labels, weights = _inputs(num_rows, torch.float32, bias=True)

    def doubled(hidden, *rest, **head):
        return linear_cross_entropy(2 * hidden, *rest, **head)

    torch.compiler.reset()
    compiled = torch.compile(doubled, fullgraph=True, backend=backend)
    found = _run(compiled, trained, labels, weights, bias=True)
    want = _run(doubled, trained, labels, weights, bias=True)
    torch.testing.assert_close(found, want, rtol=0, atol=0)


class LargestAlive(TorchDispatchMode):
    """Bytes of tensors of vocabulary width, by dtype: the most that was alive at once."""

    def __init__(self, *inputs):
        super().__init__()
        self.inputs = {x.untyped_storage()._cdata for x in inputs}
        self.alive, self.most = {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, torch.Tensor) and x.ndim == 2 and x.shape[1] == COLUMNS:
                storage = x.untyped_storage()
                if storage._cdata not in self.inputs:
                    self.alive[storage._cdata] = StorageWeakRef(storage), x.dtype, storage.nbytes()
        for key in [key for key, (ref, *_) in self.alive.items() if ref.expired()]:
            del self.alive[key]
        for dtype in {dtype for _, dtype, _ in self.alive.values()}:
            now = sum(nbytes for _, of, nbytes in self.alive.values() if of == dtype)
            self.most[dtype] = max(now, self.most.get(dtype, 0))
        return out


@pytest.mark.parametrize("trains_weight", [True, False])
@pytest.mark.parametrize(("num_rows", "rows"), [(16, 16), (45, 20)])
@pytest.mark.parametrize("head", [HEADS["plain"], HEADS["all"]], ids=["plain", "all"])
def test_one_tile_of_logits_is_alive_and_less_of_it_in_float32(head, num_rows, rows, trains_weight):
    (hidden, weight, bias), labels, weights = _inputs(num_rows, torch.bfloat16, bias=True)
    options = head.get("scale", 1.0), head.get("softcap")
    with torch.no_grad(), LargestAlive(weight) as largest:
        module._loss_and_gradients(
            hidden,
            weight,
            bias if "bias" in head else None,
            labels,
            weights,
            *options,
            True,
            trains_weight,
            "bias" in head,
        )
    assert largest.most == {
        torch.bfloat16: rows * COLUMNS * 2,
        torch.float32: (2 if "softcap" in head else 3) * COLUMNS * 4,
    }


def test_the_backward_pass_makes_no_tensor_as_large_as_the_logits():
    trained, labels, weights = _inputs(16, torch.bfloat16)
    loss = _loss(linear_cross_entropy, trained, labels, weights)
    with LargestAlive(*trained) as largest:
        loss.backward()
    assert largest.most == {}


def test_shapes_and_dtypes_that_do_not_go_together_are_refused():
    (hidden, weight), labels, weights = _inputs(4, torch.float32)
    with pytest.raises(ValueError, match="do not go together"):
        linear_cross_entropy(hidden, weight[:, :5], labels, weights)
    with pytest.raises(ValueError, match="do not go together"):
        linear_cross_entropy(hidden, weight, labels, weights[:3])
    with pytest.raises(ValueError, match="do not go together"):
        linear_cross_entropy(hidden, weight, labels[:3], weights)
    with pytest.raises(ValueError, match=r"float32, the weight is torch\.bfloat16"):
        linear_cross_entropy(hidden, weight.bfloat16(), labels, weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 16, 45])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_error_on_a_gpu_is_at_most_that_of_the_plain_loss(head, num_rows, dtype):
    inputs = _inputs(num_rows, dtype, bias="bias" in head, device="cuda")
    _assert_error_is_at_most_that_of_the_plain_loss(*inputs, **head)
