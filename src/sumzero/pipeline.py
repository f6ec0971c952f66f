"""All stages of a run on this machine, one after the other, each timed.

prepare -> train -> export -> generate -> score -> report

Training and engines run in processes of their own: `deepspeed` starts the ranks, and vLLM gives its
memory back only with its process. On a cluster the stages are jobs; see slurm/.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.log import logger
from sumzero.runfolder import RunFolder, alone
from sumzero.status import training

_CPU_RANKS = 2


class Stages:
    """Runs and times stages; `seconds` holds the wall time of each that is done."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the block as a stage and writes it to events.jsonl."""
        logger.info("== %s", name)
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun
        self._folder.events.write("stage", stage=name, seconds=round(self.seconds[name], 3))


def run(
    config: RunConfig,
    systems: Sequence[str] = ("untrained", "lead1", "finetuned"),
    before: Callable[[Stages], None] | None = None,
    num_ranks: int | None = None,
) -> tuple[dict[str, Any], Stages]:
    """Runs every stage; returns the scores and the stages' times.

    `before` runs first, with the stages; it makes the run folder. Raises a SumZeroError where a
    stage meets the user's fault, RunError where a stage's process failed.
    """
    if not config.data.test:
        raise ConfigError("data.test: a run ends in scores; set data.test.path")
    require_packages()
    folder = RunFolder.of(config)
    stages = Stages(folder)
    if before:
        before(stages)
    with stages("prepare"):
        prepare(config)
        _check_test_documents(config)
    with stages("train"):
        _train(folder, num_ranks or default_ranks())
    with stages("export"):
        export(config, vllm=False)  # which loads it next, to generate
    from sumzero.infer.generate import generate

    for system in systems:
        with stages(f"generate {system}"):
            generate(config, system)
    with stages("score"):
        from sumzero.infer.score import score

        scores = score(config)
    with stages("report"):
        from sumzero.infer.report import report

        report(config)
    return scores, stages


def _check_test_documents(config: RunConfig) -> None:
    """Raises ConfigError for those that generation would refuse, before hours go into training."""
    from sumzero.contract import make_contract
    from sumzero.infer.answering import Model
    from sumzero.infer.fit import check_fit
    from sumzero.infer.inputs import open_inputs
    from sumzero.infer.questions import asking
    from sumzero.loading import load_tokenizer
    from sumzero.prompt import PromptRenderer

    folder = RunFolder.of(config)
    path = folder.model_path(config)
    tokenizer = load_tokenizer(path, config.model.revision)
    renderer = PromptRenderer(tokenizer, config.data.truncation)
    contract = make_contract(renderer, config.data)
    model = Model(Path(path), contract, renderer, asking(config, contract))
    check_fit(model, open_inputs(folder.inputs, config.data.test), config.generate)


def prepare(config: RunConfig, processes: int | None = None) -> dict[str, Any]:
    """Makes the scratch model where one is asked for, then the token stores; returns the report.

    `processes` tokenise; by default one a core.
    """
    from sumzero.loading import load_tokenizer
    from sumzero.prompt import PromptRenderer
    from sumzero.train import examples
    from sumzero.train.model import hidden_size
    from sumzero.train.scratch import make_scratch_model

    folder = RunFolder.of(config)
    if not config.data.train:
        raise ConfigError("data.train: no training data; set data.train.path")
    with alone(folder.root, "sumzero prepare"):
        folder.begin(config)
        if config.model.path == "scratch":
            make_scratch_model(config, config.data.train, folder.scratch_model)
        path = folder.model_path(config)
        tokenizer = load_tokenizer(path, config.model.revision)
        renderer = PromptRenderer(tokenizer, config.data.truncation)
        width = hidden_size(path, config.model.revision)
        return examples.prepare(config, folder, renderer, width, processes)


def export(
    config: RunConfig,
    checkpoint: str | None = None,
    *,
    form: Literal["merge", "adapter"] | None = None,
    dtype: str | None = None,
    vllm: bool = True,
    probe: bool = True,
    to: Path | None = None,
) -> Path:
    """Exports a checkpoint and returns the folder, which transformers and vLLM have loaded then.

    They do so in a process of its own, before the folder gets its name; without `vllm` or where it
    is not installed, transformers alone, and without `probe` neither. Raises as
    `sumzero.train.export.export`, and RunError where one does not load it or they give different
    tokens.
    """
    from sumzero.runfile import as_dict
    from sumzero.train.export import export as write

    settings = json.dumps(as_dict(config))

    def check(folder: Path) -> None:
        flags = [] if vllm else ["--no-vllm"]
        _process("-m", "sumzero.probe", str(folder), *flags, "--settings", settings)

    made = write(config, checkpoint, form=form, dtype=dtype, check=check if probe else None, to=to)
    if not probe:
        logger.warning("%s: not loaded by transformers, nor by vLLM: --no-probe", made)
    return made


def require_packages() -> None:
    """Raises RunError where a package that the whole way needs is not installed."""
    missing = [name for name in ("deepspeed", "vllm") if find_spec(name) is None]
    if missing:
        raise RunError(
            f"{' and '.join(missing)} not installed; run `make install` (CPU), or "
            "pip install 'sumzero[train]' and 'sumzero[infer]' (GPU)"
        )


def default_ranks() -> int:
    """Training processes of this machine: one a GPU, or two on the CPU."""
    import torch

    return torch.cuda.device_count() or _CPU_RANKS


def _train(folder: RunFolder, num_ranks: int) -> None:
    _process(
        *("-m", "deepspeed.launcher.runner", "--quiet", "--num_gpus", str(num_ranks)),
        *("--master_addr", "127.0.0.1", "--master_port", str(free_port())),
        *("--module", "sumzero.train", str(folder.config)),
    )
    # DeepSpeed's launcher can exit with 0 after its agent was killed: look for the result.
    if training(folder)["state"] != "finished":
        raise RunError(f"{folder.checkpoints}: training ended before its last step; run it again")


def _process(*arguments: str) -> None:
    """Runs Python with `arguments`, its output shown as it comes. Raises RunError if it fails.

    A user's fault was reported by the process itself, in its own line.
    """
    environment = {
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONWARNINGS": "ignore",
        **os.environ,
    }
    import torch

    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    code = subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode
    if code != 0:
        what = " ".join(arguments[1:4])
        raise RunError(f"{what} ended with exit code {code}; its own message stands above")


def free_port() -> int:
    """A port that is free now, and that no connection is given before it is bound.

    Linux takes those of outgoing connections from 32768 upwards.
    """
    for port in random.Random().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RunError("no free port between 20000 and 32000")
