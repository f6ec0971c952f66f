"""Where a run's figures go: events.jsonl, TensorBoard, one progress bar, W&B where it is asked for.

Rank 0 writes; on the others every method does nothing.
"""

import hashlib
from importlib.util import find_spec
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.log import progress
from sumzero.ranks import Ranks
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder


def check_available(config: RunConfig) -> None:
    """Raises ConfigError where a log is asked for that is not installed."""
    if config.train.wandb and find_spec("wandb") is None:
        raise ConfigError("train.wandb: wandb is not installed; pip install wandb")


class Journal:
    """Of a run from step `start` to `num_steps`."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, who: Ranks, start: int, num_steps: int
    ) -> None:
        self._is_main = who.is_main
        self._folder = folder
        if not who.is_main:
            return
        from torch.utils.tensorboard import SummaryWriter

        # Steps after `start` that an earlier process logged before it was killed are run again.
        self._board = SummaryWriter(
            str(folder.tensorboard), purge_step=start + 1, filename_suffix=f".{start}"
        )
        self._wandb = _begin_wandb(config, folder) if config.train.wandb else None
        self._bar = progress(iter(()), "training", total=num_steps, unit="step")
        self._bar.update(start)

    def event(self, name: str, **values: Any) -> None:
        """One line of events.jsonl."""
        if self._is_main:
            self._folder.events.write(name, **values)

    def step(self, step: int, **values: float | None) -> None:
        """The figures of a logging step; those that are None are not known."""
        known = {key: value for key, value in values.items() if value is not None}
        self.event("step", step=step, **known)
        self._scalars("train", step, known)
        if self._is_main:
            told = [f"loss {values['loss']:.3f}", f"{values['tokens_per_second']:,.0f} tokens/s"]
            if "mfu" in known:
                told.append(f"MFU {100 * known['mfu']:.1f}%")
            self._bar.set_postfix_str(", ".join(told), refresh=False)

    def evaluation(self, step: int, losses: dict[str, float]) -> None:
        """The losses on held-out records."""
        self.event("evaluation", step=step, **losses)
        self._scalars("validation", step, losses)

    def advance(self) -> None:
        """A step of the progress bar."""
        if self._is_main:
            self._bar.update(1)

    def checkpoint(self, step: int, seconds: float) -> None:
        """One that is whole, and how long training stood still for it."""
        self.event("checkpoint", step=step, seconds=round(seconds, 3))

    def flush(self) -> None:
        """What a resumed run will not log again must not be lost by a kill."""
        if self._is_main:
            self._board.flush()

    def close(self) -> None:
        """Writes what is still held back."""
        if self._is_main:
            self._bar.close()
            self._board.close()
            if self._wandb is not None:
                self._wandb.finish()

    def _scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._is_main:
            for key, value in values.items():
                self._board.add_scalar(f"{group}/{key}", value, step)
            if self._wandb is not None:
                self._wandb.log({f"{group}/{key}": value for key, value in values.items()}, step)


def _begin_wandb(config: RunConfig, folder: RunFolder) -> Any:
    """A run of Weights & Biases that a later process of the same run folder continues."""
    import wandb

    place = hashlib.sha256(str(folder.root.resolve()).encode()).hexdigest()[:8]
    try:
        return wandb.init(
            project=config.train.wandb,
            name=config.name,
            id=f"{config.name}-{place}",
            resume="allow",
            dir=folder.root,
            config=as_dict(config),
        )
    except wandb.errors.Error as error:
        raise RunError(f"train.wandb: {error}; WANDB_MODE=offline logs to the run folder") from None
