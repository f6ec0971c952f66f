"""What the subcommands of `sumzero` do with their options; each returns the exit code.

Imports of stages are inside the functions: `sumzero --help` must not load torch.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.jobs import STEPS
from sumzero.remote_options import remote_of
from sumzero.runfile import load, run_file

if TYPE_CHECKING:
    from sumzero.infer.chat import Remote
    from sumzero.infer.generation import Generation


def _config(options: argparse.Namespace) -> RunConfig:
    config = load(run_file(options.run), options.overrides)
    given = Path(options.run)
    if given.is_dir():  # that very folder, wherever it lies now
        given = given.resolve() if given.is_symlink() or not given.name else given
        config = replace(config, runs=str(given.parent), name=given.name)
    return config


def demo(options: argparse.Namespace) -> int:
    """The whole way on real data."""
    from sumzero.demo import demo

    return demo(options.data, options.overrides)


def doctor(options: argparse.Namespace) -> int:
    """What is installed, used and missing."""
    from sumzero.doctor import doctor

    return doctor(as_json=options.json)


def run(options: argparse.Namespace) -> int:
    """All stages on this machine."""
    from sumzero.infer.score import table
    from sumzero.pipeline import run
    from sumzero.runfolder import RunFolder

    config = _config(options)
    scores, _ = run(config, num_ranks=options.ranks)
    print(table(scores))
    print(f"report: {RunFolder.of(config).report}")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """Records to token store."""
    from sumzero.pipeline import prepare
    from sumzero.train.data_report import summary

    report = prepare(_config(options), options.processes)
    print(json.dumps(report) if options.json else summary(report))
    return 0


def plan(options: argparse.Namespace) -> int:
    """The presets, and which to take."""
    from sumzero.train.communication import Cluster
    from sumzero.train.devices import device_called
    from sumzero.train.estimate import GIB
    from sumzero.train.outlook_table import as_json, table
    from sumzero.train.planner import outlook

    config, device = _config(options), device_called(options.device)
    room = round(options.gpu_memory * GIB) if options.gpu_memory else device.memory
    found = outlook(config, Cluster(device, options.gpus, options.gpus_per_node), room)
    print(json.dumps(as_json(config, found)) if options.json else table(config, found))
    return 0


def export(options: argparse.Namespace) -> int:
    """Checkpoint to export folder."""
    from sumzero.pipeline import export

    print(
        export(
            _config(options),
            options.checkpoint,
            form=options.form,
            dtype=options.dtype,
            vllm=not options.no_vllm,
            probe=not options.no_probe,
        )
    )
    return 0


def convert(options: argparse.Namespace) -> int:
    """A checkpoint for another number of ranks."""
    from sumzero.train.convert import convert

    print(convert(_config(options), options.checkpoint, options.workers))
    return 0


def generate(options: argparse.Namespace) -> int:
    """Summaries of the test records or of another file, or of a shard of them."""
    from sumzero.infer.generate import generate, generate_shard
    from sumzero.infer.shards import Shard

    config, system = _config(options), _system(options)
    if not isinstance(system, str) and system.address is None:
        return _batch(config, system, options)
    if options.shard is None:
        return _tell(generate(config, system, options.input), options)
    if options.parquet:
        raise ConfigError("--parquet: a shard is no table yet; give it to `sumzero merge`")
    try:
        shard = Shard.parse(options.shard)
    except ValueError as error:
        raise ConfigError(f"--shard {error}") from None
    where, there, total = generate_shard(config, system, shard, options.input)
    print(f"{where}: shard {shard} is done; {there} of all {total} rows are there")
    return 0


def _batch(config: RunConfig, remote: "Remote", options: argparse.Namespace) -> int:
    from sumzero.infer.batches import read_batch, write_batch
    from sumzero.infer.generate import merge_shards

    if options.batch_out:
        written = write_batch(config, remote, Path(options.batch_out), options.input)
        for file, count in written.items():
            print(f"{file}: {count} requests")
        if not written:
            print("no request is left to write; --batch-in takes what was answered")
        return 0
    answered = [Path(file) for file in options.batch_in]
    where, there, total = read_batch(config, remote, answered, options.input)
    if there == total:
        return _tell(merge_shards(config, remote, options.input), options)
    print(f"{where}: {there} of all {total} rows are there; --batch-out writes what is missing")
    return 0


def merge(options: argparse.Namespace) -> int:
    """One file of all shards, proven complete."""
    from sumzero.infer.generate import merge_shards

    return _tell(merge_shards(_config(options), _system(options), options.input), options)


def _system(options: argparse.Namespace) -> "str | Remote":
    if remote := remote_of(options):
        return remote
    if options.engine == "echo" and options.system is not None:
        raise ConfigError("--engine echo is a system of its own; leave --system out")
    return "echo" if options.engine == "echo" else options.system or "finetuned"


def _tell(made: "Generation", options: argparse.Namespace) -> int:
    from sumzero.infer.table import write_parquet

    if options.parquet:
        print(write_parquet(made))
    print(
        f"{made.folder / 'merged.jsonl'}: {made.manifest['rows']} rows, "
        f"{made.manifest['errors']} errors, {made.manifest['truncated']} documents cut"
    )
    return 0


def score(options: argparse.Namespace) -> int:
    """Scores of all generated systems."""
    from sumzero.infer.score import score, table

    scores = score(_config(options))
    print(json.dumps(scores) if options.json else table(scores))
    return 0


def score_checkpoints(options: argparse.Namespace) -> int:
    """Scores by checkpoint."""
    from sumzero.runfolder import RunFolder
    from sumzero.score_checkpoints import score_checkpoints, table

    config = _config(options)
    print(table(score_checkpoints(config, follow=options.follow), RunFolder.of(config)))
    return 0


def submit(options: argparse.Namespace) -> int:
    """The chain of jobs into the queue, or what it would be."""
    from sumzero import slurm
    from sumzero.chain import Shape, chain
    from sumzero.runfolder import RunFolder
    from sumzero.submit import commands, submit, table

    wanted = [step.strip() for step in options.steps.split(",")]
    if unknown := [step for step in wanted if step not in STEPS]:
        raise ConfigError(f"--steps: no step {unknown[0]!r}; there are {', '.join(STEPS)}")
    config = _config(options)
    gpus = slurm.gpus_per_node() if options.gpus_per_node is None else options.gpus_per_node
    in_all = options.nodes * max(gpus // config.generate.tensor_parallel, 1)
    shape = Shape(
        options.nodes, gpus, options.ranks_per_node or gpus or 1, options.shards or in_all
    )
    steps = chain(config, wanted, shape, options.score_checkpoints)
    if options.dry_run:
        lines = commands(config, steps, options.sbatch, again=options.again)
        print("\n".join(lines) or "nothing: all is done, or in the queue")
    else:
        done = submit(config, steps, options.sbatch, again=options.again)
        print(f"{table(done, RunFolder.of(config))}\n{shape}")
    return 0


def cancel(options: argparse.Namespace) -> int:
    """A run's jobs out of the queue."""
    from sumzero.runfolder import RunFolder
    from sumzero.submit import cancel

    folder = RunFolder.of(_config(options))
    cancelled = cancel(folder)
    for found in cancelled:
        print(f"{found.job.step}: job {found.job.id} is cancelled; it was {found.state}")
    if not cancelled:
        print(f"{folder.root}: no job is in the queue")
    return 0


def status(options: argparse.Namespace) -> int:
    """What a run is doing."""
    from sumzero.runfolder import RunFolder
    from sumzero.status import status, table

    found = status(RunFolder.of(_config(options)))
    print(json.dumps(found) if options.json else table(found))
    return 0


def report(options: argparse.Namespace) -> int:
    """The page."""
    from sumzero.infer.report import report

    print(report(_config(options)))
    return 0


def serve(options: argparse.Namespace) -> int:
    """The server."""
    from sumzero.infer.serve import Listen, serve

    config = _config(options)
    listen = Listen(
        options.host,
        options.port,
        round(options.max_body_mib * 2**20),
        options.max_concurrent or config.generate.max_in_flight,
    )
    return serve(config, listen, adapter=options.adapter)
