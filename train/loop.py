"""The training loop, top to bottom: load, prove, resume, step, log, save."""

import math
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from sumzero.config import RunConfig
from sumzero.errors import DataError
from sumzero.kernels.packed_attention import choose_backends
from sumzero.kernels.segments import Backends
from sumzero.loading import load_tokenizer
from sumzero.log import logger, progress
from sumzero.ranks import Ranks
from sumzero.runfolder import RunFolder, write_json
from sumzero.train import checkpoint, engine
from sumzero.train.attest import attest
from sumzero.train.batches import StepBatches, batches
from sumzero.train.epoch import Epochs
from sumzero.train.examples import check_prepared, store_file
from sumzero.train.heap import keep_freed_memory
from sumzero.train.identity import identity
from sumzero.train.layout import load_universal, zero_stage
from sumzero.train.model import attention_facts, check_context, hidden_size, load_model
from sumzero.train.packing import Plan
from sumzero.train.proof import prove_packing
from sumzero.train.saver import Saver
from sumzero.train.schedule import learning_rate
from sumzero.train.store import TokenStore
from sumzero.train.supervised import SupervisedLM
from sumzero.train.throughput import Throughput


def train(config: RunConfig, who: Ranks) -> None:
    """Fine-tunes to the last step, from the newest checkpoint where there is one.

    Every rank of the launch calls it. Raises a SumZeroError where data, settings or machine do not
    allow it, before anything is overwritten.
    """
    folder = RunFolder.of(config)
    path = folder.model_path(config)
    store = TokenStore(store_file(folder, "train"))
    epochs = make_epochs(store, config, hidden_size(path, config.model.revision))
    num_steps = epochs.num_steps
    data = check_prepared(config, folder)
    settings = engine.deepspeed_settings(
        config.model, config.train, epochs.num_micro_steps(who.world)
    )
    tokenizer = load_tokenizer(path, config.model.revision)
    check_context(path, config.data.max_length, config.model.revision)
    dtype = getattr(torch, config.model.dtype)

    device = engine.start(who)
    expected = identity(config, data, epochs.digest, zero_stage(settings))
    resume = checkpoint.find(folder.checkpoints, expected, who, settings)
    start = resume.state["step"] if resume else 0
    if resume and start >= num_steps:
        logger.info("trained already: %s", folder.checkpoints / resume.name)
        engine.leave()
        return
    if resume and resume.universal:
        settings = load_universal(settings)
    head_size, softcap = attention_facts(path, config.model.revision)
    backends = choose_backends(device, dtype, head_size, config.model.attention, softcap=softcap)
    torch.manual_seed(config.seed)
    with engine.zero3_loading(settings):
        lm = load_model(path, dtype, config.model.revision)
    attest(lm, path, config.model.revision, device)
    if config.train.gradient_checkpointing:
        lm.gradient_checkpointing_enable()
    model = SupervisedLM(lm, backends, fused=config.model.fused_layers)
    trainer = engine.Engine(model, settings, config.train)
    if device.type == "cpu":
        keep_freed_memory()  # not before: loading makes copies that are not needed again
    shared = config.data.share_documents and store.num_branches > len(store)
    difference = prove_packing(trainer.model, lm, len(tokenizer), shared=shared)
    if resume:
        trainer.load(folder.checkpoints, resume.name)
    saver = Saver(trainer, folder.checkpoints, who, config.train)
    if who.is_main:
        if config.data.validation:
            logger.warning("data.validation is prepared, but no validation loss is computed yet")
        folder.begin(config)
        write_json(folder.environment, _environment(who, device, backends))
        plan = epochs.epoch(0).plan
        _write_plan(plan, epochs, folder)
        folder.events.write(
            "start", step=start, steps=num_steps, ranks=who.world, packing_difference=difference
        )
        logger.info(
            "%s: %d targets of %d documents in %d bins (%.1f%% full), %d steps on %d x %s, "
            "attention: %s%s",
            path,
            store.num_branches,
            len(store),
            plan.num_bins,
            100 * plan.efficiency,
            num_steps,
            who.world,
            device.type,
            backends,
            f", resumed at step {start}" if start else "",
        )

    trainer.model.train()
    throughput = Throughput()
    pad_id = tokenizer.pad_token_id or 0
    feed = batches(
        epochs,
        rank=who.rank,
        world=who.world,
        start=start,
        stop=num_steps,
        pad_id=pad_id,
        loss_weight=config.train.loss_weight,
    )
    loss_sum, weight = torch.zeros((), device=device), 0  # since the last log
    with progress(iter(()), "training", total=num_steps, unit="step") as bar:
        bar.update(start)
        for step, work in feed:
            lr = learning_rate(step, num_steps, config.train)
            loss_sum += train_step(trainer, work, lr)
            weight += work.weight
            throughput.add(work.tokens)
            done = step + 1
            if done % config.train.log_every == 0 or done == num_steps:
                loss = float(trainer.total(loss_sum)) / max(1, weight)
                loss_sum, weight = torch.zeros_like(loss_sum), 0
                _log(folder, bar, who, trainer, throughput, loss=loss, lr=lr, step=done)
            if done == num_steps or _is_due(done, config.train.save_every):
                state = {**expected, "tokens_per_second": round(throughput.overall, 1)}
                saver.save(done, state)
            saver.poll()
            bar.update(1)
    saver.finish()
    if who.is_main:
        folder.events.write(
            "end",
            step=num_steps,
            seconds=round(throughput.seconds, 3),
            tokens_per_second=round(throughput.overall, 1),
            skipped_steps=trainer.skipped_steps,
        )
    trainer.close()


def train_step(trainer: engine.Engine, work: StepBatches, lr: float) -> torch.Tensor:
    """One optimizer step; returns this rank's summed loss, on the device and unread."""
    total = torch.zeros((), device=next(trainer.model.parameters()).device)
    for batch in work.batches:
        loss = trainer.model(batch)
        trainer.backward(loss, work.weight)
        trainer.step(lr)
        total += loss.detach()
    return total


def make_epochs(store: TokenStore, config: RunConfig, hidden_size: int) -> Epochs:
    """The epochs of a run's training data. Raises DataError where nothing can be learnt."""
    epochs = Epochs(store, config, hidden_size)
    try:
        epochs.epoch(0)
    except ValueError as error:
        raise DataError(f"data.train: {error}; run `sumzero prepare` again") from None
    return epochs


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _log(
    folder: RunFolder,
    bar: Any,
    who: Ranks,
    trainer: engine.Engine,
    throughput: Throughput,
    **values: float,
) -> None:
    if not math.isfinite(values["loss"]):
        logger.warning("step %d: the loss is %s", values["step"], values["loss"])
    if who.is_main:
        rate = throughput.mark()
        folder.events.write(
            "step", **values, gradient_norm=trainer.gradient_norm, tokens_per_second=round(rate, 1)
        )
        bar.set_postfix_str(f"loss {values['loss']:.3f}, {rate:,.0f} tokens/s", refresh=False)


def _write_plan(plan: Plan, epochs: Epochs, folder: RunFolder) -> None:
    write_json(
        folder.plan,
        {
            "digest": epochs.digest,
            "bins": plan.num_bins,
            "efficiency": round(plan.efficiency, 5),
            "steps_per_epoch": plan.num_steps,
            "steps": epochs.num_steps,
        },
    )


def _environment(who: Ranks, device: torch.device, backends: Backends) -> dict[str, Any]:
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "datasets", "sumzero")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": who.world,
        "threads": torch.get_num_threads(),
        "attention": vars(backends),
        "packages": {name: metadata.version(name) for name in packages},
    }
