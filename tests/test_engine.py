from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolip_search import engine as engine_module
from prolip_search.distances import csd, inclusion
from prolip_search.engine import SearchEngine
from prolip_search.errors import (
    DimensionMismatch,
    EncoderMismatch,
    IndexExists,
    IndexNotFound,
    ItemNotFound,
    QueryError,
    UnreadableImage,
)
from prolip_search.gaussians import Gaussians
from prolip_search.queries import StoredItem
from prolip_search.results import SearchResults
from prolip_search.testing import FakeEncoder

COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


def draw(path: Path, colour: str) -> Path:
    Image.new("RGB", (32, 24), colour).save(path)
    return path


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    """Six pictures of one colour each, beside their index."""
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        draw(tmp_path / f"photos/{colour}.png", colour)
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())
    engine.index(tmp_path / "photos")
    return engine


def names(results: SearchResults) -> list[str]:
    return [Path(result.path or "").stem for result in results]


def test_a_text_finds_its_picture(engine: SearchEngine) -> None:
    for colour in COLOURS:
        assert names(engine.search(f"something {colour}", 1)) == [colour]


def test_results_carry_exact_csd_inclusion_and_probability(engine: SearchEngine) -> None:
    results = engine.search("red", 6)
    query = engine.encoder.encode_texts(["red"])
    items = engine.store.gaussians([engine.store.row_of(id) for id in results.ids])
    expected = csd(query, items)[0]
    assert np.allclose(results.csd, expected, atol=1e-5)
    assert np.all(np.diff(results.csd) >= 0)
    assert np.allclose(results.inclusion, inclusion(items, query)[:, 0], rtol=1e-4, atol=1e-4)
    assert np.allclose(
        results.model_probability, engine.encoder.match_logit.probability(expected), atol=1e-5
    )
    assert results.query.uncertainty == pytest.approx(float(query.uncertainty[0]))
    assert np.allclose(results.uncertainty, items.uncertainty)


def test_pages_follow_one_another(engine: SearchEngine) -> None:
    whole = engine.search("red", 6)
    pages = [engine.search("red", 2, offset=offset) for offset in (0, 2, 4)]
    assert [id for page in pages for id in page.ids] == list(whole.ids)
    assert [result.rank for page in pages for result in page] == [1, 2, 3, 4, 5, 6]
    assert len(engine.search("red", 2, offset=6)) == 0


def test_every_kind_of_query_is_understood(engine: SearchEngine, tmp_path: Path) -> None:
    picture = Image.new("RGB", (9, 9), "blue")
    blue = engine.store.row_of_path("photos/blue.png")
    assert blue is not None
    queries = [
        "blue",
        picture,
        draw(tmp_path / "query.png", "blue"),
        engine.store.gaussians([blue]),
    ]
    answers = engine.search_many(queries, 1)
    assert [answer.query.kind for answer in answers] == ["text", "image", "image", "gaussians"]
    assert [names(answer) for answer in answers] == [["blue"]] * 4


def test_many_queries_answer_as_each_alone(engine: SearchEngine) -> None:
    together = engine.search_many(COLOURS, 3)
    alone = [engine.search(colour, 3) for colour in COLOURS]
    assert [list(answer.ids) for answer in together] == [list(answer.ids) for answer in alone]
    assert engine.search_many([]) == []


def test_a_stored_item_is_not_its_own_answer(engine: SearchEngine) -> None:
    red = engine.search("red", 1)[0]
    answer = engine.search(StoredItem(red.id), 10)
    assert len(answer) == 5
    assert red.id not in answer.ids
    pages = [engine.search(StoredItem(red.id), 2, offset=offset) for offset in (0, 2, 4)]
    assert [id for page in pages for id in page.ids] == list(answer.ids)
    with pytest.raises(ItemNotFound, match="no item 'nothing'"):
        engine.search(StoredItem("nothing"))


def test_similar_uses_what_is_stored_and_encodes_what_is_not(
    engine: SearchEngine, tmp_path: Path
) -> None:
    encoder = engine.encoder
    assert isinstance(encoder, FakeEncoder)
    before = encoder.n_images_encoded
    assert engine.similar(tmp_path / "photos/red.png", 2).query.kind == "item"
    assert encoder.n_images_encoded == before
    other = draw(tmp_path / "other.png", "#f00505")
    assert names(engine.similar(other, 1)) == ["red"]
    with pytest.raises(UnreadableImage, match="vanished"):
        engine.similar(tmp_path / "nothing.png")


