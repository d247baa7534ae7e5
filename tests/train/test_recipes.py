"""Recipes: which there are, overrides from the command line, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.errors import ConfigError
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.recipes import read_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_is_a_valid_configuration(name: str) -> None:
    assert read_recipe(name) == read_recipe(name)


def test_the_recipe_of_the_bundled_encoder_has_its_dimension() -> None:
    config = read_recipe("mini")
    assert isinstance(config, TrainConfig)
    assert config.heads.dim == 384


def test_recipes_can_be_files(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("epochs = 2\n[heads]\nn_members = 1\n")
    assert read_recipe(str(recipe)).epochs == 2
    recipe.write_text("epochs = = 2")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_recipe(str(recipe))
    with pytest.raises(ConfigError, match="There is no recipe"):
        read_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match=r"known are .*mini"):
        read_recipe("maxi")


def test_overrides_reach_into_tables_and_need_no_quotes() -> None:
    config = read_recipe("mini", ["epochs=2", "heads.n_members = 1", "views=['crop']"])
    assert (config.epochs, config.heads.n_members, config.views) == (2, 1, ("crop",))
    with pytest.raises(ConfigError, match="epochs = 'two' must be a whole number"):
        read_recipe("mini", ["epochs=two"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "'epochs' is no setting; write key=value"),
        ("=3", "is no setting"),
        ("epochs.of=3", "epochs is a value in the recipe, not a table"),
        ("epoch=3", r"Unknown key epoch in recipe mini; did you mean epochs\?"),
        ("trains=everything", "trains = 'everything' must be one of towers, adapter, mini"),
    ],
)
def test_a_wrong_override_is_one_clear_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe("mini", [override])
