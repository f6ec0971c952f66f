"""Each kernel, forward and backward: ours, torch eager, torch.compile and Liger, in one run.

Time (median; on a GPU of the device alone, the caches emptied before each run), what that is in
bandwidth or operations beside the device's own ceiling (a large copy; a large bfloat16 product),
peak memory of the loss, and how far outputs and gradients lie from torch eager's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Results, main
from kernel_cases import Case, cases

VOCABULARY = 151_936
# Relative to the largest value: a few roundings of bfloat16 (eps 2 ** -7).
EQUAL = 2**-5
_AHEAD = 4_000_000  # cycles that a GPU waits (2 ms), so that the host does not count


def measure(options: argparse.Namespace, results: Results) -> None:
    """All kernels at all sizes."""
    results.peers.append("liger-kernel")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(0)
    liger = None
    if cuda:
        import liger_kernel.transformers.functional as liger
    sizes, tokens = ([1024, 2048, 4096], 8192) if cuda else ([1024], 2048)
    vocabulary = VOCABULARY
    if options.quick:
        sizes, tokens, vocabulary = sizes[:1], tokens // 4, VOCABULARY // 8
    timer = Timer(device, repeats=10 if options.quick else 30 if cuda else 5)
    ceilings = _ceilings(device, timer, results)
    for hidden in sizes:
        for case in cases(device, hidden, tokens, vocabulary, liger):
            _case(case, timer, ceilings[case.unit], results)


class Timer:
    """Median milliseconds of what runs on a device, one in turn with the other."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        size = 2**28 if device.type == "cuda" else 0  # larger than any L2 cache
        self._flush = torch.empty(size, dtype=torch.int8, device=device)

    def __call__(self, functions: dict[str, Callable[[], Callable[[], Any]]]) -> dict[str, float]:
        """Of what each function gives, which is ready to be called; the first two runs warm up."""
        times: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(self.repeats + 2):
            for name, prepare in functions.items():
                ready = prepare()
                self._flush.zero_()
                times[name].append(self._once(ready))
        return {name: statistics.median(each[2:]) for name, each in times.items()}

    def _once(self, ready: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            begun = time.perf_counter()
            ready()
            return 1e3 * (time.perf_counter() - begun)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_AHEAD)
        begin.record()
        ready()
        end.record()
        torch.cuda.synchronize()
        elapsed: float = begin.elapsed_time(end)
        return elapsed


def _ceilings(device: torch.device, timer: Timer, results: Results) -> dict[str, float]:
    """Rate of a copy, in GB/s, and of a product of bfloat16 matrices, in TFLOP/s."""
    size, side = (2**30, 8192) if device.type == "cuda" else (2**27, 2048)
    one, other = (torch.zeros(size, dtype=torch.int8, device=device) for _ in range(2))
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    times = timer({"copy": lambda: lambda: one.copy_(other), "product": lambda: lambda: a @ b})
    copy, product = 2 * size / times["copy"] / 1e6, 2 * side**3 / times["product"] / 1e9
    results.add("ceiling: copy", copy, "GB/s")
    results.add("ceiling: bfloat16 product", product, "TFLOP/s")
    return {"GB/s": copy, "TFLOP/s": product}


def _case(case: Case, timer: Timer, ceiling: float, results: Results) -> None:
    """All rows of a kernel at a shape."""
    torch.compiler.reset()
    functions = {"ours": case.ours}
    for name, peer in case.peers.items():
        if isinstance(peer, str):
            results.add(case.name, None, f"not measured: {peer}", peer=name)
        else:
            functions[name] = peer
    runs = {name: _Run(case, function) for name, function in functions.items()}
    values = {name: run.prepare()() for name, run in runs.items()}
    apart = max(_distance(found, values["torch eager"]) for found in values.values())
    del values
    times = timer({name: run.prepare for name, run in runs.items()})
    ours = times.pop("ours")
    for name, peer in times.items():
        goal = case.goal if name == "Liger" else None
        results.add(
            case.name,
            ours,
            "ms",
            peer=name,
            peer_value=peer,
            ratio=peer / ours,
            goal=f"at least {goal:g} times as fast as Liger" if goal else None,
            met=peer / ours >= goal if goal else None,
        )
    reached = case.work / ours / (1e6 if case.unit == "GB/s" else 1e9)
    results.add(
        f"{case.name}: reached",
        reached,
        case.unit,
        peer="ceiling",
        peer_value=ceiling,
        ratio=reached / ceiling,
    )
    if case.memory:
        _memory(case, runs, results)
    results.add(
        f"{case.name}: largest distance from torch eager",
        apart,
        "of the largest value",
        goal=f"at most {EQUAL:g}",
        met=apart <= EQUAL,
    )


def _memory(case: Case, runs: dict[str, "_Run"], results: Results) -> None:
    """Peak memory beside the inputs."""
    name = f"{case.name}: memory"
    if "Liger" not in runs:
        results.add(name, None, f"not measured: {case.peers['Liger']}", peer="Liger")
        return
    peaks = {}
    for which in ("ours", "Liger"):
        ready = runs[which].prepare()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ready()
        peaks[which] = (torch.cuda.max_memory_allocated() - before) / 1e9
    results.add(
        name,
        peaks["ours"],
        "GB",
        peer="Liger",
        peer_value=peaks["Liger"],
        ratio=peaks["Liger"] / peaks["ours"],
        goal=f"at most 1/{case.goal:g} of Liger's",
        met=peaks["ours"] * case.goal <= peaks["Liger"],
    )


class _Run:
    """Forward and backward of one function of a case."""

    def __init__(self, case: Case, function: Callable[..., Any]) -> None:
        self._inputs, self._function = case.inputs, function
        draw = torch.Generator(case.inputs[0].device).manual_seed(1)
        with torch.no_grad():
            outputs = _several(case.peers["torch eager"](*case.inputs))
        self._grads = [
            torch.randn(x.shape, generator=draw, device=x.device).to(x.dtype)
            if x.ndim
            else torch.ones_like(x)
            for x in outputs
        ]

    def prepare(self) -> Callable[[], list[torch.Tensor]]:
        """A call on copies, since Liger's kernels write over inputs and gradients.

        It gives the outputs, then the gradients of all inputs.
        """
        inputs = [x.detach().clone().requires_grad_() for x in self._inputs]
        grads = [grad.clone() for grad in self._grads]

        def ready() -> list[torch.Tensor]:
            outputs = _several(self._function(*inputs))
            return [*outputs, *torch.autograd.grad(outputs, inputs, grads)]

        return ready


def _several(out: Any) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else list(out)


def _distance(found: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    """The largest difference in any of the tensors, relative to the largest value of that one."""
    distances = []
    for one, other in zip(found, want, strict=True):
        one, other = one.detach().float(), other.detach().float()
        distances.append(float((one - other).abs().max() / other.abs().max()))
    return max(distances)


if __name__ == "__main__":
    main("bench_kernels", measure)
