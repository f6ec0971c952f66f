"""What the subcommands of `sumzero` do with their options; each returns the exit code.

Imports of stages are inside the functions: `sumzero --help` must not load torch.
"""

import argparse
import json

from sumzero.errors import ConfigError
from sumzero.jobs import STEPS
from sumzero.run_options import config_of


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
    from sumzero.infer.score_table import table
    from sumzero.pipeline import run
    from sumzero.runfolder import RunFolder

    config = config_of(options)
    scores, _ = run(config, num_ranks=options.ranks)
    print(table(scores))
    print(f"report: {RunFolder.of(config).report}")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """Records to token store."""
    from sumzero.pipeline import prepare
    from sumzero.train.data_report import summary

    report = prepare(config_of(options), options.processes)
    print(json.dumps(report) if options.json else summary(report))
    return 0


def plan(options: argparse.Namespace) -> int:
    """The presets, and which to take."""
    from sumzero.train.communication import Cluster
    from sumzero.train.devices import device_called
    from sumzero.train.estimate import GIB
    from sumzero.train.outlook_table import as_json, table
    from sumzero.train.planner import outlook

    config, device = config_of(options), device_called(options.device)
    room = round(options.gpu_memory * GIB) if options.gpu_memory else device.memory
    found = outlook(config, Cluster(device, options.gpus, options.gpus_per_node), room)
    print(json.dumps(as_json(config, found)) if options.json else table(config, found))
    return 0


def export(options: argparse.Namespace) -> int:
    """Checkpoint to export folder."""
    from sumzero.pipeline import export

    print(
        export(
            config_of(options),
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

    print(convert(config_of(options), options.checkpoint, options.workers))
    return 0


def score(options: argparse.Namespace) -> int:
    """Scores of all generated systems."""
    from sumzero.infer.score import score
    from sumzero.infer.score_table import details, slices, table

    scores = score(config_of(options))
    if options.json:
        print(json.dumps(scores))
    else:
        shown = [table, details, slices] if options.slices else [table, details]
        print("\n\n".join(text for part in shown if (text := part(scores))))
    return 0


def score_checkpoints(options: argparse.Namespace) -> int:
    """Scores by checkpoint."""
    from sumzero.runfolder import RunFolder
    from sumzero.score_checkpoints import score_checkpoints, table

    config = config_of(options)
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
    config = config_of(options)
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

    folder = RunFolder.of(config_of(options))
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

    found = status(RunFolder.of(config_of(options)))
    print(json.dumps(found) if options.json else table(found))
    return 0


def serve(options: argparse.Namespace) -> int:
    """The server."""
    from sumzero.infer.serve import Listen, serve

    config = config_of(options)
    listen = Listen(
        options.host,
        options.port,
        round(options.max_body_mib * 2**20),
        options.max_concurrent or config.generate.max_in_flight,
    )
    return serve(config, listen, adapter=options.adapter)
