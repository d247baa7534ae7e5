from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prolip_search.descriptions import description_of
from prolip_search.engine import SearchEngine
from prolip_search.errors import QueryError
from prolip_search.label_files import labelled_judgements, labelled_pairs, read_pairs
from prolip_search.testing import FakeEncoder


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())
    engine.add([Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")], ids=["r", "b"])
    return engine


def test_labels_can_be_given_as_objects(engine: SearchEngine) -> None:
    said = [{"query": "red", "image": "r", "match": True, "judged_probability": 0.5}]
    assert engine.calibrate(judgements=said).n_recorded == 1
    assert engine.calibrate(pairs=[("r", "a red thing"), (Path("b"), "blue")]).n_recorded == 2
    rows = engine.store.judgements().to_pylist()
    assert [row["label"] for row in rows] == ["match", "target", "target"]
    assert [row["source"] for row in rows] == ["judge", "pairs", "pairs"]
    assert rows[0]["judged_probability"] == 0.5
    assert engine.calibrate().n_recorded == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"query": "red", "image": "r", "match": "yes"}, "judgement 1 has no 'match'"),
        ({"query": "red", "image": 3, "match": True}, "has no text 'image'"),
        (
            {"query": "red", "image": "r", "match": True, "judged_probability": 0},
            "above 0 and up to 1",
        ),
        (
            {"query": "red", "image": "r", "match": True, "judged_probability": True},
            "above 0 and up to 1",
        ),
        ({"query": "red", "image": "unknown", "match": True}, "1 of 1 photos are not in the"),
    ],
)
def test_an_object_that_is_no_judgement_is_refused(
    engine: SearchEngine, said: dict[str, object], expected: str
) -> None:
    with pytest.raises(QueryError, match=expected):
        engine.calibrate(judgements=[said])
    assert engine.store.count_judgements() == 0


def test_a_caption_of_the_length_of_a_book_is_none() -> None:
    with pytest.raises(QueryError, match="pair 1: a caption of 10,001 characters"):
        labelled_pairs([("r", "x" * 10_001)])
    assert labelled_judgements(None) == labelled_pairs(None) == []


def test_csv_may_quote_break_lines_and_name_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('\ufeffid, Caption ,IMAGE\n1,"two\nlines, ""quoted""",a.jpg\n\n2,b,b.jpg\n')
    assert [(pair.image, pair.query) for pair in read_pairs(path)] == [
        ("a.jpg", 'two\nlines, "quoted"'),
        ("b.jpg", "b"),
    ]


@given(content=st.binary(max_size=200))
def test_no_file_makes_anything_but_labels_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("labels") / "file"
    for prefix in (b"", b"image,caption\n"):
        path.write_bytes(prefix + content)
        for read in (labelled_pairs, labelled_judgements):
            told = str(path)
            try:
                read(path)
            except QueryError as error:
                told = str(error)
            assert str(path) in told


def test_iptc_is_read_and_a_cameras_own_words_are_not(tmp_path: Path) -> None:
    caption = b"a boat\r\non a lake"
    dataset = b"\x1c\x02\x78" + len(caption).to_bytes(2, "big") + caption
    resource = b"8BIM\x04\x04\x00\x00" + len(dataset).to_bytes(4, "big") + dataset
    resource += b"\x00" * (len(dataset) % 2)
    segment = b"Photoshop 3.0\x00" + resource
    path = tmp_path / "iptc.jpg"
    exif = Image.Exif()
    exif[0x010E] = "OLYMPUS DIGITAL CAMERA"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert description_of(path) is None
    data = path.read_bytes()
    marker = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
    path.write_bytes(data[:2] + marker + data[2:])
    assert description_of(path) == "a boat on a lake"
    path.write_bytes(b"no picture")
    assert description_of(path) is None
    assert description_of(tmp_path / "nothing.jpg") is None
