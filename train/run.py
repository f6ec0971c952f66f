"""What a run does besides its steps: it logs, evaluates, saves, and counts what went wrong."""

import time
from dataclasses import dataclass, field
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.log import logger
from sumzero.ranks import Ranks
from sumzero.runfolder import RunFolder
from sumzero.train.engine import Engine
from sumzero.train.epoch import Epochs
from sumzero.train.evaluation import Evaluation
from sumzero.train.journal import Journal
from sumzero.train.losses import Losses
from sumzero.train.preempt import Asked, Preemption
from sumzero.train.saver import Saver
from sumzero.train.sequence_parallel import columns
from sumzero.train.standing import Standing, is_finished
from sumzero.train.throughput import Throughput
from sumzero.train.watch import StallWatch


@dataclass
class Run:
    """All that the loop works with. Its methods are called by all ranks together.

    `identity` is what a checkpoint must have been made with to be continued.
    """

    config: RunConfig
    who: Ranks
    folder: RunFolder
    epochs: Epochs
    identity: dict[str, Any]
    trainer: Engine
    saver: Saver
    pad_id: int
    standing: Standing
    losses: Losses
    journal: Journal
    preemption: Preemption
    watch: StallWatch
    evaluation: Evaluation | None
    peak_flops: float | None
    throughput: Throughput = field(default_factory=Throughput)

    def count_skipped(self) -> None:
        """After a step: counts it where ZeRO skipped it. Raises RunError where too many were."""
        standing = self.standing
        is_skipped = self.trainer.skipped_steps > standing.skipped
        standing.count_skipped(is_skipped)
        if is_skipped:
            records = self.epochs.records(standing.step - 1)
            self.journal.event("skipped", step=standing.step, records=records)
            logger.warning("step %d: a loss or gradient is not finite: skipped", standing.step)
            try:
                standing.check_skipped(self.config.train.max_skipped, records)
            except RunError:  # all ranks meet it: what is being saved may become whole
                self.saver.finish()
                raise

    def log(self, lr: float) -> None:
        """The figures since the last time."""
        self._fetch_losses()
        rate = self.throughput.mark()
        mfu = rate.mfu(self.peak_flops, self.who.world)
        self.journal.step(
            self.standing.step,
            loss=self.losses.take(),
            lr=lr,
            gradient_norm=self.trainer.gradient_norm,
            tokens_per_second=round(rate.tokens, 1),
            seconds_per_step=round(rate.seconds_per_step, 4),
            mfu=None if mfu is None else round(mfu, 4),
        )

    def evaluate(self) -> bool:
        """The loss on held-out records; returns whether it is the best so far.

        Where the run is asked to end in the meantime it is broken off, and owed.
        """
        if self.evaluation is None:
            return False
        self.watch.at(self.standing.step, "evaluation", slow=True)
        begun = time.perf_counter()
        losses = self.evaluation.losses(
            self.trainer,
            columns(self.config, self.who),
            self.pad_id,
            lambda: self.preemption.look().ends,
        )
        self.throughput.pause(time.perf_counter() - begun)
        self.preemption.paused()
        self.standing.owes_evaluation = losses is None
        if losses is None:
            logger.warning("step %d: its evaluation is left to the next start", self.standing.step)
            return False
        is_best = self.standing.evaluated(losses["loss"])
        self.journal.evaluation(self.standing.step, losses)
        logger.info(
            "step %d: validation loss %.4f%s",
            self.standing.step,
            losses["loss"],
            ", the best so far" if is_best else "",
        )
        return is_best

    def evaluate_owed(self) -> None:
        """What a run that ended in time had no time for. Raises RunError where it never will."""
        standing = self.standing
        standing.owes_evaluation = False
        is_best = self.evaluate()
        if standing.owes_evaluation and self.preemption.look() == Asked.END_IN_TIME:
            raise RunError(
                f"train.max_minutes = {self.config.train.max_minutes:g}: too little for one "
                "evaluation; raise it, or have fewer records in data.validation"
            )
        standing.finished = is_finished(standing, self.epochs.num_steps, self.config.train)
        if is_best or standing.finished:
            self.save()

    def save(self) -> None:
        """A checkpoint of this step; `best` points to it where its evaluation is the best."""
        standing = self.standing
        self.watch.at(standing.step, "saving", slow=True)
        self._fetch_losses()
        state = {**self.identity, **standing.as_state(), **self.losses.state()}
        is_best = standing.best_step == standing.step
        seconds = self.saver.save(standing.step, state, best=is_best)
        self.preemption.saved(self.saver.longest)
        self.throughput.pause(seconds)
        self.journal.flush()

    def tell_end(self) -> None:
        """How it ended: finished, or preempted and to be started again."""
        standing, num_steps = self.standing, self.epochs.num_steps
        self.throughput.mark()  # steps since the last log line
        self.journal.event(
            "end" if standing.finished else "preempted",
            step=standing.step,
            seconds=round(self.throughput.seconds, 3),
            tokens_per_second=round(self.throughput.overall, 1),
            skipped_steps=standing.skipped,
        )
        if not standing.finished:
            logger.warning("preempted: saved at step %d of %d", standing.step, num_steps)
        elif standing.step < num_steps:
            logger.info(
                "ended early at step %d: best validation loss %.4f at step %d",
                *(standing.step, standing.best, standing.best_step),
            )

    def poll(self) -> None:
        """Between steps: gives an asynchronous checkpoint its name once it is written."""
        begun = time.perf_counter()
        self.saver.poll()
        self.throughput.pause(time.perf_counter() - begun)

    def _fetch_losses(self) -> None:
        for spike in self.losses.fetch():
            self.journal.event("spike", **vars(spike), records=self.epochs.records(spike.step - 1))
            logger.warning(
                "step %d: its loss %.3f stands out of the recent %.3f; events.jsonl names its "
                "records",
                *(spike.step, spike.loss, spike.mean),
            )
