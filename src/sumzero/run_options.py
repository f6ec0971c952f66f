"""The run that a command is given, by its file or folder, with overrides."""

import argparse
from dataclasses import replace
from pathlib import Path

from sumzero.config import RunConfig
from sumzero.runfile import load, run_file


def config_of(options: argparse.Namespace) -> RunConfig:
    """Its settings. Raises ConfigError for what is wrong with them."""
    config = load(run_file(options.run), options.overrides)
    given = Path(options.run)
    if given.is_dir():  # that very folder, wherever it lies now
        given = given.resolve() if given.is_symlink() or not given.name else given
        config = replace(config, runs=str(given.parent), name=given.name)
    return config
