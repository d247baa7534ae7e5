"""Confidences in answers: where they come from, what changes them and what must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from prolip_search import answering, calibrating
from prolip_search.engine import SearchEngine
from prolip_search.errors import ItemNotFound, QueryError
from prolip_search.indexes.store import Store
from prolip_search.judging import Judgement, Label
from prolip_search.queries import StoredItem
from prolip_search.results import SearchResults
from prolip_search.testing import FakeEncoder
from tests.judged import NAMES, add_pictures, judge_absent, judgements, pixels_of


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    """A collection that nobody has judged."""
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())
    add_pictures(engine)
    return engine


@pytest.fixture
def judged(engine: SearchEngine) -> SearchEngine:
    engine.record(judgements(engine))
    return engine


def pairs(engine: SearchEngine) -> list[tuple[str, str]]:
    """Captions of every third picture."""
    ids = engine.store.table(["id"])["id"].to_pylist()
    return [(id, f"one {id.split()[0]} object, number {id.split()[1]}") for id in ids[::3]]


QUERIES = ["red", "something blue", "two green things", "no such colour", "black and white"]


def test_without_labels_there_are_scores_and_no_confidence(engine: SearchEngine) -> None:
    answer = engine.search("red", 5)
    assert answer.calibration.status == "none"
    assert {result.confidence for result in answer} == {None}
    assert (answer.none_probability, answer.cutoff, answer.coverage) == (None, None, None)
    assert answer.top_probability is None


def test_texts_among_the_answers_have_no_confidence(judged: SearchEngine) -> None:
    judged.add(["a red thing", "a blue thing"])
    for kinds in (("text",), ("image", "text")):
        answer = judged.search("red", 3, kinds=kinds)  # type: ignore[arg-type]
        assert answer.calibration.status == "none"
        assert answer.confidence is None
        with pytest.raises(QueryError, match="no confidences"):
            judged.search("red", 3, kinds=kinds, min_confidence=0.1)  # type: ignore[arg-type]
    assert judged.search("red", 3).confidence is not None


def test_judgements_make_confidences_of_this_index(judged: SearchEngine) -> None:
    answer = judged.search("red", 40)  # as far down as was judged
    assert answer.calibration.status == "own"
    assert answer.calibration.n_judged == 312
    assert answer.calibration.smece is not None
    assert answer.calibration.smece < 0.15
    confidence = np.array([result.confidence for result in answer])
    is_red = np.array([id.startswith("red") for id in answer.ids])
    assert confidence[is_red].mean() > confidence[~is_red].mean() + 0.4
    assert answer.top_probability == answer[0].confidence
    for result in answer:
        assert result.confidence_low is not None
        assert result.confidence is not None
        assert result.confidence_high is not None
        assert 0 < result.confidence_low <= result.confidence <= result.confidence_high < 1


def test_confidence_falls_with_distance(judged: SearchEngine) -> None:
    for answer in judged.search_many(QUERIES, 120):
        assert answer.confidence is not None
        assert (np.diff(answer.confidence) <= 0).all()


def test_calibrating_never_changes_the_order(engine: SearchEngine) -> None:
    queries = [*QUERIES, Image.fromarray(pixels_of("red", 7)), StoredItem("blue 1")]
    rankings = ("csd", "cosine", "membership")
    options = [{"rank_by": rank_by, "offset": n} for rank_by in rankings for n in (0, 7)]
    before = [engine.search_many(queries, 30, **o) for o in options]  # type: ignore[arg-type]
    engine.record(judgements(engine))
    assert engine.search("red").calibration.status == "own"
    after = [engine.search_many(queries, 30, **o) for o in options]  # type: ignore[arg-type]
    for old, new in zip(before, after, strict=True):
        assert [list(answer.ids) for answer in old] == [list(answer.ids) for answer in new]
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one.csd, other.csd)


def confidence_by_id(answer: SearchResults) -> dict[str, float]:
    assert answer.confidence is not None
    return dict(zip(answer.ids, answer.confidence.tolist(), strict=True))


def numbers_in(content: object) -> list[float]:
    """Every number of nested JSON, in the order of sorted keys."""
    if isinstance(content, dict):
        return [n for key in sorted(content) for n in numbers_in(content[key])]
    if isinstance(content, list):
        return [n for one in content for n in numbers_in(one)]
    return [float(content)] if isinstance(content, int | float) else []


@pytest.fixture
def full(judged: SearchEngine) -> SearchEngine:
    """With everything there is: judged and absent queries, and pairs."""
    judge_absent(judged)
    judged.calibrate(pairs=pairs(judged))
    return judged


def test_numbers_depend_neither_on_k_nor_on_the_batch_nor_on_the_page(full: SearchEngine) -> None:
    batch = full.search_many(QUERIES, 120)
    for query, whole in zip(QUERIES, batch, strict=True):
        assert whole.none_probability is not None
        assert whole.cutoff is not None
        alone = full.search(query, 120).to_dict()
        assert alone["none_probability"] == pytest.approx(whole.none_probability, rel=1e-4)
        assert alone["calibration"] == whole.to_dict()["calibration"]
        assert whole.confidence is not None
        short, page = full.search(query, 3), full.search(query, 5, offset=20)
        assert short.confidence is not None
        assert page.confidence is not None
        np.testing.assert_allclose(short.confidence, whole.confidence[:3], rtol=1e-4)
        np.testing.assert_allclose(page.confidence, whole.confidence[20:25], rtol=1e-4)
        for other in (short, page):
            assert other.none_probability == pytest.approx(whole.none_probability, rel=1e-4)
            assert other.cutoff == whole.cutoff


def test_numbers_do_not_depend_on_the_order_in_which_items_came(
    full: SearchEngine, tmp_path: Path
) -> None:
    table = full.store.table(["id", "kind", "mean", "log_variance"])
    store = Store.create(tmp_path / "other" / ".prolip-search", encoder=full.store.encoder)
    store.append(table.take(np.random.default_rng(3).permutation(len(table))))
    store.refresh_index()
    store.record_judgements(full.store.judgements())
    other = SearchEngine.open(store.folder, encoder=FakeEncoder())
    other.calibrate()
    for one, two in zip(
        full.search_many(QUERIES, 120), other.search_many(QUERIES, 120), strict=True
    ):
        assert list(one.ids) == list(two.ids)
        np.testing.assert_allclose(one.confidence, two.confidence, rtol=1e-3)  # type: ignore[arg-type]
        assert one.none_probability == pytest.approx(two.none_probability, rel=1e-3)
        assert one.cutoff == two.cutoff


def test_adding_and_removing_the_same_items_and_fitting_again_is_as_before(
    full: SearchEngine,
) -> None:
    before = full.store.manifest.calibration
    ids = add_pictures(full, 30, first=1000)
    assert full.store.manifest.calibration != before  # 25 % more: fitted again
    full.remove(ids)
    full.calibrate()
    after = full.store.manifest.calibration
    assert before is not None
    assert after is not None
    # Not bit for bit: where rows lie decides in which order products of float32 are added.
    assert numbers_in(after["kinds"]) == pytest.approx(
        numbers_in(before["kinds"]), rel=1e-3, abs=1e-6
    )


def test_other_rankings_keep_confidences_and_have_no_cutoff(full: SearchEngine) -> None:
    by_csd = full.search("red", 120)
    for rank_by in ("cosine", "membership"):
        answer = full.search("red", 120, rank_by=rank_by)  # type: ignore[arg-type]
        assert answer.cutoff is None
        assert confidence_by_id(answer) == pytest.approx(confidence_by_id(by_csd), rel=1e-4)
        assert answer.none_probability == pytest.approx(by_csd.none_probability, rel=1e-4)
    assert by_csd.cutoff is not None


def test_nothing_matching_is_noticed(full: SearchEngine) -> None:
    present = [full.search(f"any {colour}", 5).none_probability for colour in NAMES]
    absent = [full.search(f"unknown words {at}", 5).none_probability for at in range(10)]
    assert np.median(present) < 0.2  # type: ignore[arg-type]
    assert np.median(absent) > 0.5  # type: ignore[arg-type]


def test_pairs_make_a_cutoff_and_no_confidence(engine: SearchEngine) -> None:
    report = engine.calibrate(pairs=pairs(engine))
    assert report.n_recorded == 40
    assert report.kinds["text"].n_pairs == 40
    assert report.kinds["text"].has_cutoff
    answer = engine.search("red", 5)
    assert answer.calibration.status == "none"
    assert {result.confidence for result in answer} == {None}
    assert answer.cutoff is not None
    assert answer.coverage == 0.9
    assert engine.search("red", 5, coverage=0.5).cutoff <= answer.cutoff  # type: ignore[operator]
    assert engine.search("red", 5, coverage=0.999).cutoff is None
    kept = [
        full.cutoff is not None and id in full.ids[: full.cutoff]
        for (id, caption) in pairs(engine)
        for full in [engine.search(caption, 120)]
    ]
    assert np.mean(kept) >= 0.85


def test_a_kind_of_query_borrows_no_other_kinds_calibration(judged: SearchEngine) -> None:
    picture = Image.fromarray(pixels_of("red", 7))
    for query in (picture, StoredItem("red 10"), judged.encoder.encode_texts(["red"])):
        answer = judged.search(query, 3)
        assert answer.calibration.status == "none"
        assert answer[0].confidence is None


def test_pictures_are_calibrated_from_judgements_of_pictures(engine: SearchEngine) -> None:
    said = []
    for at, colour in enumerate(NAMES * 2):
        picture = Image.fromarray(pixels_of(colour, 5000 + at))
        answer = engine.search(picture, 30)
        for rank in (1, 3, 20, 30):
            item = answer[rank - 1].id
            label: Label = "match" if item.split()[0] == colour else "no_match"
            said.append(Judgement(query=picture, item=item, label=label, rank=rank))
    engine.record(said)
    answer = engine.search(Image.fromarray(pixels_of("red", 7)), 20)
    assert answer.calibration.status == "own"
    assert engine.search(StoredItem("red 10"), 3).calibration.status == "own"
    assert engine.search("red", 3).calibration.status == "none"
    # The item itself is neither an answer nor evidence: its numbers are those of an equal picture.
    item = engine.search(StoredItem("red 10"), 5)
    assert "red 10" not in item.ids
    assert item.confidence is not None
    assert item.confidence[0] > 0.5


def test_a_filter_narrows_what_the_numbers_are_about(full: SearchEngine) -> None:
    whole = full.search("red", 5)
    without_red = full.search("red", 5, where="id NOT LIKE 'red%'")
    assert whole.none_probability is not None
    assert without_red.none_probability is not None
    assert without_red.none_probability > 3 * whole.none_probability
    everywhere = confidence_by_id(full.search("red", 120))
    for id, confidence in confidence_by_id(without_red).items():
        assert confidence == pytest.approx(everywhere[id], rel=1e-4)
    nothing = full.search("red", 5, where="false")
    assert (len(nothing), nothing.none_probability) == (0, None)


def test_a_least_confidence_leaves_out_the_rest(judged: SearchEngine) -> None:
    whole = judged.search("red", 30)
    sure = judged.search("red", 30, min_confidence=0.5)
    assert 0 < len(sure) < 30
    assert list(sure.ids) == [r.id for r in whole if (r.confidence or 0) >= 0.5]
    assert [result.rank for result in sure] == list(range(1, len(sure) + 1))
    assert len(judged.search("red", 30, min_confidence=1.0)) == 0


def test_a_least_confidence_needs_confidences(judged: SearchEngine, engine: SearchEngine) -> None:
    with pytest.raises(QueryError, match="Pictures have no confidences here"):
        judged.search(Image.new("RGB", (8, 8), "red"), min_confidence=0.5)
    with pytest.raises(QueryError, match="no confidences here"):
        judged.search_many(judged.encoder.encode_texts(["red"]), min_confidence=0.5)  # type: ignore[call-overload]
    judged.forget_calibration()
    with pytest.raises(QueryError, match="prolip-search calibrate"):
        judged.search("red", min_confidence=0.5)
    for options in ({"min_confidence": 1.5}, {"coverage": 1.0}, {"coverage": 0.0}):
        with pytest.raises(QueryError, match="not"):
            judged.search("red", **options)  # type: ignore[arg-type]


def test_copies_of_photos_change_no_number(full: SearchEngine) -> None:
    before = [full.search(query, 3) for query in QUERIES]
    table = full.store.table(["id", "kind", "mean", "log_variance"])
    ids = table["id"].to_pylist()
    hashes = [f"content of {id}" for id in ids]
    copies = table.append_column("content_hash", [hashes])
    full.store.delete(ids)
    for copy in ("first", "second"):
        names = [[id if copy == "first" else f"copy of {id}" for id in ids]]
        full.store.append(copies.set_column(0, "id", names))
    full.store.refresh_index()
    full.store.set_calibration(full.store.manifest.calibration)
    for query, old in zip(QUERIES, before, strict=True):
        now = full.search(query, 6)
        assert now.none_probability == pytest.approx(old.none_probability, rel=0.02)
        assert now.confidence is not None
        assert old.confidence is not None
        np.testing.assert_allclose(now.confidence[::2], old.confidence, rtol=0.02)


# --- when it is fitted


def test_it_is_fitted_again_every_25_labels_and_never_by_a_search(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    fit = calibrating.fit

    def counted(*arguments, **options):  # type: ignore[no-untyped-def]  # as it is
        fits.append(1)
        return fit(*arguments, **options)

    monkeypatch.setattr(calibrating, "fit", counted)
    said = judgements(engine)
    engine.record(said[:24])
    assert len(fits) == 0
    engine.record(said[24:26])
    assert len(fits) == 1
    engine.record(said[26:50])
    assert len(fits) == 1
    engine.judge("red", "red 10", True)
    assert len(fits) == 2
    for query in QUERIES:
        engine.search(query, 5)
    engine.search_many(QUERIES, 5)
    assert len(fits) == 2
    add_pictures(engine, 12, first=500)
    assert len(fits) == 2  # a tenth
    add_pictures(engine, 2, first=600)
    assert len(fits) == 3
    engine.remove([f"{NAMES[at % len(NAMES)]} {at}" for at in range(20)])
    assert len(fits) == 4


def test_items_that_leave_take_their_judgements_along(judged: SearchEngine) -> None:
    before = judged.store.judgements()
    judged.remove(["red 10"])
    after = judged.store.judgements()["item_id"].to_pylist()
    assert "red 10" in before["item_id"].to_pylist()
    assert "red 10" not in after
    assert len(after) < len(before)


def test_the_last_word_on_a_query_and_an_item_counts(judged: SearchEngine) -> None:
    said = judgements(judged)
    turned = {"match": "no_match", "no_match": "match"}
    judged.record(
        [
            Judgement(query=j.query, item=j.item, label=turned[j.label], rank=j.rank)  # type: ignore[arg-type]
            for j in said
        ]
    )
    judged.calibrate()
    assert judged.search("red", 1).calibration.n_judged == len(said)
    judged.record(said)
    judged.calibrate()
    assert (judged.search("red", 1)[0].confidence or 0) > 0.6


def test_another_encoder_voids_the_parameters_and_keeps_the_labels(
    full: SearchEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "library" / ".prolip-search"
    photos = tmp_path / "library" / "photos"
    photos.mkdir(parents=True)
    for at, colour in enumerate(NAMES * 6):
        Image.fromarray(pixels_of(colour, at)).save(photos / f"{colour} {at}.png")
    engine = SearchEngine.create(folder, encoder=FakeEncoder())
    engine.index(photos)
    picture = tmp_path / "query.png"
    Image.fromarray(pixels_of("red", 999)).save(picture)
    for query in [f"{word} {colour}" for word in "abcd" for colour in NAMES]:
        answer = engine.search(query, 30)
        engine.record(
            [
                Judgement(
                    query=query,
                    item=answer[rank].id,
                    label="match" if query.split()[1] in (answer[rank].path or "") else "no_match",
                    rank=rank + 1,
                )
                for rank in (0, 3, 25)
            ]
        )
    engine.judge(picture, engine.search(picture, 1)[0], True)
    before = engine.store.judgements()
    old = engine.store.manifest.calibration
    assert engine.search("red").calibration.status == "own"

    other = FakeEncoder(12, salt="other")
    rebuilt, _ = SearchEngine.rebuild(folder, encoder=other)
    assert rebuilt.store.manifest.calibration is not None
    assert old is not None
    assert rebuilt.store.manifest.calibration["encoder"] == other.fingerprint != old["encoder"]
    after = rebuilt.store.judgements()
    assert after["label"].to_pylist() == before["label"].to_pylist()
    assert set(after["encoder"].to_pylist()) == {other.fingerprint}
    text = other.encode_texts([after["query_text"][0].as_py()])
    np.testing.assert_allclose(after["query_mean"][0].as_py(), text.mean[0], rtol=1e-6)
    assert len(after["query_mean"][len(after) - 1]) == 12
    assert rebuilt.search("red", 1).calibration.n_judged == len(before) - 1


def test_a_picture_that_is_not_kept_any_more_is_left_as_it_is(
    judged: SearchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    judged.judge(Image.fromarray(pixels_of("red", 7)), "red 10", True)
    table = judged.store.judgements()
    at = table.schema.get_field_index("query_image")
    table = table.set_column(at, table.schema.field(at), pa.nulls(len(table), pa.binary()))
    at = table.schema.get_field_index("encoder")
    table = table.set_column(at, table.schema.field(at), [["f" * 64] * len(table)])
    judged.store.replace_judgements(table)
    judged.calibrate()
    assert "1 judgements are about pictures that are not kept any more" in caplog.text
    now = judged.store.judgements()
    assert len(now) == len(table)
    assert now["encoder"].to_pylist().count("f" * 64) == 1
    assert judged.search("red", 1).calibration.status == "own"


def test_parameters_that_cannot_be_read_are_done_without(
    judged: SearchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    kept = judged.store.manifest.calibration
    assert kept is not None
    judged.store.set_calibration(dict(kept) | {"kinds": {"text": {"status": "own"}}})
    answer = SearchEngine.open(judged.store.folder, encoder=FakeEncoder()).search("red", 3)
    assert answer.calibration.status == "none"
    assert "cannot be read" in caplog.text
    judged.calibrate()
    assert judged.search("red", 3).calibration.status == "own"


# --- mistakes


def test_a_judgement_of_an_unknown_item_records_nothing(judged: SearchEngine) -> None:
    n = judged.store.count_judgements()
    good = Judgement(query="red", item="red 10", label="match")
    bad = Judgement(query="red", item="nothing", label="match")
    with pytest.raises(ItemNotFound, match=r"no item 'nothing'.*nothing was recorded"):
        judged.record([good, bad])
    assert judged.store.count_judgements() == n


def test_gaussians_cannot_be_judged(judged: SearchEngine) -> None:
    with pytest.raises(QueryError, match="a text or a picture"):
        judged.judge(judged.encoder.encode_texts(["red"]), "red 10", True)


def test_a_result_can_be_judged_as_it_came(judged: SearchEngine) -> None:
    result = judged.search("red", 3)[2]
    judged.judge("red", result, False)
    judged.judge("unheard of", None, "none")
    last = judged.store.judgements().to_pylist()[-2:]
    assert last[0]["item_id"] == result.id
    assert (last[0]["label"], last[0]["rank"], last[0]["source"]) == ("no_match", 3, "thumbs")
    assert (last[1]["label"], last[1]["item_id"]) == ("none", None)


def test_no_query_is_in_both_the_fit_and_the_cutoff(full: SearchEngine) -> None:
    n = full.calibrate().kinds["text"].n_pairs
    caption = pairs(full)[0][1]
    full.judge(caption, pairs(full)[0][0], True)
    assert full.calibrate().kinds["text"].n_pairs == n - 1


def test_options_reach_what_answers(judged: SearchEngine) -> None:
    with pytest.raises(TypeError, match="stars"):
        judged.search("red", stars=5)  # type: ignore[call-arg]
    assert answering.Wanted().coverage == 0.9


# --- thumbs


def test_thumbs_weigh_as_much_as_few_of_their_rank_get_one(
    judged: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    fit = calibrating.fit

    def watched(labels, targets, **options):  # type: ignore[no-untyped-def]  # as it is
        seen.update(labels)
        return fit(labels, targets, **options)

    for at in range(9):
        judged.remember(judged.search(f"red {at}", 4))
    for at in range(3):
        judged.judge(f"red {at}", judged.search(f"red {at}", 1)[0], True)
    judged.judge("red 0", judged.search("red 0", 4)[3], False)
    monkeypatch.setattr(calibrating, "fit", watched)
    judged.calibrate()
    labels = seen["text"]
    thumbs = list(
        zip(labels.rank[labels.is_thumb], labels.propensity[labels.is_thumb], strict=True)
    )
    assert sorted(thumbs) == [(1, pytest.approx(4 / 10))] * 3 + [(4, pytest.approx(2 / 10))]
    asked = labels.propensity[~labels.is_thumb]
    assert set(asked.tolist()) == {0.4, 0.02}


# --- a calibration that comes with the encoder


@pytest.fixture
def shipped(judged: SearchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchEngine:
    """Another collection of the same encoder, which comes with what was fitted on the first."""
    model = judged.confidence_model
    assert model is not None
    kinds = {
        name: replace(kind, status="default", n_judged=0, n_queries=0, quality=None)
        for name, kind in model.kinds.items()
    }
    default = replace(model, kinds=kinds)
    for module in (answering, calibrating):
        monkeypatch.setattr(module, "default_model", default.for_encoder)
    engine = SearchEngine.create(tmp_path / "new" / ".prolip-search", encoder=FakeEncoder())
    add_pictures(engine, 120, first=3000)
    return engine


def test_a_shipped_calibration_answers_at_once_and_says_where_it_is_from(
    shipped: SearchEngine,
) -> None:
    answer = shipped.search("red", 3)
    assert (answer.calibration.status, answer.calibration.n_judged) == ("default", 0)
    assert answer.calibration.smece is None
    assert (answer[0].confidence or 0) > 0.5
    assert shipped.status().calibration.kinds["text"].status == "default"
    assert shipped.search("red", 3, min_confidence=0.3)


def test_a_handful_of_photos_is_no_collection_that_a_shipped_calibration_knows(
    shipped: SearchEngine,
) -> None:
    ids = shipped.store.table(["id"])["id"].to_pylist()
    assert shipped.search("red", 3, where="id LIKE 'b%'").calibration.status == "default"
    shipped.remove(ids[:21])
    answer = shipped.search("red", 3)
    assert (answer.calibration.status, answer.confidence) == ("none", None)
    assert answer.none_probability is None
    with pytest.raises(QueryError, match="no confidences here"):
        shipped.search("red", 3, min_confidence=0.3)


def test_a_few_labels_move_a_shipped_calibration_and_many_replace_it(
    shipped: SearchEngine,
) -> None:
    before = shipped.search("red", 30).confidence
    answer = shipped.search("red", 30)
    shipped.record(
        [
            Judgement(query="red", item=id, label="no_match", rank=at)
            for at, id in enumerate(answer.ids, start=1)
        ]
    )
    after = shipped.search("red", 30)
    assert (after.calibration.status, after.calibration.n_judged) == ("default", 30)
    assert before is not None
    assert after.confidence is not None
    assert after.confidence[:5].mean() < before[:5].mean()
    shipped.record(judgements(shipped))
    assert shipped.search("red", 3).calibration.status == "own"
    shipped.forget_calibration()
    np.testing.assert_allclose(shipped.search("red", 30).confidence, before)  # type: ignore[arg-type]


def test_another_encoder_has_no_part_in_it(shipped: SearchEngine, tmp_path: Path) -> None:
    other = SearchEngine.create(tmp_path / "o" / ".prolip-search", encoder=FakeEncoder(salt="o"))
    add_pictures(other, 30)
    assert other.search("red", 3).calibration.status == "none"
