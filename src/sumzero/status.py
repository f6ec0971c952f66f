"""`sumzero status`: what a run is doing, from its events.jsonl; from any terminal, at any time."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sumzero import jobs, slurm
from sumzero.errors import RunError
from sumzero.runfolder import RunFolder, is_held, read_jsonl

_ENDS = {"end": "finished", "preempted": "preempted", "stalled": "stalled"}
_QUIET = 60.0  # seconds without an event that say nothing; longer where steps take longer
_FEW = 8  # tasks of an array that are named
_WHAT_NOW = {
    "preempted": "it was saved; start it again to go on",
    "stalled": "start it again to go on from its checkpoint",
    "stopped": "it was killed or failed; start it again to go on from its checkpoint",
}


def status(folder: RunFolder, now: float | None = None) -> dict[str, Any]:
    """What `training` tells, and "jobs": the newest Slurm job of each step, where there are any.

    Where Slurm does not answer, by what their logs say. Raises RunError where there is no such run.
    """
    found = training(folder, now)
    queue: dict[str, slurm.Tasks] = {}
    if jobs.read(folder):
        with suppress(RunError):
            queue = slurm.queued()
    return found | {"jobs": [job.as_dict() for job in jobs.latest(folder, queue).values()]}


def training(folder: RunFolder, now: float | None = None) -> dict[str, Any]:
    """The state of a run's training and its last figures; those that are not known are None.

    "state" is one of: not started, starting, running, finished, preempted, stalled, stopped. Times
    are in seconds. Raises RunError where there is no such run.
    """
    if not folder.root.is_dir():
        raise RunError(f"{folder.root}: no such run; `sumzero prepare RUN.toml` makes it")
    now = time.time() if now is None else now
    events = read_jsonl(folder.root / "events.jsonl")
    ever = {event["event"]: event for event in events}
    checkpoint, evaluation = ever.get("checkpoint", {}), ever.get("evaluation", {})
    # Steps that an attempt before the last one logged may be run again.
    begun = max((i for i, event in enumerate(events) if event["event"] == "start"), default=0)
    last = {event["event"]: event for event in events[begun:]}
    step, start = last.get("step", {}), last.get("start", {})
    done = max(
        (last[x]["step"] for x in ("start", "step", "end", "preempted") if x in last), default=0
    )
    steps = start.get("steps")
    seconds = step.get("seconds_per_step")
    state = _state(folder.root, events, now, seconds)
    evaluations = [x for x in events if x["event"] == "evaluation" and x["loss"] is not None]
    best: dict[str, Any] = min(evaluations, key=lambda event: event["loss"], default={})
    return {
        "run": str(folder.root),
        "state": state,
        "step": done,
        "steps": steps,
        "seconds_left": round((steps - done) * seconds) if steps and seconds else None,
        "ranks": start.get("ranks"),
        "loss": step.get("loss"),
        "tokens_per_second": step.get("tokens_per_second"),
        "seconds_per_step": seconds,
        "mfu": step.get("mfu"),
        "validation_loss": evaluation.get("loss"),
        "best_validation_loss": best.get("loss"),
        "best_step": best.get("step"),
        "checkpoint_step": checkpoint.get("step"),
        "checkpoint_age": round(now - checkpoint["time"]) if checkpoint else None,
        "skipped_steps": _steps_of(events, "skipped"),
        "spikes": _steps_of(events, "spike"),
        "message": last["stalled"].get("message") if state == "stalled" else None,
    }


def table(found: dict[str, Any]) -> str:
    """The same for people to read."""
    state = found["state"]
    lines = [f"{found['run']}: {state}" + (f"; {_WHAT_NOW[state]}" if state in _WHAT_NOW else "")]
    if found["message"]:
        lines.append(found["message"])
    if found["steps"]:
        left = found["seconds_left"] if state == "running" else None
        lines.append(
            f"step        {found['step']:,} of {found['steps']:,} "
            f"({100 * found['step'] / found['steps']:.1f}%)"
            + (f", about {_duration(left)} left" if left is not None else "")
        )
    if found["loss"] is not None:
        lines.append(f"loss        {found['loss']:.4f}")
    if found["validation_loss"] is not None:
        lines.append(
            f"validation  {found['validation_loss']:.4f}; best "
            f"{found['best_validation_loss']:.4f} at step {found['best_step']:,}"
        )
    if found["seconds_per_step"] is not None:
        mfu = "" if found["mfu"] is None else f", MFU {100 * found['mfu']:.1f}%"
        lines.append(
            f"speed       {found['tokens_per_second']:,.0f} tokens/s, "
            f"{found['seconds_per_step']:.2f} s a step{mfu}, {found['ranks']} ranks"
        )
    if found["checkpoint_step"] is not None:
        age = _duration(found["checkpoint_age"])
        lines.append(f"checkpoint  step {found['checkpoint_step']:,}, {age} ago")
    if found["skipped_steps"] or found["spikes"]:
        lines.append(f"skipped     {found['skipped_steps']} steps; {found['spikes']} loss spikes")
    return "\n".join([*lines, *_job_lines(found["jobs"])])


def _job_lines(found: list[dict[str, Any]]) -> list[str]:
    """A line a job, then the last lines of the log of the first one that failed."""
    lines = []
    for job in found:
        tasks = job["failed_tasks"] if job["state"] != "CANCELLED" else []
        few = ", ".join(map(str, tasks[:_FEW])) + (", ..." if len(tasks) > _FEW else "")
        why = [f"tasks {few} failed" if tasks else "", job["reason"]]
        shown = "; ".join(text for text in why if text)
        lines.append(
            f"{job['step']:<18}job {job['job']:<9}{job['state']}" + (f" ({shown})" if shown else "")
        )
    failed = next((job for job in found if job["tail"]), None)
    if failed:
        lines += [f"the end of {failed['log']}:", *(f"  {line}" for line in failed["tail"])]
    return lines


def _state(root: Path, events: list[dict[str, Any]], now: float, seconds: float | None) -> str:
    marks = [event for event in events if event["event"] in ("start", *_ENDS)]
    kind = marks[-1]["event"] if marks else None
    if kind == "start":
        # Where the file system has no locks, a young event tells that the run is alive.
        is_young = now - events[-1]["time"] < max(_QUIET, 30 * (seconds or 0))
        return "running" if is_held(root, "training") or is_young else "stopped"
    if is_held(root, "training") and kind != "end":
        return "starting"
    return _ENDS[kind] if kind else "not started"


def _steps_of(events: list[dict[str, Any]], kind: str) -> int:
    """Steps with such an event; a step that was run again after a stop counts once."""
    return len({event["step"] for event in events if event["event"] == kind})


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
