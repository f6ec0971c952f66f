"""The learning rate as a function of the step: nothing to save, nothing to resume."""

import math

from sumzero.config import Train


def learning_rate(step: int, num_steps: int, settings: Train) -> float:
    """The rate of a step (from 0): linear warm-up, then cosine, linear or constant.

    It rises over `warmup` of all steps, or over `warmup_steps`, and falls to `min_lr` times the
    peak at the last step.
    """
    num_warmup = settings.warmup_steps
    if num_warmup is None:
        num_warmup = round(settings.warmup * num_steps)
    if step < num_warmup:
        return settings.lr * (step + 1) / (num_warmup + 1)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    falling = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return settings.lr * (settings.min_lr + (1 - settings.min_lr) * falling)
