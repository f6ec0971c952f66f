"""Options of `generate` and `merge` for models that others serve, and what they ask for."""

import argparse
from typing import TYPE_CHECKING

from sumzero.errors import ConfigError

if TYPE_CHECKING:
    from sumzero.infer.chat import Remote


def add_remote_options(stage: argparse.ArgumentParser, *, with_batches: bool) -> None:
    """Adds them to a subcommand; batch files are for `generate` alone."""
    group = stage.add_argument_group(
        "models that others serve",
        "example: --endpoint https://api.openai.com/v1 --model gpt-4.1-mini",
    )
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="an OpenAI-compatible server answers in place of the export; its key is taken from "
        "OPENAI_API_KEY (endpoint.key_variable)",
    )
    group.add_argument(
        "--model", metavar="NAME", help="what the server calls the model; the system's name"
    )
    if with_batches:
        group.add_argument(
            "--batch-out",
            metavar="FILE",
            help="write the requests that have no row yet as an OpenAI batch file, for `vllm "
            "run-batch` or a hosted batch API",
        )
        group.add_argument(
            "--batch-in",
            metavar="FILE",
            action="append",
            help="take the rows from a batch's output or error file; may be given several times",
        )


def remote_of(options: argparse.Namespace) -> "Remote | None":
    """The model of others that is asked for, if one is. Raises ConfigError for a contradiction."""
    given = {
        "--endpoint": options.endpoint,
        "--batch-out": getattr(options, "batch_out", None),
        "--batch-in": getattr(options, "batch_in", None),
    }
    ways = [name for name, value in given.items() if value is not None]
    if not ways and options.model is None:
        return None
    if not ways:
        raise ConfigError("--model: say where it is, with --endpoint URL or a batch file")
    if len(ways) > 1:
        raise ConfigError(f"{' and '.join(ways)}: one at a time")
    if options.model is None:
        raise ConfigError(f"{ways[0]}: name the model there, with --model NAME")
    if options.system is not None or options.engine != "vllm":
        raise ConfigError(f"{ways[0]}: is a system of its own; leave --system and --engine out")
    from sumzero.infer.chat import Remote

    if options.endpoint is not None:
        return Remote.at(options.endpoint, options.model)
    for name, value in (("--shard", options.shard), ("--parquet", options.parquet)):
        if value and not (name == "--parquet" and options.batch_in):
            raise ConfigError(f"{ways[0]}: has no {name}")
    return Remote(options.model)
