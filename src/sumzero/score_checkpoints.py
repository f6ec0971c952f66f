"""`sumzero score-checkpoints`: each checkpoint scored on the validation records as it appears.

    runs/NAME/scored/step-000400/   its scores.json and generations/; of the best, its export/ too
    checkpoints/best-rouge          links to the best by ROUGE-L, which pruning then keeps

It runs beside the training, on a device of its own. A checkpoint that is pruned before its turn is
not scored. Each is scored once; a start after a stop goes on with those that are left.
"""

import shutil
import time
from dataclasses import replace

from sumzero import jobs, slurm
from sumzero.chain import BEST_BY_ROUGE
from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.generate import generate
from sumzero.infer.score import score
from sumzero.log import logger
from sumzero.pipeline import export
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, alone, read_json
from sumzero.status import training
from sumzero.train import checkpoint

METRIC = "rougeL"
_PATIENCE = 120.0  # seconds: a file system may hold the lock of a node that died for a while
_PAUSE = 10.0  # seconds between two looks at the folder of checkpoints


def score_checkpoints(config: RunConfig, *, follow: bool = False) -> dict[str, float]:
    """Scores the whole checkpoints that are not scored; returns ROUGE-L in percent by checkpoint.

    With `follow`, those too that are yet to come, until the training has ended: by its job, or
    where it has none, by its events; one that was preempted is waited for. Raises
    ConfigError where there are no validation records, RunError as the stages do.
    """
    if not config.data.validation:
        raise ConfigError("data.validation: no records to score checkpoints by; set its path")
    folder = RunFolder.of(config)
    if not follow:
        checkpoint.resolve(folder.checkpoints)  # says it where there are none
    with alone(folder.root / "scored", "sumzero score-checkpoints", _PATIENCE):
        while True:
            is_over = not follow or not _trains(folder)  # before the last look at what is there
            for name in checkpoint.whole(folder.checkpoints):
                if _score_of(_part(config, folder, name)) is None:
                    _score(config, folder, name)
                _link_best(config, folder)  # at once: what is linked is not pruned
            if is_over:
                break
            time.sleep(_PAUSE)
    return _scores(config, folder)


def table(scores: dict[str, float], folder: RunFolder) -> str:
    """The scores for people to read, the best marked."""
    link = folder.checkpoints / BEST_BY_ROUGE
    best = link.readlink().name if link.is_symlink() else None
    lines = [f"{name:<14}{METRIC} {value:6.2f}" for name, value in scores.items()]
    return "\n".join(
        f"{line}  <- {BEST_BY_ROUGE}" if name == best else line
        for name, line in zip(scores, lines, strict=True)
    )


def _part(config: RunConfig, folder: RunFolder, name: str) -> RunConfig:
    """The settings of a checkpoint's own run folder, whose test records are the validation's."""
    data = replace(config.data, test=config.data.validation)
    return replace(config, runs=str(folder.root / "scored"), name=name, data=data)


def _score_of(part: RunConfig) -> float | None:
    """What a checkpoint scored with just these settings; None where it did not."""
    own = RunFolder.of(part)
    if not own.scores.is_file() or load(own.config) != part:
        return None
    scores = read_json(own.scores, "sumzero score-checkpoints")
    return float(scores["systems"]["finetuned"]["metrics"][METRIC]["value"])


def _score(config: RunConfig, folder: RunFolder, name: str) -> None:
    part = _part(config, folder, name)
    own = RunFolder.of(part)
    own.scores.unlink(missing_ok=True)
    own.begin(part)
    try:
        export(config, name, vllm=False, to=own.export)  # which loads it next
    except RunError:
        if name in checkpoint.whole(folder.checkpoints):
            raise
        logger.warning("%s: pruned before it was scored", name)
        shutil.rmtree(own.root)
        return
    generate(part)
    score(part)
    logger.info("%s: %s %.2f", name, METRIC, _score_of(part))


def _scores(config: RunConfig, folder: RunFolder) -> dict[str, float]:
    names = sorted(path.name for path in (folder.root / "scored").glob("step-*"))
    found = {name: _score_of(_part(config, folder, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _link_best(config: RunConfig, folder: RunFolder) -> None:
    """Points to the best that is still there, and removes the exports of the others."""
    whole = checkpoint.whole(folder.checkpoints)
    scores = {name: x for name, x in _scores(config, folder).items() if name in whole}
    if not scores:
        return
    best = max(scores, key=lambda name: scores[name])
    link = folder.checkpoints / BEST_BY_ROUGE
    if not link.is_symlink() or link.readlink().name != best:
        checkpoint.point(folder.checkpoints, BEST_BY_ROUGE, best)
    for other in (folder.root / "scored").glob("step-*"):
        if other.name != best:
            shutil.rmtree(other / "export", ignore_errors=True)


def _trains(folder: RunFolder) -> bool:
    """Whether more checkpoints may come: by its job in Slurm, or where it has none, its events."""
    state = training(folder)["state"]
    if state in ("starting", "running"):
        return True
    if not any(job.step == "train" for job in jobs.read(folder)):
        return state in ("not started", "preempted")
    try:
        train = jobs.latest(folder, slurm.queued()).get("train")
    except RunError:  # no answer is none: look again
        return True
    return train is None or train.is_active  # None: its number is still to come
