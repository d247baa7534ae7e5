"""From a folder of captioned photos to an encoder that indexes, finds and is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prolip_search import SearchEngine, load_encoder
from prolip_search.encoders.checkpoint import ReleasedFolder
from prolip_search.errors import ConfigError, TrainingDataError
from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.datasets.writing import write_shards
from prolip_search.train.evaluation.encoding import encode_captioned
from prolip_search.train.evaluation.recalls import retrieval
from prolip_search.train.towers.config import parse_config
from prolip_search.train.towers.training import TowersResult, train_prolip, with_data
from tests.train.mini.synthetic import COLOURS, write_split
from tests.train.towers.tiny import RECIPE, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_split(folder, "train", 20)
    write_split(folder, "val", 6)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TowersResult:
    torch.set_num_threads(1)
    config, val = with_data(tiny_config(tokenizer="train:40", validation_every=4), data)
    return train_prolip(config, tmp_path_factory.mktemp("run") / "out", val=val)


def test_the_encoder_is_a_released_folder_that_loads(trained: TowersResult) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "training.json"}
    config = ReleasedFolder.open(trained.folder).config
    assert config.embed_dim == 16
    encoder = load_encoder(str(trained.folder), runtime="torch")
    texts = encoder.encode_texts(["a red picture", "something blue"])
    assert texts.mean.shape == (2, 16)
    assert np.isfinite(texts.log_variance).all()
    told = json.loads((trained.folder / "training.json").read_text())
    assert told["recipe"]["batch_size"] == 8
    assert told["val"] == trained.val


def test_an_index_takes_the_encoder_and_answers(trained: TowersResult, tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.jpg")
    encoder = load_encoder(str(trained.folder), runtime="torch")
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=encoder)
    engine.index(tmp_path)
    results = engine.search("a red picture", k=3)
    assert {Path(result.path).stem for result in results} == set(COLOURS)


def test_the_figures_of_the_run_are_those_of_the_encoder_it_left(
    trained: TowersResult, data: Path
) -> None:
    encoder = load_encoder(str(trained.folder), runtime="torch")
    pairs = encode_captioned(open_captioned(data / "val.parquet"), encoder)
    recalls = retrieval(pairs.images, pairs.texts, pairs.owners)
    assert trained.val["csd_rsum"] == recalls["csd"].rsum
    assert trained.val["cosine_t2i_r1"] == recalls["cosine"].t2i[0]
    assert trained.val["step"] == 6
    lines = (trained.folder.parent / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 6]


def test_a_trained_encoder_can_be_trained_on(
    trained: TowersResult, data: Path, tmp_path: Path
) -> None:
    """Its own towers and its own vocabulary, by the name of its folder."""
    recipe = {**RECIPE, "model": {"preset": "initial"}, "initial": str(trained.folder)}
    notes: list[str] = []
    config, _ = with_data(parse_config(recipe), data)
    again = train_prolip(config, tmp_path / "out", note=notes.append)
    assert f"towers start from {trained.folder}" in notes[0]
    first = (trained.folder / "tokenizer.json").read_bytes()
    assert (again.folder / "tokenizer.json").read_bytes() == first
    losses = [
        json.loads((folder.parent / "log.jsonl").read_text().splitlines()[0])["ppcl"]
        for folder in (trained.folder, again.folder)
    ]
    assert losses[1] < losses[0]  # it begins where the other ended


def test_data_that_is_not_there_is_one_clear_error(data: Path, tmp_path: Path) -> None:
    config, _ = with_data(tiny_config(tokenizer="train:40"), tmp_path / "nowhere")
    with pytest.raises(TrainingDataError, match="nowhere"):
        train_prolip(config, tmp_path / "out")
    config, _ = with_data(tiny_config(tokenizer="train:40"), data)
    with pytest.raises(TrainingDataError, match=r"There is no .*absent.parquet"):
        train_prolip(config, tmp_path / "out", val=data / "absent.parquet")


def test_broken_photos_are_counted_and_left_out(data: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "train.parquet").to_pylist()
    rows[3]["image"] = rows[3]["image"][:40]
    rows[7]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    config, _ = with_data(tiny_config(tokenizer="train:40"), tmp_path)
    result = train_prolip(config, tmp_path / "out")
    assert result.skipped.count >= 2
    assert {skip.key for skip in result.skipped.listed} == {"train/3", "train/7"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "clip"}, "model.text_cfg.vocab_size = 49408"),
        ({"tokenizer": "named"}, "The model names no tokenizer"),
        ({"tokenizer": "train:3"}, "A vocabulary of 3 is too small"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_clear_error(
    changes: dict[str, str], message: str, data: Path, tmp_path: Path
) -> None:
    config, _ = with_data(tiny_config(**changes), data)
    with pytest.raises(ConfigError, match=message):
        train_prolip(config, tmp_path / "out")


def test_damaged_shards_cost_what_they_covered(data: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shards(open_captioned(data / "train.parquet"), shards, name="train", samples_per_shard=5)
    whole = (shards / "train-000001.tar").read_bytes()
    (shards / "train-000001.tar").write_bytes(whole[: len(whole) // 2])
    config, val = with_data(tiny_config(tokenizer="train:40"), shards)
    assert (config.data.split, val) == ("train", None)
    result = train_prolip(config, tmp_path / "out")
    (lost,) = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(lost)["reason"] == "damaged shard"
    assert json.loads(lost)["key"].endswith("train-000001.tar")
    assert result.skipped.reasons.keys() == {"damaged shard"}


def test_a_recipe_may_name_its_data_itself(data: Path) -> None:
    own = parse_config({**RECIPE, "data": {"paths": [str(data / "train.parquet")]}})
    assert with_data(own, None) == (own, None)
    config, val = with_data(own, "s3://bucket/train-{00..99}.tar")
    assert config.data.paths == ("s3://bucket/train-{00..99}.tar",)
    assert val is None
