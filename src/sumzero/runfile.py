"""Reads a run file and dotted overrides into a `RunConfig`.

`load(file, ["train.lr=1e-4"])` checks all of it at once and raises one ConfigError with a line per
fault, each with its key path. Unknown keys are faults.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sumzero.config import Lora, RunConfig, Source, Sources
from sumzero.errors import ConfigError


def run_file(path: str) -> Path:
    """The run file of an argument: a TOML file, or that of a run folder.

    That is config.toml, or what was submitted as long as no stage has begun. Raises ConfigError for
    a folder that has neither.
    """
    given = Path(path)
    if not given.is_dir():
        return given
    for file in (given / "config.toml", given / "submitted.toml"):
        if file.is_file():
            return file
    raise ConfigError(
        f"{given}: has no config.toml, which `sumzero prepare` writes into a run's folder; name "
        "the run file in its place, with the same key=value settings"
    )


def load(file: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file and applies `a.b=value` overrides; a value is TOML, or else a string.

    Raises ConfigError, with a line for every fault.
    """
    file = Path(file)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such run file or folder; recipes/ has examples") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a TOML file ({error})") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    values.setdefault("name", file.stem)
    for text in overrides:
        override(values, text)
    return check(values, str(file))


def check(values: dict[str, Any], origin: str) -> RunConfig:
    """Validates a nested mapping. Raises ConfigError naming `origin` and every faulty key."""
    try:
        return TypeAdapter(RunConfig).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        faults = [{**fault, "loc": _path(fault["loc"], values)} for fault in error.errors()]
        raise ConfigError([f"{origin}: {_problem(fault)}" for fault in faults]) from None


def as_dict(settings: Any) -> dict[str, Any]:
    """The settings as nested plain values, without those that are None; `check` reads it back."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            values[field.name] = as_dict(value)
        elif isinstance(value, tuple):
            values[field.name] = [as_dict(x) if is_dataclass(x) else x for x in value]
        elif value is not None:
            values[field.name] = value
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Sets `a.b=value` in a nested mapping. Raises ConfigError where it is not of that form."""
    key, equals, given = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {text!r}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {given}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = given
    at: Any = values
    for index, name in enumerate(path[:-1]):
        at = _section(at, name, text)
        if isinstance(at, list) and not path[index + 1].isdigit():  # one source, not named
            at = _section(at, "0", text) if len(at) == 1 else at
    _section(at, None, text)[path[-1]] = value


def _section(at: Any, name: str | None, text: str) -> Any:
    """What lies below `name`, made where it is missing; None is the section itself."""
    if isinstance(at, list) and name is not None and name.isdigit() and int(name) < len(at):
        at = at[int(name)]
    elif isinstance(at, list):
        raise ConfigError(
            f"override {text!r}: there are {len(at)} sources; name one by its number from 0, as in "
            "data.train.0.path=FILE"
        )
    elif name is not None:
        at = at.setdefault(name, {})
    if not isinstance(at, dict | list):
        raise ConfigError(f"override {text!r}: {name} is not a section")
    return at


def _path(keys: Sequence[str | int], values: Any) -> list[str]:
    """Keys as they stand in the file: a lone source has no number there."""
    path = []
    for key in keys:
        if key == 0 and isinstance(values, dict) and 0 not in values:
            continue
        path.append(str(key))
        if isinstance(values, dict):
            values = values.get(key)
        elif isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
    return path


def _problem(fault: dict[str, Any]) -> str:
    """One line for one of pydantic's faults: key path, what is wrong, what was meant."""
    key = ".".join(fault["loc"]) or "settings"
    if fault["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(key, _keys(RunConfig), n=1, cutoff=0.5)
        return f"{key}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
    message = fault["msg"].removeprefix("Value error, ")
    got = fault.get("input")
    shown = "" if isinstance(got, dict) else f" (got {json.dumps(got, default=str)})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


# What lies below fields whose type is not itself a section.
_SECTIONS: dict[Any, Any] = {Sources: Source, Lora | None: Lora}


def _keys(settings: Any, prefix: str = "") -> list[str]:
    """All key paths below a settings class."""
    found = []
    for field in fields(settings):
        path = prefix + field.name
        found.append(path)
        section = _SECTIONS.get(field.type, field.type)
        if isinstance(section, type) and is_dataclass(section):
            found += _keys(section, path + ".")
    return found
