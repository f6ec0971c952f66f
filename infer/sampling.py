"""vLLM's SamplingParams, as our settings and requests have them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sumzero.config import Generate

_ONE: dict[str, Any] = {"max_tokens": 1, "ignore_eos": True, "detokenize": False}


def sampling(
    settings: Generate, stop_ids: list[int], seed: int, *, ignore_eos: bool = False
) -> Any:
    """vLLM's SamplingParams, explicit in all that matters."""
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams

    repeats = None
    if settings.max_repeats is not None:
        repeats = RepetitionDetectionParams(
            max_pattern_size=settings.repeat_tokens, min_count=settings.max_repeats
        )
    return SamplingParams(
        max_tokens=settings.max_new_tokens,
        min_tokens=settings.min_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        frequency_penalty=settings.frequency_penalty,
        repetition_penalty=settings.repetition_penalty,
        repetition_detection=repeats,
        seed=seed,
        stop_token_ids=stop_ids,
        skip_special_tokens=True,
        ignore_eos=ignore_eos,
    )


def without_texts(settings: Generate) -> Generate:
    """For an engine that gives log-probabilities alone: without beam search and speculation."""
    return replace(
        settings, beams=1, length_penalty=1.0, early_stopping=False, speculative_tokens=None
    )


def one_token(likeliest: int) -> Any:
    """SamplingParams of a request for the log-probabilities of so many next tokens."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, logprobs=likeliest, **_ONE)


def logprobs_of(scored: int, among: Sequence[int]) -> Any:
    """SamplingParams of a request for log-probabilities, or None of one that asks for none.

    They are those of the prompt where its last tokens are `scored`, or of the next token if it were
    one of `among`; vLLM makes a token all the same. For `scored` it reads no prefix cache, and
    holds `batched_tokens` x vocabulary x 6 bytes or more of logits that its reckoning of memory
    leaves out.
    """
    from vllm import SamplingParams

    if among:
        return SamplingParams(temperature=0.0, logprob_token_ids=list(among), **_ONE)
    how = {"prompt_logprobs": 0, "flat_logprobs": True, **_ONE}
    return SamplingParams(temperature=0.0, **how) if scored else None
