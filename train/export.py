"""Checkpoint -> export folder: what inference needs, and all it needs.

Hugging Face safetensors that vLLM and transformers load as they are, the tokenizer, a generation
config with the stop ids as trained, and `contract.json`. The folder appears whole or not at all.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from sumzero.config import RunConfig
from sumzero.contract import make_contract, write_contract
from sumzero.errors import RunError
from sumzero.loading import load_tokenizer
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, atomic_folder
from sumzero.train import checkpoint
from sumzero.train.engine import consolidated_weights
from sumzero.train.examples import check_prepared


def export(config: RunConfig, name: str | None = None) -> Path:
    """Exports a checkpoint, by default the newest whole one; returns the export folder.

    Raises RunError where there is none, or what was written is not what was trained.
    """
    folder = RunFolder.of(config)
    name = name or checkpoint.newest(folder.checkpoints)
    if name is None or name not in checkpoint.whole(folder.checkpoints):
        have = ", ".join(checkpoint.whole(folder.checkpoints)) or "none"
        raise RunError(
            f"{folder.checkpoints}: no whole checkpoint{f' {name}' if name else ''} (there: {have})"
            "; train first: deepspeed --module sumzero.train RUN.toml"
        )
    state = checkpoint.read_state(folder.checkpoints, name)
    now = {"data": check_prepared(config, folder), "model": as_dict(config.model)}
    checkpoint.check_resumable(state, now, folder.checkpoints / name)
    path = folder.model_path(config)
    tokenizer = load_tokenizer(path, config.model.revision)
    renderer = PromptRenderer(tokenizer, config.data.truncation)
    dtype = getattr(torch, config.model.dtype)
    weights = consolidated_weights(folder.checkpoints, name)
    settings = AutoConfig.from_pretrained(
        path, revision=config.model.revision, trust_remote_code=False
    )
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    missing, unexpected = model.load_state_dict(
        {name: value.to(dtype) for name, value in weights.items()}, strict=False
    )
    tied = set(model.all_tied_weights_keys)
    if unexpected or set(missing) - tied:
        raise RunError(
            f"{folder.checkpoints / name}: not a checkpoint of {path}: "
            f"{len(missing)} weights missing, {len(unexpected)} unknown"
        )
    model.tie_weights()
    model.generation_config = GenerationConfig(
        eos_token_id=renderer.stop_ids, pad_token_id=tokenizer.pad_token_id
    )
    with atomic_folder(folder.export) as partial:
        model.save_pretrained(partial, max_shard_size="5GB")
        tokenizer.save_pretrained(partial)
        write_contract(partial, make_contract(renderer, config.data))
        _verify(partial, model)
    logger.info("exported %s to %s", name, folder.export)
    return folder.export


def _verify(folder: Path, model: torch.nn.Module) -> None:
    """Reads the files back: every weight is there once, with the values it should have."""
    expected = model.state_dict()
    seen: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            for key in content.keys():  # noqa: SIM118 - not a mapping
                if key not in expected or not torch.equal(content.get_tensor(key), expected[key]):
                    raise RunError(f"{file}: {key} is not what was trained; nothing was exported")
                seen.add(key)
    lacking = set(expected) - seen - set(getattr(model, "all_tied_weights_keys", {}))
    if lacking:
        raise RunError(f"{folder}: {len(lacking)} weights were not written, {min(lacking)} first")
