"""vLLM's OpenAI-compatible server, taken apart: its engine and its app, to add to and to run.

vLLM's own `serve_http` stops the engine before the connections; here the app is run by the caller,
who stops in the other order, so that answers on their way arrive. The engine is a process of its
own, which ends with the block.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.engine import (
    Completion,
    completion,
    engine_arguments,
    next_tokens,
)
from sumzero.infer.installed_vllm import engine_version
from sumzero.infer.lora import check_effect, lora_requests
from sumzero.infer.sampling import one_token, sampling


@dataclass(frozen=True)
class Served:
    """What is served, under which name; `stop_ids` end every generation.

    With `adapter` the name is that of the model with the adapters, NAME-base that without.
    `max_length` bounds prompt and output together, in tokens. What follows `probe_ids` must not be
    the same with and without the adapters.
    """

    name: str
    model: Path
    adapter: Path | None
    settings: Generate
    max_length: int
    stop_ids: list[int]
    seed: int
    probe_ids: list[int]

    @property
    def adapters(self) -> list[Path]:
        """Those that the engine has room for."""
        return [] if self.adapter is None else [self.adapter]


class OpenAIApp:
    """A running engine, and vLLM's FastAPI app on it."""

    def __init__(self, client: Any, app: Any, served: Served) -> None:
        self.app = app
        self._client = client
        self._served = served
        self._loras = lora_requests(served.adapters)
        self._sampling = sampling(served.settings, served.stop_ids, served.seed)

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has ended or cannot go on."""
        return bool(self._client.errored)

    async def complete(self, prompt_ids: list[int]) -> Completion:
        """Generates for a prompt; a task that is cancelled ends the generation too."""
        begun = time.perf_counter()
        last = await self._last(prompt_ids, self._sampling.clone(), self._served.adapter)
        return completion(last, time.perf_counter() - begun)

    async def check_adapter(self, prompt_ids: list[int]) -> None:
        """Raises RunError where the adapters, if any, change nothing of what follows a prompt."""
        if not self._served.adapters:
            return
        found = [
            next_tokens(await self._last(prompt_ids, one_token(5), adapter))
            for adapter in (None, *self._served.adapters)
        ]
        check_effect(self._served.adapters, found)

    async def _last(self, prompt_ids: list[int], how: Any, adapter: Path | None) -> Any:
        """vLLM's last output for a prompt."""
        from vllm.sampling_params import RequestOutputKind

        how.output_kind = RequestOutputKind.FINAL_ONLY
        last = None
        async for output in self._client.generate(
            {"prompt_token_ids": prompt_ids},
            how,
            uuid.uuid4().hex,
            lora_request=self._loras[adapter],
        ):
            last = output
        assert last is not None, "a generation ends in an output"
        return last


@asynccontextmanager
async def openai_app(served: Served, grace: int) -> AsyncIterator[OpenAIApp]:
    """Starts vLLM's engine and builds its app.

    An engine that is told to end by someone else first ends what it has begun, in `grace` seconds.
    Raises RunError where vLLM does not start, or adapters change nothing.
    """
    with TemporaryDirectory(prefix="sumzero-") as folder:
        # vLLM's own routes end at the ids of a generation config: these, whatever the model's has.
        config = Path(folder) / "generation_config.json"
        config.write_text(json.dumps({"eos_token_id": served.stop_ids}), encoding="utf-8")
        arguments = engine_arguments(
            served.model, served.settings, served.max_length, served.seed, served.adapters
        )
        arguments |= {
            "generation_config": folder,
            # Where a request to them does not say.
            "override_generation_config": {
                "temperature": served.settings.temperature,
                "top_p": served.settings.top_p,
                "top_k": served.settings.top_k,
                "frequency_penalty": served.settings.frequency_penalty,
                "repetition_penalty": served.settings.repetition_penalty,
            },
            "served_model_name": [f"{served.name}-base" if served.adapter else served.name],
            "disable_log_stats": False,  # they are what /metrics shows
            "shutdown_timeout": grace,
        }
        async with AsyncExitStack() as stack:
            try:
                client, app = await stack.enter_async_context(_started(arguments, served))
            except Exception as error:  # vLLM has no errors of its own
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                raise RunError(f"{served.model}: {engine_version()}: {reason[0]}") from error
            openai = OpenAIApp(client, app, served)
            await openai.check_adapter(served.probe_ids)
            yield openai


@asynccontextmanager
async def _started(arguments: dict[str, Any], served: Served) -> AsyncIterator[tuple[Any, Any]]:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    vars(options).update(
        arguments,
        allowed_origins=[],  # pages of other sites have no business here
        disable_fastapi_docs=True,  # its pages load scripts from elsewhere
    )
    if served.adapter:
        options.lora_modules = [LoRAModulePath(served.name, str(served.adapter))]
    async with build_async_engine_client(options) as client:
        tasks = await client.get_supported_tasks()
        app = build_app(options, tasks, client.model_config)
        await init_app_state(client, app.state, options, tasks)
        yield client, app
