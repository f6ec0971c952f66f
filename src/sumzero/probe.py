"""`python -m sumzero.probe FOLDER`: an export, loaded by transformers and vLLM, gives the same.

Both continue a probe prompt of its contract greedily by 32 tokens. The folder holds a model, or
adapters in peft's format, which are then loaded over their base.

When tokens may differ. Two programs round differently, and where two tokens are about as likely,
either may come out on top. So vLLM's tokens need not be transformers' own. Each of them must be, of
the logits that transformers gives after the same tokens, the largest, or below it by at most four
times the rounding error there. That error is measured: it is the largest difference between the
logits in the export's dtype and those in the next wider one (float32, or of float32 float64). Four,
since two logits are compared, and vLLM's error may be twice that of transformers.
"""

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoModelForCausalLM

from sumzero import log
from sumzero.config import Generate, RunConfig
from sumzero.contract import FILE
from sumzero.errors import RunError, guarded
from sumzero.loading import local_folder
from sumzero.log import logger
from sumzero.runfile import check
from sumzero.runfolder import read_json

NUM_TOKENS = 32
_WIDER = {"float32": torch.float64, "bfloat16": torch.float32, "float16": torch.float32}
_ADAPTER = "adapter_config.json"


def main() -> int:
    """Checks one folder. Returns the exit code: 2 where it is not to be used."""
    parser = argparse.ArgumentParser(prog="python -m sumzero.probe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", required=True, help="the run's, as JSON")
    parser.add_argument("--no-vllm", action="store_true")
    options = parser.parse_args()
    log.configure()
    config = check(json.loads(options.settings), "--settings")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    probe(options.folder, config, vllm=not options.no_vllm)
    return 0


def probe(folder: Path, config: RunConfig, *, vllm: bool) -> None:
    """Loads the folder with transformers, and with vLLM where asked for and installed.

    Raises RunError where one of them does not load it whole, or they disagree.
    """
    prompt = read_json(folder / FILE, "sumzero export")["probes"][0]["ids"]
    dtype = config_dtype(folder, config)
    model = _load(folder, getattr(torch, dtype), config)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    count = NUM_TOKENS if limit is None else min(NUM_TOKENS, limit - len(prompt))
    if count < 1:
        raise RunError(f"{folder}: the probe prompt of {len(prompt)} tokens leaves no room")
    tokens = greedy(model, prompt, count)
    del model
    if not vllm or not find_spec("vllm"):
        why = "not installed" if vllm else "--no-vllm"
        logger.warning("%s: loaded by transformers; not checked with vLLM: %s", folder, why)
        return
    found = _of_vllm(folder, prompt, count, dtype, config)
    if found == tokens:
        logger.info("transformers and vLLM give the same %d greedy tokens", count)
        return
    exact, wide = (
        _logits(_load(folder, one, config), prompt, found)
        for one in (getattr(torch, dtype), _WIDER[dtype])
    )
    fault = disagreement(found, exact, wide)
    if fault is not None:
        raise RunError(f"{folder}: vLLM does not continue as transformers does: {fault}")
    first = next(i for i in range(count) if found[i] != tokens[i])
    logger.info(
        "transformers and vLLM agree: %d greedy tokens, from the %d-th within rounding",
        count,
        first + 1,
    )


def disagreement(tokens: list[int], exact_TV: torch.Tensor, wide_TV: torch.Tensor) -> str | None:
    """Which of `tokens` (T) is not greedy within rounding, in words; None where all are.

    `exact_TV` are the logits before each of them in the export's dtype, `wide_TV` in a wider one.
    """
    finite_T = exact_TV.isfinite().all(1) & wide_TV.isfinite().all(1)
    if not finite_T.all():
        return f"token {int(finite_T.int().argmin()) + 1}: its logits are not all finite"
    error_T = (exact_TV.double() - wide_TV.double()).abs().amax(1)
    chosen_T = wide_TV.double()[torch.arange(len(tokens)), torch.tensor(tokens)]
    below_T = wide_TV.double().amax(1) - chosen_T
    wrong = torch.nonzero(below_T > 4 * error_T)
    if not len(wrong):
        return None
    at = int(wrong[0])
    return (
        f"token {at + 1} is {tokens[at]}, whose logit is {float(below_T[at]):.2g} below that of "
        f"{int(wide_TV[at].argmax())}, with a rounding error of {float(error_T[at]):.2g}"
    )


