"""events.jsonl -> what a training's curves show: each step once, thinned to what an eye can see."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Points = list[tuple[float, float]]
_MOST = 400  # points that are drawn of a curve
_SMOOTH_FROM = 40  # points, from which a running mean is drawn over them


@dataclass(frozen=True)
class Curves:
    """Of a training, by step; a list is empty where nothing was logged."""

    loss: Points
    smooth: Points
    """The running mean of the loss, where there are enough points for one."""
    window: int
    """Logged steps that it is a mean of."""
    validation: Points
    speed: Points
    """Tokens a second."""
    lr: Points
    gradient_norm: Points
    mfu: Points


def training_curves(events: Iterable[dict[str, Any]]) -> Curves:
    """The curves of a run's events. A step that was run again after a stop counts as run last."""
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "step":
            steps[event["step"]] = event
        elif event["event"] == "evaluation":
            evaluations[event["step"]] = event
    loss = _points(steps, "loss")
    window = max(1, len(loss) // 25)
    return Curves(
        loss=thinned(loss),
        smooth=thinned(running_mean(loss, window)) if len(loss) >= _SMOOTH_FROM else [],
        window=window,
        validation=thinned(_points(evaluations, "loss")),
        speed=thinned(_points(steps, "tokens_per_second")),
        lr=thinned(_points(steps, "lr")),
        gradient_norm=thinned(_points(steps, "gradient_norm")),
        mfu=thinned(_points(steps, "mfu")),
    )


def running_mean(points: Sequence[tuple[float, float]], window: int) -> Points:
    """The mean of the last `window` values at each point; of fewer at the first ones."""
    means: Points = []
    for index, (x, _) in enumerate(points):
        some = [y for _, y in points[max(0, index + 1 - window) : index + 1]]
        means.append((x, math.fsum(some) / len(some)))
    return means


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST) -> Points:
    """The points, or of each of `most` / 2 stretches the lowest and the highest, in their order."""
    if len(points) <= most:
        return list(points)
    kept: Points = []
    stretches = most // 2
    for number in range(stretches):
        start, end = (len(points) * k // stretches for k in (number, number + 1))
        some = range(start, end)
        ends = {min(some, key=lambda i: points[i][1]), max(some, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return kept


def _points(events: dict[int, dict[str, Any]], key: str) -> Points:
    """What JSON has as null was not finite."""
    found = ((step, event.get(key)) for step, event in sorted(events.items()))
    return [(float(step), float(value)) for step, value in found if value is not None]