def test_texts_and_pictures_can_be_added_and_removed(engine: SearchEngine) -> None:
    ids = engine.add(
        ["a red thing", Image.new("RGB", (8, 8), "orange")], metadata=[{"source": "web"}, None]
    )
    text = engine.search("red", 1, kinds=["text"])[0]
    assert (text.id, text.kind, text.text) == (ids[0], "text", "a red thing")
    assert text.metadata == {"source": "web"}
    assert (text.path, text.file) == (None, None)
    assert engine.search("orange", 1)[0].id == ids[1]
    assert engine.status().n_texts == 1
    with pytest.raises(QueryError, match="in the index already"):
        engine.add(["a red thing"])
    assert engine.remove([*ids, "nothing"]) == 2
    assert len(engine.search("red", 1, kinds=["text"])) == 0


def test_added_items_survive_an_indexing_run(engine: SearchEngine, tmp_path: Path) -> None:
    ids = engine.add(["a red thing", Image.new("RGB", (8, 8), "orange")], ids=["one", "two"])
    engine.index(tmp_path)
    assert [engine.store.row_of(id) is not None for id in ids] == [True, True]


def test_nonsense_is_refused_with_our_own_errors(engine: SearchEngine) -> None:
    for query in ("", "  \n", "\ud800"):
        with pytest.raises(QueryError):
            engine.search(query)
    with pytest.raises(QueryError, match="k=0"):
        engine.search("red", 0)
    with pytest.raises(QueryError, match="not int"):
        engine.search(7)  # type: ignore[arg-type]  # what a caller without types may do
    with pytest.raises(DimensionMismatch):
        engine.search(Gaussians(np.eye(1, 3), np.zeros((1, 3))))
    with pytest.raises(QueryError, match="at least one"):
        engine.index(engine.store.root, batch_size=0)
    with pytest.raises(QueryError, match="2 items need 2 ids, not 1"):
        engine.add(["a", "b"], ids=["x"])


def test_long_texts_say_that_they_were_cut(engine: SearchEngine) -> None:
    assert not engine.search("red").query.truncated
    assert engine.search("red " * 40).query.truncated


def test_another_encoder_is_refused(engine: SearchEngine) -> None:
    with pytest.raises(EncoderMismatch, match="--rebuild"):
        SearchEngine.open(engine.store.folder, encoder=FakeEncoder(salt="other"))


def test_the_encoder_is_loaded_when_it_is_needed_and_checked_then(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def load(name: str, *, runtime: str, revision: str | None) -> FakeEncoder:
        asked.append((name, revision))
        return FakeEncoder(salt="changed since")

    monkeypatch.setattr(engine_module, "load_encoder", load)
    opened = SearchEngine.open(engine.store.folder)
    red = opened.store.row_of_path("photos/red.png")
    assert red is not None
    opened.search(opened.store.gaussians([red]))
    opened.status()
    assert asked == []
    with pytest.raises(EncoderMismatch):
        opened.search("red")
    assert asked == [("fake", None)]


def test_create_and_open_say_what_is_wrong(engine: SearchEngine, tmp_path: Path) -> None:
    with pytest.raises(IndexExists):
        SearchEngine.create(engine.store.folder, encoder=FakeEncoder())
    with pytest.raises(IndexNotFound):
        SearchEngine.open(tmp_path / "nothing")


def test_status_counts_what_there_is(engine: SearchEngine) -> None:
    status = engine.status()
    assert (status.n_images, status.n_texts, dict(status.n_skipped)) == (6, 0, {})
    assert status.size_bytes > 0
    assert status.to_dict()["encoder"]["name"] == "fake"
    calibration = status.to_dict()["calibration"]
    assert (calibration["status"], calibration["fitted_at"]) == ("none", None)
    assert calibration["kinds"]["image"]["status"] == "none"
    assert status.to_dict()["history"] == {"n_queries": 0}


def test_a_moved_library_still_answers(engine: SearchEngine, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (tmp_path / "photos").rename(library / "photos")
    (tmp_path / ".prolip-search").rename(library / ".prolip-search")
    moved = SearchEngine.open(library / ".prolip-search", encoder=FakeEncoder())
    assert moved.search("red", 1)[0].file == library / "photos/red.png"
    report = moved.index(library / "photos")
    assert (report.n_unchanged, report.n_added) == (6, 0)
