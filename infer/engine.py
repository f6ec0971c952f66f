"""vLLM's engine in this process: token ids in, texts out, as they finish.

Requests are added one by one and the engine is stepped by hand, with a bounded number in flight:
finished ones come out at once, and the engine is never drained in between. `LLM.generate` would
return nothing before the last one ends, and one bad prompt would end them all.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sumzero.config import Generate
from sumzero.imports import uncollected
from sumzero.infer.beam_search import search, wanted
from sumzero.infer.installed_vllm import is_eager, is_on_cpu, set_environment
from sumzero.infer.lora import check_effect, lora_arguments, lora_requests
from sumzero.infer.sampling import logprobs_of, one_token, sampling

_LOOKUP = (2, 4)  # so many last tokens are looked up earlier in the text, the longest first


@dataclass(frozen=True)
class Request:
    """A prompt as token ids.

    `document` is what it is about: of several engines one is given all those in a row about the
    same, since it computes once what they begin with alike. Empty is about nothing in common.
    `adapter` is its adapters' folder. With `scored` or `among` only log-probabilities are wanted.
    """

    id: str
    prompt_ids: list[int]
    document: str = ""
    adapter: Path | None = None
    scored: int = 0  # last tokens of the prompt
    among: tuple[int, ...] = ()  # next tokens


@dataclass(frozen=True)
class Completion:
    """A finished request. `seconds` counts from its entry; `logprobs`, in nats, were asked for."""

    id: str
    text: str
    token_ids: tuple[int, ...]
    output_tokens: int
    finish_reason: str
    seconds: float
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A request that has no completion, and why."""

    id: str
    reason: str


def import_vllm(settings: Generate) -> None:
    """Takes seconds, which need not wait for what it is to run."""
    set_environment(settings)
    with uncollected():
        from vllm import EngineArgs, LLMEngine  # noqa: F401


def engine_arguments(
    model: Path | str,
    settings: Generate,
    max_length: int,
    seed: int,
    adapters: Sequence[Path] = (),
    batched_tokens: int | None = None,
) -> dict[str, Any]:
    """vLLM's engine arguments by name, and the environment that it reads when it is imported.

    `max_length` bounds prompt and output together, in tokens; `adapters` are all those that
    requests may run with; `batched_tokens` are computed at once, where vLLM is not to choose.
    """
    on_cpu, eager = is_on_cpu(), is_eager(settings)
    set_environment(settings)
    device: dict[str, Any] = (
        {"kv_cache_memory_bytes": int(settings.cpu_kv_cache_gib * 2**30)}
        if on_cpu
        else {"gpu_memory_utilization": settings.gpu_memory_utilization}
    )
    if settings.speculative_tokens is not None:
        device["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": settings.speculative_tokens,
            "prompt_lookup_min": _LOOKUP[0],
            "prompt_lookup_max": _LOOKUP[1],
        }
    if settings.beams > 1:
        device["max_logprobs"] = -1  # as many as a search wants
    if batched_tokens is not None:  # vLLM refuses fewer than one a sequence
        device["max_num_batched_tokens"] = max(batched_tokens, settings.max_in_flight)
    return {
        "model": str(model),
        "dtype": settings.dtype,
        "max_model_len": max_length,
        "max_num_seqs": settings.max_in_flight,
        "enable_prefix_caching": settings.prefix_caching,
        "tensor_parallel_size": settings.tensor_parallel,
        "enforce_eager": eager,
        "seed": seed,
        "trust_remote_code": False,
        "generation_config": "vllm",  # the model's own sampling defaults do not leak in
        "use_tqdm_on_load": False,
        **device,
        **lora_arguments(adapters, on_cpu=on_cpu),
    }


def next_tokens(output: Any) -> dict[int, float]:
    """Log-probabilities of the likeliest tokens, of a request for one."""
    (likeliest,) = output.outputs[0].logprobs
    return {id_: found.logprob for id_, found in likeliest.items()}


def completion(output: Any, seconds: float, request: Request | None = None) -> Completion:
    """A finished output of vLLM's; where only log-probabilities were asked for it has no text."""
    best, id_ = output.outputs[0], output.request_id
    if request and (request.among or request.scored):
        logprobs = (
            [best.logprobs[0][token].logprob for token in request.among]
            if request.among
            else output.prompt_logprobs.logprobs[-request.scored :]
        )
        return Completion(id_, "", (), 0, "scored", seconds, tuple(logprobs))
    ids, reason = tuple(best.token_ids), str(best.finish_reason)
    return Completion(id_, best.text, ids, len(ids), reason, seconds)


