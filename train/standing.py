"""Where a run stands: what the loop must remember over a stop, besides the engine's own state."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from sumzero.config import Train
from sumzero.errors import RunError


@dataclass
class Standing:
    """Steps done, steps skipped, and the best evaluation so far. It is kept in checkpoints.

    `owes_evaluation`: a run that had to end in time saved before it evaluated. `validation` is the
    digest of the data that evaluations were on.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_step: int | None = None
    worse_in_a_row: int = 0
    owes_evaluation: bool = False
    validation: str | None = None
    finished: bool = False

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Standing":
        """Takes up what a checkpoint kept."""
        return cls(**{**state["standing"], "finished": False})  # the limits may be others now

    def as_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"standing": asdict(self)}

    @property
    def ends(self) -> bool:
        """Whether no step is to be made now."""
        return self.finished or self.owes_evaluation

    def count_skipped(self, is_skipped: bool) -> None:
        """After a step: whether ZeRO left it out because its gradient was not finite."""
        self.skipped += is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0

    def check_skipped(self, limit: int, records: list[str]) -> None:
        """Raises RunError where `limit` steps in a row were skipped; `records` are the last's."""
        if self.skipped_in_a_row < limit:
            return
        first = self.step - self.skipped_in_a_row + 1
        named = ", ".join(records[:3]) + (", ..." if len(records) > 3 else "")
        raise RunError(
            f"steps {first} to {self.step}: no loss or gradient was finite, so all were skipped "
            f"(train.max_skipped = {limit}); step {self.step} had the records {named}; "
            "events.jsonl names those of each; an older checkpoint with a lower train.lr in a run "
            "of its own, model.dtype=float32 or other records may help"
        )

    def evaluate_on(self, validation: str | None) -> bool:
        """Takes the data to evaluate on; returns whether earlier evaluations were on other data.

        They are forgotten then.
        """
        is_other = self.best is not None and validation != self.validation
        if is_other:
            self.best, self.best_step, self.worse_in_a_row = None, None, 0
        self.validation = validation
        return is_other

    def evaluated(self, loss: float) -> bool:
        """After an evaluation: whether it is the best so far."""
        is_best = loss < math.inf if self.best is None else loss < self.best
        if is_best:
            self.best, self.best_step, self.worse_in_a_row = loss, self.step, 0
        else:
            self.worse_in_a_row += 1
        return is_best


def is_finished(standing: Standing, num_steps: int, train: Train) -> bool:
    """Whether the last step is done and evaluated, or evaluations got no better for long enough."""
    stops_early = train.early_stop is not None and standing.worse_in_a_row >= train.early_stop
    return (standing.step >= num_steps or stops_early) and not standing.owes_evaluation
