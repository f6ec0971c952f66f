"""docs/config.md, made from the settings' own types and docstrings: `make docs/config.md`."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from sumzero.config import RunConfig

Schema = dict[str, Any]
"""A JSON schema, as pydantic makes one of a settings class."""

_HEAD = """# Every setting

A run file is TOML. A setting left out has its default. On the command line a setting is
`section.key=value` behind the run file; the value is read as TOML, and as plain text where it is
none:

    sumzero prepare RUN.toml data.max_length=4096 train.lr=2e-5 data.train.path=train.jsonl

With several sources in `[[data.train]]` one is named by its number, `data.train.0.path`. A key that
does not exist, a value of another type or out of range ends the command with exit code 2 and a line
for each. `runs/NAME/config.toml` has all that a run was made with.

This page is made from `src/sumzero/config.py` and the modules of settings beside it by
`make docs/config.md`.
"""
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
}
_BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "exclusiveMaximum": "below {}",
}


def reference() -> str:
    """The page, in Markdown."""
    schema = TypeAdapter(RunConfig).json_schema()
    return "\n".join([_HEAD, *_section("", schema, schema["$defs"], set())])


def _section(path: str, section: Schema, defs: dict[str, Schema], done: set[str]) -> Iterator[str]:
    """The lines of a section and of those in it; one that several keys have is told once."""
    own = {key: of for key, of in section["properties"].items() if _named(of) is None}
    inner = {key: of for key, of in section["properties"].items() if _named(of) is not None}
    yield f"## {f'`[{path}]`' if path else 'At the top of the file'}"
    yield ""
    if path:
        yield from (_prose(section["description"]), "")
    if own:
        yield "| setting | is | default | |"
        yield "|---|---|---|---|"
        required = section.get("required", [])
        for key, of in own.items():
            name = f"{path}.{key}" if path else key
            is_required = key in required and path  # a run without a name has its file's
            default = "required" if is_required else _default(of.get("default"))
            yield f"| `{name}` | {_type(of)} | {default} | {_prose(of.get('description', ''))} |"
        yield ""
    for key, of in inner.items():
        name, type_ = f"{path}.{key}" if path else key, _named(of)
        if of.get("type") == "array":
            yield f"`{name}`: a table, or several: `[[{name}]]`. {_prose(of['description'])}"
            yield ""
        if type_ is not None and type_ not in done:
            done.add(type_)
            yield from _section(name, defs[type_], defs, done)


def _named(of: Schema) -> str | None:
    """The section that a setting is, or is a list of."""
    for one in (of, of.get("items", {}), *of.get("anyOf", [])):
        if "$ref" in one:
            return str(one["$ref"].rpartition("/")[2])
    return None


def _type(of: Schema) -> str:
    """What may stand there."""
    if "anyOf" in of:
        return " or ".join(_type(one) for one in of["anyOf"] if one["type"] != "null")
    if "enum" in of:
        return ", ".join(f"`{json.dumps(value)}`" for value in of["enum"])
    if "prefixItems" in of:
        (item, *_) = items = of["prefixItems"]
        return f"list of {len(items)}, each a {_type(item)}"
    if of["type"] == "array":
        return f"list of {_type(of['items'])}"
    bounds = [text.format(of[key]) for key, text in _BOUNDS.items() if of.get(key, 2**62) < 2**62]
    pattern = [f"like `{of['pattern']}`"] if "pattern" in of else []
    return " ".join([_TYPES[of["type"]], *bounds, *pattern]).replace("|", "\\|")


def _default(value: Any) -> str:
    return "not set" if value is None else f"`{json.dumps(value)}`"


def _prose(text: str) -> str:
    """A docstring in one line, its pages of docs/ as links."""
    line = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", line).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