@torch.no_grad()
def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The `count` most likely tokens, one after the other; the end of a turn ends nothing.

    Raises RunError where a logit is not finite.
    """
    tokens: list[int] = []
    fed, cache = torch.tensor([prompt]), None
    for _ in range(count):
        out = model(input_ids=fed, past_key_values=cache, use_cache=True)
        logits_V = out.logits[0, -1]
        if not logits_V.isfinite().all():
            raise RunError(
                f"the logits of the probe's token {len(tokens) + 1} are not all finite in "
                f"{str(model.dtype).removeprefix('torch.')}; export a wider --dtype or another "
                "checkpoint"
            )
        tokens.append(int(logits_V.argmax()))
        fed, cache = torch.tensor([tokens[-1:]]), out.past_key_values
    return tokens


@torch.no_grad()
def _logits(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Those before each of `tokens`, given the ones before it: (T, V)."""
    fed = torch.tensor([prompt + tokens[:-1]])
    logits: torch.Tensor = model(input_ids=fed, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits


def config_dtype(folder: Path, config: RunConfig) -> str:
    """The dtype an export is run in: its own, or of adapters the run's."""
    if (folder / _ADAPTER).is_file():
        return config.model.dtype
    return str(read_json(folder / "config.json", "sumzero export")["dtype"])


def _load(folder: Path, dtype: torch.dtype, config: RunConfig) -> Any:
    """The model on the CPU, by transformers' own code. Raises RunError where it is not whole."""
    adapter = folder / _ADAPTER
    path = base_folder(folder, config) if adapter.is_file() else folder
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    faults = {kind: keys for kind, keys in info.items() if keys}
    if faults:
        raise RunError(f"{path}: transformers does not load it whole: {faults}")
    if adapter.is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).to(dtype)
    return model.eval()


def base_folder(folder: Path, config: RunConfig) -> Path:
    """Where the base of adapters lies: as a folder, since vLLM is told no revision."""
    base = read_json(folder / _ADAPTER, "sumzero export --adapter")["base_model_name_or_path"]
    return local_folder(str(base), config.model.revision)


def _of_vllm(
    folder: Path, prompt: list[int], count: int, dtype: str, config: RunConfig
) -> list[int]:
    from sumzero.infer.engine import Engine, Request

    ours = config.generate
    settings = Generate(  # greedy, whatever the run asks for; the device's as the run has them
        dtype=cast(Literal["float32", "bfloat16", "float16"], dtype),
        max_new_tokens=count,
        max_in_flight=1,
        tensor_parallel=ours.tensor_parallel,
        gpu_memory_utilization=ours.gpu_memory_utilization,
        cpu_kv_cache_gib=ours.cpu_kv_cache_gib,
        enforce_eager=ours.enforce_eager,
    )
    adapter = folder if (folder / _ADAPTER).is_file() else None
    model = base_folder(folder, config) if adapter else folder
    try:
        engine = Engine(
            model, settings, len(prompt) + count, config.seed, [adapter] if adapter else []
        )
        request = Request("probe", prompt, adapter=adapter)
        (made,) = engine.generate([request], [], config.seed, ignore_eos=True)
    except Exception as error:  # vLLM has no errors of its own
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunError(
            f"{folder}: vLLM cannot run it: {reason[0]}; --no-vllm exports without this check"
        ) from error
    return list(made.token_ids)


if __name__ == "__main__":
    sys.exit(guarded(main))
