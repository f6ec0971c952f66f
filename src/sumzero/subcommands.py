"""Subcommands of `sumzero` as argparse wants them, and the types of their options."""

import argparse
import math
from collections.abc import Callable

Command = Callable[[argparse.Namespace], int]
"""What a subcommand does with its options; it returns the exit code."""


class Subcommands:
    """Takes subcommands, each with what it does, a line about it and an example."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, function: Command, text: str, example: str) -> argparse.ArgumentParser:
        """A subcommand, to which options may be added."""
        command = self._subparsers.add_parser(
            name, help=text, description=text, epilog=f"example: {example}"
        )
        command.set_defaults(command=function)
        return command

    def add_stage(
        self, name: str, function: Command, text: str, example: str
    ) -> argparse.ArgumentParser:
        """One that takes a run and overrides of its settings."""
        command = self.add(name, function, text, example)
        command.add_argument("run", metavar="RUN", help="the TOML run file, or a run folder")
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help="settings to change"
        )  # without a default, argparse says that they are required
        return command


def port(text: str) -> int:
    """A TCP port; 0 is any free one."""
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def count_or_none(text: str) -> int:
    """A whole number from 0."""
    return 0 if text == "0" else count(text)


def gibibytes(text: str) -> float:
    """A size above 0."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return size
