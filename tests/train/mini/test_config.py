"""Recipes: what is in them, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from prolip_search.errors import ConfigError
from prolip_search.train.mini.config import TrainConfig, parse_config


def test_configuration_survives_json() -> None:
    config = TrainConfig(seed=5, views=("crop",))
    assert parse_config(config.to_json()) == config


def test_an_unknown_key_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown key epoch in the recipe; did you mean epochs\?"
    ):
        parse_config({"epoch": 3})
    with pytest.raises(ConfigError, match=r"did you mean heads\.member_dim\?"):
        parse_config({"heads": {"member_dims": 3}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs = 0 must be a whole number, 1 or more"),
        ({"epochs": True}, "epochs = True"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast' must be a number"),
        ({"dropout": 1.5}, "dropout = 1.5 must be from 0 to 0.99"),
        ({"views": ["upside-down"]}, "views = "),
        ({"views": "whole"}, "must be a list of names"),
        ({"loss": {"vib": float("nan")}}, "loss.vib = nan must be a number"),
        ({"loss": 3}, "loss in the recipe must be a table"),
        ({"heads": {"member_dim": 1.5}}, "heads.member_dim = 1.5 must be a whole number"),
        ({"classes": {"n_per_step": 1}}, "classes.n_per_step = 1 must be from 2 to 1000"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(values)
    assert message in str(error.value)
