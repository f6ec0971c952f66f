"""What bench_export.py runs in processes of their own.

export_run.py checkpoint RUN.toml   on each rank: a checkpoint of the model as it begins
export_run.py export RUN.toml SIZE  exports it in shards of SIZE bytes; prints a JSON line
"""

import json
import sys
import threading
import time
from pathlib import Path

from sumzero import log
from sumzero.ranks import ranks
from sumzero.runfile import load
from sumzero.runfolder import RunFolder


def make_checkpoint(run: str) -> None:
    """Saves what ZeRO-3 holds before the first step."""
    import torch

    from sumzero.kernels.segments import Backends
    from sumzero.train import engine
    from sumzero.train.adapters import add_adapters
    from sumzero.train.examples import check_prepared
    from sumzero.train.identity import identity
    from sumzero.train.model import load_model
    from sumzero.train.saver import Saver
    from sumzero.train.supervised import SupervisedLM

    config, who = load(run), ranks()
    engine.start(who)
    settings = engine.deepspeed_settings(config.model, config.train, 1)
    with engine.zero3_loading(settings):
        lm = load_model(config.model.path, getattr(torch, config.model.dtype))
    if config.train.lora is not None:
        add_adapters(lm, config.train.lora, config.seed)
    trainer = engine.Engine(SupervisedLM(lm, Backends("sdpa", "sdpa")), settings, config.train)
    folder = RunFolder.of(config)
    # No step is made, and so there is no plan.
    state = identity(config, check_prepared(config, folder), "", trainer.stage)
    Saver(trainer, folder.checkpoints, who, config.train).save(1, state)
    trainer.close()


def export_it(run: str, shard_size: int) -> None:
    """Exports, and prints seconds and peak of the memory that is not files mapped, in bytes."""
    from sumzero.train.export import export

    config, peak, over = load(run), [0], threading.Event()
    base = _anonymous()

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    made = export(config, shard_size=shard_size)
    seconds = time.perf_counter() - begun
    over.set()
    watcher.join()
    files = list(made.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    found = {"seconds": seconds, "peak": peak[0] - base, "bytes": size, "files": len(files)}
    print(json.dumps(found))


def _anonymous() -> int:
    """Bytes of this process that no file backs: what it needs, page cache apart."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    log.configure()
    if sys.argv[1] == "checkpoint":
        make_checkpoint(sys.argv[2])
    else:
        export_it(sys.argv[2], int(sys.argv[3]))
