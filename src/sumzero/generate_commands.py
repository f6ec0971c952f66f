"""`sumzero generate` and `sumzero merge`: by an export, adapters, or a model that others serve."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.remote_options import remote_of
from sumzero.run_options import config_of

if TYPE_CHECKING:
    from sumzero.infer.adapted import Adapter
    from sumzero.infer.chat import Remote
    from sumzero.infer.generation import Generation
    from sumzero.infer.shards import Shard


def generate(options: argparse.Namespace) -> int:
    """Summaries of the test records or of another file, or of a shard of them."""
    from sumzero.infer.generate import generate, generate_shard

    config, shard = config_of(options), _shard(options)
    if options.adapter:
        return _generate_adapted(config, shard, options)
    system = _system(options)
    if not isinstance(system, str) and system.address is None:
        return _batch(config, system, options)
    if shard is None:
        return _tell([generate(config, system, options.input)], options)
    _tell_shard(shard, generate_shard(config, system, shard, options.input))
    return 0


def _generate_adapted(config: RunConfig, shard: "Shard | None", options: argparse.Namespace) -> int:
    from sumzero.infer.adapted import generate_adapted, generate_adapted_shard

    adapters = _adapters(options)
    if shard is None:
        return _tell(generate_adapted(config, adapters, options.input), options)
    for found in generate_adapted_shard(config, adapters, shard, options.input):
        _tell_shard(shard, found)
    return 0


def merge(options: argparse.Namespace) -> int:
    """One file of all shards, proven complete."""
    from sumzero.infer.generate import merge_shards

    config = config_of(options)
    if options.adapter:
        from sumzero.infer.adapted import merge_adapted

        return _tell(merge_adapted(config, _adapters(options), options.input), options)
    return _tell([merge_shards(config, _system(options), options.input)], options)


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
        return _tell([merge_shards(config, remote, options.input)], options)
    print(f"{where}: {there} of all {total} rows are there; --batch-out writes what is missing")
    return 0


def _adapters(options: argparse.Namespace) -> list["Adapter"]:
    from sumzero.infer.adapted import parse_adapters

    if options.engine == "echo" or options.system is not None or remote_of(options):
        raise ConfigError(
            "--adapter names systems of its own; leave --system, --engine, --endpoint and batch "
            "files out"
        )
    return parse_adapters(options.adapter)


def _shard(options: argparse.Namespace) -> "Shard | None":
    from sumzero.infer.shards import Shard

    if options.shard is None:
        return None
    if options.parquet:
        raise ConfigError("--parquet: a shard is no table yet; give it to `sumzero merge`")
    try:
        return Shard.parse(options.shard)
    except ValueError as error:
        raise ConfigError(f"--shard {error}") from None


def _tell_shard(shard: "Shard", found: tuple[Path, int, int]) -> None:
    where, there, total = found
    print(f"{where}: shard {shard} is done; {there} of all {total} rows are there")


def _system(options: argparse.Namespace) -> "str | Remote":
    if remote := remote_of(options):
        return remote
    if options.engine == "echo" and options.system is not None:
        raise ConfigError("--engine echo is a system of its own; leave --system out")
    return "echo" if options.engine == "echo" else options.system or "finetuned"


def _tell(generations: list["Generation"], options: argparse.Namespace) -> int:
    from sumzero.infer.table import write_parquet

    for made in generations:
        if options.parquet:
            print(write_parquet(made))
        print(
            f"{made.folder / 'merged.jsonl'}: {made.manifest['rows']} rows, "
            f"{made.manifest['errors']} errors, {made.manifest['truncated']} documents cut, "
            f"{made.manifest.get('rejected', 0)} rows of the input rejected"
        )
    return 0
