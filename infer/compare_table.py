"""A comparison as text for a terminal."""

from typing import Any

_LONGEST = 300  # characters of a text that is shown


def table(found: dict[str, Any]) -> str:
    """What `compare` found: metrics, slices by the first metric, and the rows that changed most."""
    parts = [_head(found), _metrics(found["metrics"])]
    parts += [f"left out: {name}: {why}" for name, why in found["left_out"].items()]
    if found["slices"]:
        parts.append(_slices(found))
    if found["changed"]:
        parts.append(_changed(found["changed"]))
    return "\n\n".join(parts)


def _head(found: dict[str, Any]) -> str:
    return f"a  {found['a']}\nb  {found['b']}\n{found['rows']} rows, the same of both"


def _metrics(metrics: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"{'metric':<18}{'a':>9}{'b':>9}{'b - a':>9}{'95% interval':>20}"
        f"{'p boot':>9}{'p rand':>9}{'win':>8}{'tie':>8}{'loss':>8}"
    ]
    lines += [
        f"{name:<18}{_scores(one)}{_p(one['p_bootstrap'])}{_p(one['p_randomisation'])}"
        f"{one['win']:>8}{one['tie']:>8}{one['loss']:>8}"
        for name, one in metrics.items()
    ]
    return "\n".join(lines)


def _scores(one: dict[str, Any]) -> str:
    interval = f"[{one['low']:+.2f}, {one['high']:+.2f}]"
    return f"{one['a']:9.2f}{one['b']:9.2f}{one['difference']:+9.2f}{interval:>20}"


def _p(value: float) -> str:
    return f"{value:9.4f}"


def _slices(found: dict[str, Any]) -> str:
    name = found["changed"][0]["metric"] if found["changed"] else next(iter(found["metrics"]))
    lines = [f"{name + ' by':<34}{'rows':>8}{'a':>9}{'b':>9}{'b - a':>9}{'95% interval':>20}"]
    for part in found["slices"]:
        if one := part["metrics"].get(name):
            label = _line(f"{part['by']} {part['is']}")  # of languages, what records say
            lines.append(f"{label:<34}{part['rows']:>8}{_scores(one)}")
    return "\n".join(lines)


def _changed(rows: list[dict[str, Any]]) -> str:
    lines = [f"changed most by {rows[0]['metric']}"]
    for row in rows:
        change = row["b"] - row["a"]
        lines.append(f"{row['a']:9.2f}{row['b']:9.2f}{change:+9.2f}  {_line(row['id'])}")
        lines += [f"    {key[-1]}: {_line(row[key])}" for key in ("text_a", "text_b") if key in row]
    return "\n".join(lines)


def _line(text: str) -> str:
    """A text of others in one line, without what a terminal could take amiss."""
    line = "".join(filter(str.isprintable, " ".join(text.split())))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
