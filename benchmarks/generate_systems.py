"""Ways to generate, each timed in a process of its own: `python generate_systems.py SPEC`.

SPEC and the answer are JSON; `timed` starts it. Seconds are of the generation alone: the model is
loaded, and has answered two prompts, before the first repeat; prefix caches are emptied between.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

Ids = list[list[int]]
Generates = Callable[[Ids, list[int]], Ids]  # prompts and lengths of outputs to outputs


def timed(system: str, **spec: Any) -> dict[str, Any]:
    """Runs a system: `seconds` of each repeat, `outputs` of the last, and what else it tells."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **spec.pop("environment", {})}
    begun = time.perf_counter()
    done = subprocess.run(
        [*spec.pop("under", ()), sys.executable, __file__],
        input=json.dumps({"system": system, **spec}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds_all": time.perf_counter() - begun}


def _engine(spec: dict[str, Any]) -> Generates:
    """SumZero's engine loop; every request has a length of its own."""
    from sumzero.infer.engine import Engine, Request

    class Forced(Engine):
        lengths: list[int]

        def _add(self, request: Request, how: Any) -> None:
            own = how.clone()
            if request.id.isdecimal():  # and none of the engine's own
                own.max_tokens = own.min_tokens = self.lengths[int(request.id)]
            super()._add(request, own)

    adapters = [Path(folder) for folder in spec.get("adapters", ())]
    engine = Forced(spec["model"], _settings(spec), spec["positions"], 0, adapters)

    def generate(prompts: Ids, lengths: list[int]) -> Ids:
        engine._engine.reset_prefix_cache()
        engine.lengths = lengths
        order = range(len(prompts)) if spec.get("in_order") else _longest_first(prompts)
        each = cycle(adapters or [None])  # of several adapters a prompt has one
        requests = (Request(str(n), prompts[n], adapter=next(each)) for n in order)
        done = engine.generate(requests, [], 0, ignore_eos=True)
        found = {int(one.id): list(one.token_ids) for one in done}
        return [found[n] for n in range(len(found))]

    return generate


def _llm(spec: dict[str, Any]) -> Generates:
    """vLLM's own `LLM.generate`, with the engine arguments that SumZero's engine has."""
    from sumzero.infer.engine import engine_arguments

    arguments = engine_arguments(spec["model"], _settings(spec), spec["positions"], 0)
    from vllm import LLM, SamplingParams

    llm = LLM(**arguments)

    def generate(prompts: Ids, lengths: list[int]) -> Ids:
        llm.reset_prefix_cache()
        how = [
            SamplingParams(temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, seed=0)
            for n in lengths
        ]
        found = llm.generate([{"prompt_token_ids": ids} for ids in prompts], how, use_tqdm=False)
        if "write" in spec:
            with Path(spec["write"]).open("w", encoding="utf-8") as out:
                for number, one in enumerate(found):
                    row = {"id": f"row-{number}", "text": one.outputs[0].text.strip()}
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
        return [list(one.outputs[0].token_ids) for one in found]

    return generate


def _hf(spec: dict[str, Any]) -> Generates:
    """A loop of transformers' `generate`, padded on the left; a batch ends with its longest."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).eval()
    model.generation_config = GenerationConfig()
    size: int = spec["batch"]

    def generate(prompts: Ids, lengths: list[int]) -> Ids:
        made: dict[int, list[int]] = {}
        order = _longest_first(prompts)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            width = max(len(prompts[n]) for n in some)
            ids = torch.zeros(len(some), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, n in enumerate(some):
                ids[row, width - len(prompts[n]) :] = torch.tensor(prompts[n])
                mask[row, width - len(prompts[n]) :] = 1
            longest = max(lengths[n] for n in some)
            how = GenerationConfig(max_new_tokens=longest, do_sample=False, pad_token_id=0)
            out = model.generate(ids, how, attention_mask=mask)[:, width:].tolist()
            made |= {n: row[: lengths[n]] for n, row in zip(some, out, strict=True)}
        return [made[n] for n in range(len(made))]

    return generate


def _pipeline(spec: dict[str, Any]) -> Generates:
    """`pipeline("text-generation")`, one text after the other."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, pipeline

    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    pipe = pipeline("text-generation", spec["model"], tokenizer=tokenizer, dtype=torch.float32)
    pipe.model.generation_config = GenerationConfig()

    def generate(prompts: Ids, lengths: list[int]) -> Ids:
        made = []
        for ids, length in zip(prompts, lengths, strict=True):
            how = GenerationConfig(max_new_tokens=length, do_sample=False, pad_token_id=0)
            text = tokenizer.decode(ids)
            (found,) = pipe(text, generation_config=how, return_tensors=True)
            made.append(found["generated_token_ids"][-length:])
        return made

    return generate


def _settings(spec: dict[str, Any]) -> Any:
    from sumzero.config import Generate

    return Generate(dtype="float32", cpu_kv_cache_gib=1.0, **spec.get("settings", {}))


def _longest_first(prompts: Ids) -> list[int]:
    return sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))


SYSTEMS: dict[str, Callable[[dict[str, Any]], Generates]] = {
    "engine": _engine,
    "llm": _llm,
    "hf": _hf,
    "pipeline": _pipeline,
}


def _repeated(spec: dict[str, Any]) -> Iterator[tuple[float, Ids]]:
    generate = SYSTEMS[spec["system"]](spec)
    prompts, lengths = spec["prompts"], spec["lengths"]
    if spec.get("warm", True):
        generate(prompts[:2], lengths[:2])
    for _ in range(spec["repeats"]):
        begun = time.perf_counter()
        made = generate(prompts, lengths)
        yield time.perf_counter() - begun, made


if __name__ == "__main__":
    results = list(_repeated(json.loads(sys.stdin.read())))
    print(json.dumps({"seconds": [seconds for seconds, _ in results], "outputs": results[-1][1]}))
    sys.stdout.flush()
    os._exit(0)  # vLLM's threads are not waited for
