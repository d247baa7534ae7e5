"""Recipes: TOML files that say everything about a training run but its data.

The key `trains` says what comes out of it and so what else may be in it: "towers" (a whole ProLIP,
`towers/config.py`), "adapter" (Gaussian heads on a frozen encoder, `adapter/config.py`) or "mini"
(the heads of the bundled encoder, `mini/config.py`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from prolip_search.errors import ConfigError
from prolip_search.train.tables import check_choice

__all__ = ["parse_recipe", "read_recipe", "recipe_names"]

KINDS = ("towers", "adapter", "mini")
KIND_WHERE_UNSAID = "mini"  # recipes from before there was anything else to train


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Any:
    """A recipe that ships with prolip-search, by name, or a TOML file; then the overrides.

    overrides: texts like "optimizer.learning_rate=1e-4", the value as TOML would have it; what is
    no TOML value is a text, so that quotes can be left out. Gives a TowersConfig, an AdapterConfig
    or mini's TrainConfig. Raises ConfigError.
    """
    values = _read_toml(name_or_path)
    for override in overrides:
        _set(values, override)
    return parse_recipe(values, source=f"recipe {name_or_path}")


def parse_recipe(values: Mapping[str, Any], *, source: str = "the recipe") -> Any:
    """A configuration from the tables of a recipe. Raises ConfigError."""
    values = dict(values)
    kind = values.pop("trains", KIND_WHERE_UNSAID)
    check_choice("trains", kind, KINDS)
    # One module a kind: a run of one kind does without what the others import.
    return import_module(f"prolip_search.train.{kind}.config").parse_config(values, source=source)


def recipe_names() -> list[str]:
    """The recipes that ship with prolip-search."""
    folder = resources.files("prolip_search.train") / "recipes"
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


def _read_toml(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"There is no recipe {path}.")
        text = path.read_text(encoding="utf-8")
    else:
        names = recipe_names()
        if name_or_path not in names:
            raise ConfigError(
                f"There is no recipe {name_or_path!r}; known are {', '.join(names)}, "
                "or give the path of a .toml file."
            )
        recipe = resources.files("prolip_search.train") / "recipes" / f"{name_or_path}.toml"
        text = recipe.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Recipe {name_or_path} is not valid TOML: {error}.") from error


def _set(values: dict[str, Any], override: str) -> None:
    """Puts one override, key.sub=value, into the tables."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"{override!r} is no setting; write key=value or table.key=value.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{override!r}: {name} is a value in the recipe, not a table.")
    table[names[-1]] = value
