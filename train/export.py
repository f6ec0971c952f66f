"""Checkpoint -> export folder: what inference needs, and all it needs.

Hugging Face safetensors that vLLM and transformers load as they are, the tokenizer, a generation
config with the stop ids as trained, and `contract.json`. The folder appears whole or not at all.

A run with adapters gives either the base with the adapters merged into it, as a folder like any
other, or the adapters alone, in peft's format.

Weights pass through memory one at a time (`final_weights`) and leave it by shards of 5 GB
(`shard_writer`): at most twice the largest weight in float32, and a shard. Afterwards the files are
read back by transformers' rules of loading, and each tensor's digest compared with that of what was
trained.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from sumzero.adapter import ABOUT, BASE_DIGEST
from sumzero.config import RunConfig
from sumzero.contract import make_contract, write_contract
from sumzero.errors import ConfigError, RunError
from sumzero.loading import load_tokenizer, local_folder
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, alone, atomic_folder, write_json
from sumzero.stamp import is_ours
from sumzero.train import checkpoint
from sumzero.train.examples import check_prepared
from sumzero.train.final_weights import Adapters, merged, trained
from sumzero.train.manifest import STATE
from sumzero.train.model import skeleton
from sumzero.train.saved_form import SavedForm, saved_names
from sumzero.train.shard_writer import LIMIT, ShardWriter, as_bytes, write_safetensors
from sumzero.train.weights import sources, weight_files
from sumzero.train.zero_shards import ZeroShards
from sumzero.weights_digest import weights_digest

Form = Literal["merge", "adapter"]


def export(
    config: RunConfig,
    name: str | None = None,
    *,
    form: Form | None = None,
    dtype: str | None = None,
    check: Callable[[Path], None] | None = None,
    to: Path | None = None,
    shard_size: int = LIMIT,
) -> Path:
    """Exports the checkpoint that `checkpoint.resolve` finds; returns the folder.

    `form` is for runs with adapters: "merge", the default, writes `export/`, "adapter" writes
    `adapter/`, in place of which `to` is written. `dtype` is by default the model's. `check` is
    given the folder before it gets its name, and raises where it is not to have it. Raises RunError
    where there is no such checkpoint, or what was written is not what was trained, ConfigError
    where there are no adapters to write.
    """
    folder = RunFolder.of(config)
    lora, revision = config.train.lora, config.model.revision
    if form == "adapter" and lora is None:
        raise ConfigError("--adapter: the run trains the whole model; it has no [train.lora]")
    if form == "merge" and lora is None:
        logger.warning("--merge has no effect: the run trains the whole model")
    where = _meant(folder.checkpoints, name)
    with _still_there(where):
        _check(config, folder, where)
        shards = ZeroShards(where)  # maps all files, which stay then though they be removed
    path, dtype = folder.model_path(config), dtype or config.model.dtype
    tokenizer = load_tokenizer(path, revision)
    renderer = PromptRenderer(tokenizer, config.data.truncation)
    model = skeleton(path, revision, getattr(torch, dtype))
    model.config.architectures, model.config.dtype = [type(model).__name__], dtype
    made = to or (folder.adapter if form == "adapter" else folder.export)
    # Not the run's own lock: a run can be exported while it is trained.
    lock = alone(made.parent, "sumzero export", lock=f".{made.name}.lock")
    with lock, atomic_folder(made) as partial:
        if lora is None:
            _write(partial, model, trained(model, shards, where), shard_size)
        elif form == "adapter":
            _write_adapters(partial, model, config, Adapters(model, lora, shards, where), path)
        else:
            if lora.base == "4bit":
                logger.info("trained over a 4-bit base, merged into %s as its files have it", path)
            adapters = Adapters(model, lora, shards, where)
            _write(partial, model, merged(model, adapters, path, revision), shard_size)
        if form != "adapter":
            model.config.save_pretrained(partial)
            GenerationConfig(
                eos_token_id=renderer.stop_ids, pad_token_id=tokenizer.pad_token_id
            ).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_contract(partial, make_contract(renderer, config.data))
        about = {
            "checkpoint": where.name,
            "form": (form or "merge") if lora else "whole",
            "dtype": dtype,
            "base": str(Path(path).resolve()) if Path(path).is_dir() else path,
            "revision": revision,
        }
        if form == "adapter":
            about[BASE_DIGEST] = weights_digest(local_folder(path, revision))
        write_json(partial / ABOUT, about)
        _keep_card(made, partial)
        if check:
            check(partial)
    logger.info("exported %s to %s", where.name, made)
    return made


def _meant(checkpoints: Path, name: str | None) -> Path:
    """The folder of a checkpoint, by default of the newest, with a word where `best` is another."""
    found, best = checkpoint.resolve(checkpoints, name), checkpoints / "best"
    if name is None and best.is_symlink() and (other := best.readlink().name) != found:
        logger.warning(
            "%s is the newest and %s the best: --checkpoint best exports that", found, other
        )
    return checkpoints / found


def _check(config: RunConfig, folder: RunFolder, where: Path) -> None:
    """Raises RunError where it is damaged, or of other data, another model or other adapters."""
    try:
        state = checkpoint.verified(where.parent, where.name)
    except RunError as error:
        raise RunError(f"{error}; export another checkpoint with --checkpoint") from None
    now = {"data": check_prepared(config, folder), "model": as_dict(config.model)}
    checkpoint.check_resumable(state, now, where)
    lora, then = as_dict(config.train).get("lora"), (state.get("train") or {}).get("lora")
    if lora != then:
        raise RunError(
            f"{where}: was trained with train.lora = {then}, and not {lora}; export with the run "
            "file that it was trained with"
        )


def _keep_card(before: Path, folder: Path) -> None:
    """A README.md that a user has written, or changed, outlives the export that it lies in."""
    card = before / "README.md"
    if card.is_file() and not is_ours(card):
        shutil.copy2(card, folder)


@contextmanager
def _still_there(where: Path) -> Iterator[None]:
    """Training that goes on may remove a checkpoint: a fault in the block is then told as that."""
    try:
        yield
    except (RunError, OSError):
        if (where / STATE).is_file():
            raise
        raise RunError(f"{where}: removed while it was read; export a newer one") from None


def _write(
    folder: Path, model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]], shard_size: int
) -> None:
    """Writes weights as save_pretrained would, reads them back and compares."""
    digests: dict[str, bytes] = {}

    def noted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            digests[name] = _digest(tensor)
            yield name, tensor

    names = saved_names(model)
    writer = ShardWriter(folder, shard_size)
    stored = set()
    for name, tensor in SavedForm(model, names)(noted()):
        writer.add(name, tensor)
        stored.add(name)
    writer.close(sum(parameter.numel() for parameter in model.parameters()))
    _verify(folder, model, names, stored, digests)


def _verify(
    folder: Path,
    model: PreTrainedModel,
    names: dict[str, Tensor],
    stored: set[str],
    digests: dict[str, bytes],
) -> None:
    """Loads the files as transformers does: every tensor is there once, with the values trained."""
    files, found = weight_files(str(folder)), []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found += list(opened.keys())
    if sorted(found) != sorted(stored):
        raise RunError(f"{folder}: the files hold other keys than were written; export again")
    left = set(names)
    for source in sources(model, model.state_dict(keep_vars=True), files):
        for name, values in source.values(model).items():
            if name not in left:
                raise RunError(f"{source.file}: {name} is there twice; nothing was exported")
            same = values.shape == names[name].shape and values.dtype == names[name].dtype
            if not same or _digest(values) != digests[name]:
                raise RunError(f"{source.file}: {name} is not what was trained; nothing exported")
            left.remove(name)
    if left:
        raise RunError(f"{folder}: {len(left)} weights were not written, {min(left)} first")


def _write_adapters(
    folder: Path, model: PreTrainedModel, config: RunConfig, adapters: Adapters, path: str
) -> None:
    """Writes adapters as peft does, reads them back and compares."""
    lora = config.train.lora
    assert lora is not None
    try:
        from peft import LoraConfig
    except ImportError:
        raise RunError("--adapter needs peft: pip install 'sumzero[train]'") from None
    tensors = adapters.tensors(model.dtype)
    file = folder / "adapter_model.safetensors"
    write_safetensors(file, tensors)
    LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=_shortest(model, adapters.modules),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=str(Path(path).resolve()) if Path(path).is_dir() else path,
        revision=config.model.revision,
    ).save_pretrained(str(folder))
    with safe_open(file, framework="pt") as opened:
        found = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    same = found.keys() == tensors.keys()
    if not same or any(_digest(found[key]) != _digest(tensors[key]) for key in found):
        raise RunError(f"{file}: is not what was trained; nothing was exported")


def _shortest(model: PreTrainedModel, modules: list[str]) -> list[str]:
    """Names that call for these modules and no others: their last parts where these do."""
    last = {module.rpartition(".")[2] for module in modules}
    called = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last if called == set(modules) else modules)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(as_bytes(tensor.contiguous())).digest()
