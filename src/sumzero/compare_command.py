"""`sumzero compare`: its options, and what it does with them."""

import argparse
import json
from pathlib import Path

from sumzero.errors import ConfigError
from sumzero.run_options import config_of
from sumzero.subcommands import Subcommands, count_or_none


def add_compare(to: Subcommands) -> None:
    """Adds the subcommand."""
    command = to.add(
        "compare",
        compare,
        "Compare two scored runs, or two systems of one, on the same records: differences with "
        "intervals, paired tests, and the rows that changed most.",
        "sumzero compare runs/before runs/after --texts",
    )
    command.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="one or two run files or folders, then settings to change (key=value)",
    )
    command.set_defaults(overrides=[])
    command.add_argument(
        "--system", metavar="A", help="the system of the first run, and of the second by default"
    )
    command.add_argument("--system-b", metavar="B", help="the system of the second run")
    command.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="only this metric; may be given several times, the first chooses the changed rows",
    )
    command.add_argument(
        "--changed",
        type=count_or_none,
        default=10,
        metavar="N",
        help="rows that changed most to show (default: 10)",
    )
    command.add_argument("--texts", action="store_true", help="show both texts of these rows")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def compare(options: argparse.Namespace) -> int:
    """The comparison."""
    from sumzero.infer.compare import chosen, compare, scored
    from sumzero.infer.compare_table import table

    runs = [text for text in options.runs if "=" not in text or Path(text).exists()]
    overrides = [*(text for text in options.runs if text not in runs), *options.overrides]
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"compare: takes one or two runs, got {len(runs)}")
    configs = [config_of(argparse.Namespace(run=run, overrides=overrides)) for run in runs]
    a, b = configs[0], configs[-1]
    system_a, system_b = chosen(a, b, options.system, options.system_b)
    found = compare(
        scored(a, system_a),
        scored(b, system_b),
        resamples=a.score.bootstrap,
        seed=a.seed,
        metrics=options.metric,
        changed=options.changed,
        texts=options.texts,
    )
    print(json.dumps(found) if options.json else table(found))
    return 0
