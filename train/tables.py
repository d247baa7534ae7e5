"""Frozen dataclasses from the tables of a recipe: types checked, unknown keys refused by name.

A configuration class says its types in its fields and its bounds in `__post_init__`, with the
checks below; `from_table` does the rest. `to_table` is the inverse, ready for JSON.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prolip_search.errors import ConfigError

__all__ = [
    "check_between",
    "check_choice",
    "check_number",
    "check_whole",
    "from_table",
    "refuse_unknown",
    "to_table",
]

Config = TypeVar("Config")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def from_table(
    kind: type[Config], values: Mapping[str, Any], *, source: str, prefix: str = ""
) -> Config:
    """A value of the dataclass `kind`, its nested dataclasses from nested tables.

    prefix: where the table stands, "optimizer." say; it is part of every message. Keys that are
    absent keep their defaults. Raises ConfigError: unknown key, wrong type, and what
    `__post_init__` refuses.
    """
    refuse_unknown(values, [item.name for item in fields(kind)], source, prefix=prefix)  # type: ignore[arg-type]  # a dataclass
    hints = get_type_hints(kind)
    return kind(
        **{
            key: _typed(hints[key], value, source=source, name=f"{prefix}{key}")
            for key, value in values.items()
        }
    )


def to_table(config: Any) -> dict[str, Any]:
    """Nested dictionaries, lists and plain values; an object with `to_json` speaks for itself."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def refuse_unknown(
    values: Mapping[str, Any], known: Sequence[str], source: str, *, prefix: str = ""
) -> None:
    """Raises ConfigError for a key that is not known, naming the nearest one that is."""
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            raise ConfigError(
                f"Unknown key {prefix}{key} in {source}; {hint}known are {', '.join(known)}."
            )


def check_number(name: str, value: object) -> None:
    """Raises ConfigError unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} = {value!r} must be a number.")


def check_between(name: str, value: object, low: float, high: float) -> None:
    """Raises ConfigError unless low ≤ value ≤ high."""
    check_number(name, value)
    if not low <= value <= high:  # type: ignore[operator]  # a number, as just checked
        raise ConfigError(f"{name} = {value!r} must be from {low:g} to {high:g}.")


def check_whole(name: str, value: object, low: int) -> None:
    """Raises ConfigError unless the value is a whole number, `low` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} = {value!r} must be a whole number, {low} or more.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises ConfigError unless the value is one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} = {value!r} must be one of {', '.join(choices)}.")


def _typed(hint: Any, value: Any, *, source: str, name: str) -> Any:
    """The value as the type hint wants it: a table as a dataclass, a list as a tuple."""
    options = [some for some in get_args(hint) if some is not NoneType]
    if NoneType in get_args(hint):
        if value is None:
            return None
        hint = options[0]
    if is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]  # a class, not an instance of one
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} in {source} must be a table, [{name}].")
        return from_table(hint, value, source=source, prefix=f"{name}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} = {value!r} in {source} must be a list.")
        inner = get_args(hint)[0]
        return tuple(_typed(inner, some, source=source, name=name) for some in value)
    return _scalar(hint, value, source=source, name=name)


def _scalar(hint: Any, value: Any, *, source: str, name: str) -> Any:
    if hint not in KINDS:  # a mapping, a literal: what it may hold is the dataclass's concern
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(f"{name} = {value!r} in {source} must be {KINDS[hint]}.")
    return value


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return to_table(value)
    if isinstance(value, tuple | list):
        return [_plain(some) for some in value]
    return value