class Engine:
    """A vLLM engine in this process, for one model."""

    def __init__(
        self,
        model: Path | str,
        settings: Generate,
        max_length: int,
        seed: int,
        adapters: Sequence[Path] = (),
        batched_tokens: int | None = None,
    ) -> None:
        """Starts the engine; see `engine_arguments`. `adapters` are folders in peft's format."""
        arguments = engine_arguments(model, settings, max_length, seed, adapters, batched_tokens)
        from vllm import EngineArgs, LLMEngine

        self._loras = lora_requests(adapters)
        self._unproven = tuple(adapters)
        self._settings = settings
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))

    def generate(
        self,
        requests: Iterable[Request | None],
        stop_ids: list[int],
        seed: int,
        *,
        ignore_eos: bool = False,
        settings: Generate | None = None,
    ) -> Iterator[Completion]:
        """Yields completions as they finish, in any order; `requests` is read as room allows.

        They may give None for "none just now", as long as others are at work.
        With `ignore_eos` the model's own end of text ends none. With `settings` tokens are chosen
        by those, in place of the engine's own. Raises RunError where adapters change nothing of
        what follows the first request's prompt.
        """
        requests = iter(requests)
        if self._unproven and (first := next(requests, None)):
            self._check_adapters(first.prompt_ids)
            requests = chain([first], requests)
        settings = settings or self._settings
        if settings.beams > 1:
            yield from self._search(requests, stop_ids, settings)
            return
        generated = sampling(settings, stop_ids, seed, ignore_eos=ignore_eos)
        waiting = iter(requests)
        begun: dict[str, tuple[float, Request]] = {}
        more = True
        while more or begun:
            while more and len(begun) < self._settings.max_in_flight:
                try:
                    request = next(waiting)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                begun[request.id] = time.perf_counter(), request
                scored = logprobs_of(request.scored, request.among)
                self._add(request, scored or generated)
            for output in self._engine.step() if begun else ():
                if output.finished:
                    since, request = begun.pop(output.request_id)
                    yield completion(output, time.perf_counter() - since, request)

    def _add(self, request: Request, how: Any) -> None:
        prompt = {"prompt_token_ids": request.prompt_ids}
        lora = self._loras[request.adapter]
        self._engine.add_request(request.id, prompt, how.clone(), lora_request=lora)

    def _check_adapters(self, prompt_ids: list[int]) -> None:
        how = one_token(5)
        found = []
        for adapter in (None, *self._unproven):
            self._add(Request("adapter-check", prompt_ids, adapter=adapter), how)
            outputs: list[Any] = []
            while not any(output.finished for output in outputs):
                outputs += self._engine.step()
            found.append(next_tokens(outputs[-1]))
        check_effect(self._unproven, found)
        self._unproven = ()

    def _search(
        self, requests: Iterable[Request | None], stop_ids: list[int], settings: Generate
    ) -> Iterator[Completion]:
        """The same by beam search: each beam of each prompt is a request for one token."""
        how = one_token(wanted(settings.beams, stop_ids))
        adapters: dict[str, Path | None] = {}

        def ask(name: str, id_: str, ids: list[int]) -> None:
            self._add(Request(name, ids, adapter=adapters[id_]), how)

        def answers() -> Iterator[tuple[str, dict[int, float]]]:
            for output in self._engine.step():
                if output.finished:
                    yield output.request_id, next_tokens(output)

        def prompts() -> Iterator[tuple[str, list[int]] | None]:
            for request in requests:
                if request is None:
                    yield None
                    continue
                adapters[request.id] = request.adapter
                yield request.id, request.prompt_ids

        most = max(1, self._settings.max_in_flight // settings.beams)
        for id_, ids, seconds in search(prompts(), settings, stop_ids, most, ask, answers):
            del adapters[id_]
            stopped = ids[-1] in stop_ids
            text = self._engine.get_tokenizer().decode(
                ids[:-1] if stopped else ids,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            yield Completion(id_, text, ids, len(ids), "stop" if stopped else "length", seconds)
