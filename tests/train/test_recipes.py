"""Recipes: which there are, overrides from the command line, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.errors import ConfigError
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.recipes import parse_recipe, read_recipe, recipe_names


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


@pytest.mark.parametrize(
    ("name", "n_steps", "width", "context"),
    [
        ("prolip-vit-b-16-1.28b", 78_125, 768, 64),
        ("prolip-vit-b-16-12.8b", 781_250, 768, 64),
        ("prolip-vit-l-16", 78_125, 1024, 64),
        ("prolip-vit-so400m-14", 78_125, 1152, 64),
        ("prolip-vit-h-14", 78_125, 1280, 77),
        ("longprolip-vit-b-16", 15_625, 768, 256),
    ],
)
def test_the_published_runs_are_as_published(
    name: str, n_steps: int, width: int, context: int
) -> None:
    config = read_recipe(name)
    assert config.n_steps == n_steps
    assert config.model.vision.width == width
    assert config.model.text.context_length == context
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps) == (
        0.9,
        0.95,
        1e-6,
    )
    long = name.startswith("long")
    assert config.optimizer.learning_rate == (1e-6 if long else 5e-4)
    assert config.optimizer.weight_decay == (0.01 if long else 0.2)
    assert config.optimizer.warmup_steps == (200 if long else 10_000)
    assert config.batch_size == (8_192 if long else 16_384)
    assert config.optimizer.clip_norm == config.optimizer.ema_decay == 0
    assert config.losses == "correct"
    published = read_recipe(name, ["losses=reference"])
    assert published.losses == "reference"
    constants = published.reference.inclusion_loss_eps, published.reference.inclusion_loss_scale
    assert constants == ((-100, 10) if long else (-20, 1000))


def test_the_towers_of_a_recipe_can_be_changed_key_by_key() -> None:
    config = read_recipe(
        "prolip-vit-b-16-1.28b",
        ["model.vision_cfg.layers=3", "model.embed_dim=768", "optimizer.clip_norm=1"],
    )
    assert (config.model.vision.layers, config.model.text.layers) == (3, 12)
    assert config.optimizer.clip_norm == 1
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.learning_rate\?"):
        read_recipe("small", ["optimizer.learning_rates=1"])
    with pytest.raises(ConfigError, match=r"did you mean ViT-L-16-ProLIP\?"):
        read_recipe("small", ["model.preset=ViT-L-16-ProLAP"])
    with pytest.raises(ConfigError, match=r"losses = 'best' must be one of correct, reference"):
        read_recipe("small", ["losses=best"])


def test_a_configuration_survives_json() -> None:
    config = read_recipe("longprolip-vit-b-16", ["data.paths=['a.parquet']", "data.weights=[2]"])
    assert parse_recipe({"trains": "towers", **config.to_json()}) == config
