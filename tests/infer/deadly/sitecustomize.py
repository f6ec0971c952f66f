"""With this folder on PYTHONPATH a process ends at certain prompts, when they enter vLLM's engine.

DEADLY is JSON: token ids by how it ends, {"kill": [...], "raise": [...]}. They stand in the prompt
one after the other.
"""

import json
import os
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

_DEADLY = json.loads(os.environ.get("DEADLY", "{}"))


def _holds(prompt_ids, some):
    return any(prompt_ids[i : i + len(some)] == some for i in range(len(prompt_ids)))


class _Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "vllm.v1.engine.llm_engine":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            add = module.LLMEngine.add_request

            def add_request(engine, id_, prompt, *more, **named):
                for how, some in _DEADLY.items():
                    if _holds(prompt["prompt_token_ids"], some):
                        if how == "kill":
                            os.kill(os.getpid(), signal.SIGKILL)
                        raise RuntimeError("an error of the device")
                return add(engine, id_, prompt, *more, **named)

            module.LLMEngine.add_request = add_request

        spec.loader.exec_module = exec_module
        return spec


if _DEADLY:
    sys.meta_path.insert(0, _Finder())
