"""The training loop, top to bottom: prepare, assemble, resume; then step, log, evaluate, save."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch.distributed import DistBackendError

from sumzero.config import RunConfig
from sumzero.errors import RankLost, lost_connection
from sumzero.log import logger
from sumzero.ranks import Ranks
from sumzero.runfolder import RunFolder, alone, write_json
from sumzero.status import status
from sumzero.train import checkpoint, engine, journal
from sumzero.train.adapters import bin_seed
from sumzero.train.assemble import Assembled, assemble, check_ranks, environment, make_epochs
from sumzero.train.batches import StepBatches, batches
from sumzero.train.devices import peak_flops
from sumzero.train.epoch import Epochs
from sumzero.train.evaluation import Evaluation
from sumzero.train.examples import check_prepared, store_file, validation_digest
from sumzero.train.flops import StepFlops
from sumzero.train.identity import identity
from sumzero.train.layout import load_universal, zero_stage
from sumzero.train.losses import Losses
from sumzero.train.model import hidden_size
from sumzero.train.preempt import Asked, Preemption
from sumzero.train.run import Run
from sumzero.train.saver import Saver
from sumzero.train.schedule import learning_rate
from sumzero.train.sequence_parallel import check_sequence_parallel, columns
from sumzero.train.standing import Standing, is_finished
from sumzero.train.store import TokenStore
from sumzero.train.watch import StallWatch

_LOCK_LEASE = 100.0  # seconds, after which a file server forgets the lock of a dead machine


def train(config: RunConfig, who: Ranks) -> bool:
    """Fine-tunes to the last step, from the newest checkpoint where there is one.

    Every rank of the launch calls it. Returns whether the run is finished; one that was preempted
    is saved, and not finished. Raises a SumZeroError where data, settings or machine do not allow
    it, before anything is overwritten, and RankLost where another rank has died.
    """
    begun = time.monotonic()
    folder = RunFolder.of(config)
    data = check_prepared(config, folder)
    path = folder.model_path(config)
    check_sequence_parallel(config, path, who.world)
    journal.check_available(config)
    store = TokenStore(store_file(folder, "train"))
    width = hidden_size(path, config.model.revision)
    epochs = make_epochs(store, config, width)
    check_ranks(config, who, epochs)
    settings = engine.deepspeed_settings(
        config.model,
        config.train,
        epochs.num_micro_steps(columns(config, who).world),
        hidden_size=width,
        who=who,
        swap=folder.root / "swap",
    )
    expected = identity(config, data, epochs.digest, zero_stage(settings))
    lock = ExitStack()
    with Preemption(config.train, who, begun) as preemption, lock:
        device = engine.start(who)
        # Not before all ranks have met: one that fails alone leaves the others to wait for it.
        held = alone(folder.root, "training", _LOCK_LEASE)
        checkpoint.on_main(who, lambda: lock.enter_context(held))
        preemption.connect()
        stalled = partial(folder.events.write, "stalled")
        with StallWatch(who, 60 * config.train.stall_minutes, stalled) as watch:
            try:
                run = _begin(config, who, epochs, expected, settings, device, preemption, watch)
                if run is None:
                    engine.leave()
                    return True
                finished = _steps(run)
            except RuntimeError as error:
                is_of_links = isinstance(error, DistBackendError) or lost_connection(error)
                if is_of_links and (lost := watch.lost_rank()):
                    raise RankLost(lost) from None
                raise
            run.journal.close()
            run.trainer.close()
    return finished


def _begin(
    config: RunConfig,
    who: Ranks,
    epochs: Epochs,
    expected: dict[str, Any],
    settings: dict[str, Any],
    device: torch.device,
    preemption: Preemption,
    watch: StallWatch,
) -> Run | None:
    """Resumes where there is a checkpoint, assembles the rest; None where the run is finished."""
    folder = RunFolder.of(config)
    watch.at(0, "looking for a checkpoint", slow=True)
    resume = checkpoint.find(folder.checkpoints, expected, who, settings)
    standing = Standing.of(resume.state) if resume else Standing()
    if resume and is_finished(standing, epochs.num_steps, config.train):
        logger.info("trained already: %s", folder.checkpoints / resume.name)
        if who.is_main and status(folder)["state"] != "finished":  # it was killed before it said so
            folder.events.write("end", step=standing.step, skipped_steps=standing.skipped)
        return None
    if resume and resume.universal:
        settings = load_universal(settings)
    shared = config.data.share_documents and epochs.store.num_branches > len(epochs.store)
    made = assemble(
        *(config, settings, device),
        lambda doing: watch.at(standing.step, doing, slow=True),
        shared=shared,
    )
    losses = Losses(made.trainer.gather, config.train.spike)
    if resume:
        watch.at(standing.step, "loading its checkpoint", slow=True)
        made.trainer.load(folder.checkpoints, resume.name)
        losses.restore(resume.state)
    watch.at(standing.step, "laying out its data", slow=True)
    if standing.evaluate_on(validation_digest(config, folder)):
        logger.warning("data.validation has changed: its best loss so far is forgotten")
    about = environment(who, device, made.backends)
    checkpoint.on_main(who, lambda: _write_about(config, folder, epochs, about))
    book = journal.Journal(config, folder, who, standing.step, epochs.num_steps)
    book.event(
        "start",
        step=standing.step,
        steps=epochs.num_steps,
        ranks=who.world,
        packing_difference=made.difference,
    )
    logger.info("%s", _summary(config, who, folder, epochs, made, standing.step))
    return Run(
        config,
        who,
        folder,
        epochs,
        expected,
        made.trainer,
        Saver(made.trainer, folder.checkpoints, who, config.train, book.checkpoint),
        made.pad_id,
        standing,
        losses,
        book,
        preemption,
        watch,
        _evaluation(config, folder),
        _peak_flops(config, device),
    )


def _steps(run: Run) -> bool:
    """Trains to the last step; returns whether it was reached."""
    train, standing, num_steps = run.config.train, run.standing, run.epochs.num_steps
    if standing.owes_evaluation:
        run.evaluate_owed()
    column = columns(run.config, run.who)
    feed = batches(
        run.epochs,
        rank=column.rank,
        world=column.world,
        start=standing.step,
        stop=standing.step if standing.ends else num_steps,
        pad_id=run.pad_id,
        loss_weight=train.loss_weight,
        flops=StepFlops.of(run.config),
    )
    for step, work in feed:
        lr = learning_rate(step, num_steps, train)
        seeds = [bin_seed(run.config.seed, step, bin_) for bin_ in work.bins]
        loss = train_step(run.trainer, work, lr, seeds, partial(run.watch.at, step + 1))
        standing.step = step + 1
        run.losses.add(standing.step, work.weight, loss)
        run.count_skipped()
        run.throughput.add(work.tokens, work.flops)
        run.watch.at(standing.step, "between steps")

        is_last = standing.step == num_steps
        asked = run.preemption.vote()
        if is_last or standing.step % train.log_every == 0:
            run.log(lr)
        is_due = is_last or _is_due(standing.step, train.eval_every)
        # Where it ends in time, it is saved first: an evaluation can be long.
        standing.owes_evaluation = is_due and asked.ends and run.evaluation is not None
        is_best = is_due and not asked.ends and run.evaluate()
        standing.finished = is_finished(standing, num_steps, train)
        is_asked = asked != Asked.NOTHING or _is_due(standing.step, train.save_every)
        if standing.ends or is_asked or is_best:
            run.save()
        run.poll()
        run.journal.advance()
        if standing.ends or asked.ends:
            break
        run.watch.at(step + 2, "waiting for its batches")
    run.watch.at(standing.step, "waiting for its checkpoint", slow=True)
    run.throughput.pause(run.saver.finish())
    run.tell_end()
    return standing.finished


def train_step(
    trainer: engine.Engine,
    work: StepBatches,
    lr: float,
    seeds: list[int],
    tell: Callable[[str], None],
) -> torch.Tensor:
    """One optimizer step; returns this rank's summed loss, on the device and unread.

    `seeds` are those of the bins' dropout; `tell` is called with what is being done.
    """
    total = torch.zeros((), device=trainer.device)
    for number, (batch, seed) in enumerate(zip(work.batches, seeds, strict=True), start=1):
        tell(f"bin {number} of {len(seeds)}")
        torch.manual_seed(seed)
        loss = trainer.model(batch)
        trainer.backward(loss, work.weight)
        trainer.step(lr)
        total += loss.detach()
    return total


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _evaluation(config: RunConfig, folder: RunFolder) -> Evaluation | None:
    if config.data.validation:
        return Evaluation(TokenStore(store_file(folder, "validation")), config)
    without_effect = [
        f"train.{key}" for key in ("eval_every", "early_stop") if getattr(config.train, key)
    ]
    if without_effect:
        logger.warning("%s: no effect without data.validation", " and ".join(without_effect))
    return None


def _peak_flops(config: RunConfig, device: torch.device) -> float | None:
    """Of one device, FLOP/s; None where nothing is published for it and the recipe says nothing."""
    if config.train.peak_tflops is not None:
        return 1e12 * config.train.peak_tflops
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return peak_flops(name, config.model.dtype)


def _summary(
    config: RunConfig, who: Ranks, folder: RunFolder, epochs: Epochs, made: Assembled, start: int
) -> str:
    plan, store = epochs.epoch(0).plan, epochs.store
    return (
        f"{folder.model_path(config)}: {store.num_branches} targets of {len(store)} documents in "
        f"{plan.num_bins} bins ({100 * plan.efficiency:.1f}% full), {epochs.num_steps} steps on "
        f"{who.world} x {made.trainer.device.type}, attention: {made.backends}"
        + (f", resumed at step {start}" if start else "")
    )


def _write_about(
    config: RunConfig, folder: RunFolder, epochs: Epochs, about: dict[str, Any]
) -> None:
    folder.begin(config)
    write_json(folder.environment, about)
    plan = epochs.epoch(0).plan
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
