"""Shards: every sample once an epoch, exact resumption, and damage that costs what it covers."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import itertools
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prolip_search.errors import ConfigError, MissingExtra, TrainingDataError
from prolip_search.train.datasets import shards
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.datasets.opening import open_loader, open_stream
from prolip_search.train.datasets.shard_names import expand_shards
from prolip_search.train.datasets.shard_reading import ShardLoss, ShardSample, read_shard
from prolip_search.train.datasets.shards import ShardStream
from prolip_search.train.datasets.streams import Drawn, Lost
from prolip_search.train.datasets.writing import write_shards
from tests.train.datasets.letters import LetterTokenizer
from tests.train.datasets.synthetic import captions_of, jpeg
from tests.train.datasets.test_loading import (
    PREPROCESSING,
    Batch,
    assert_same,
    captioned,
    take,
)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar file of these members."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def read(path: Path | str, **options: object) -> tuple[list[ShardSample], list[ShardLoss]]:
    """What a shard gives and loses."""
    items = list(read_shard(str(path), **options))  # type: ignore[arg-type]  # as the test says
    return (
        [item for item in items if isinstance(item, ShardSample)],
        [item for item in items if isinstance(item, ShardLoss)],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-three samples in six shards, four each."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(captioned(23), folder, samples_per_shard=4)
    return folder


def names_in(folder: Path) -> list[str]:
    """The shards of a folder."""
    return expand_shards(str(folder))


def test_written_shards_read_back(folder: Path) -> None:
    names = names_in(folder)
    assert [Path(name).name for name in names] == [f"shard-{n:06d}.tar" for n in range(6)]
    samples = [sample for name in names for sample in read(name)[0]]
    assert [sample.image for sample in samples] == [jpeg(number) for number in range(23)]
    assert [sample.captions for sample in samples] == [captions_of(n, 3) for n in range(23)]
    assert samples[5].key == "shard-000001.tar/000000005"
    assert samples[5].number == 1
    assert read(names[0], first=3)[0] == samples[3:4]


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_shards(captioned(23), tmp_path, samples_per_shard=4)
    for one, other in zip(names_in(folder), names_in(tmp_path), strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_captions_come_from_json_or_txt(tmp_path: Path) -> None:
    def text(**values: object) -> bytes:
        return json.dumps(values).encode()

    write_tar(
        tmp_path / "a.tar",
        {
            "deep/1.jpg": jpeg(1),
            "deep/1.txt": "Grüße".encode(),
            "2.jpg": jpeg(2),
            "2.json": text(captions=["a", "b"], alt="c"),
            "2.txt": b"no",
            "3.json": text(caption="d"),
            "3.png": jpeg(3),
            "4.jpg": jpeg(4),
            "4.json": b"{broken",
            "4.txt": b"e",
        },
    )
    samples, losses = read(tmp_path / "a.tar")
    assert [sample.captions for sample in samples] == [["Grüße"], ["a", "b"], ["d"], ["e"]]
    assert losses == []
    samples, losses = read(tmp_path / "a.tar", caption_key="alt")
    assert [sample.captions for sample in samples] == [["c"]]
    assert [loss.skip.reason for loss in losses] == ["no caption"] * 3


def test_incomplete_and_forbidden_samples_are_lost_alone(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        {
            "1.jpg": jpeg(1),
            "2.txt": b"a",
            "3.jpg": jpeg(3),
            "3.txt": b"b",
            "3.pyd": b"\x80\x04.",
            "4.jpg": jpeg(4),
            "4.txt": b" ",
            "5.jpg": jpeg(5),
            "5.txt": b"c",
            "README": b"",
        },
    )
    samples, losses = read(tmp_path / "a.tar")
    assert [sample.captions for sample in samples] == [["c"]]
    assert [(loss.number, loss.skip.reason) for loss in losses] == [
        (0, "no caption"),
        (1, "no image"),
        (2, "refused"),
        (3, "no caption"),
    ]
    assert "pickle" in losses[2].skip.detail


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999))
def test_a_shard_that_ends_early_gives_what_came_before(
    cut: float, folder: Path, tmp_path: Path
) -> None:
    whole = Path(names_in(folder)[0])
    samples, _ = read(whole)
    # The zeros that fill the file up say nothing; two blocks of them mark the end.
    n_bytes = len(whole.read_bytes().rstrip(b"\0"))
    n_kept = int(cut * n_bytes)
    part = tmp_path / "part.tar"
    part.write_bytes(whole.read_bytes()[:n_kept])
    found, losses = read(part)
    assert [sample.image for sample in found] == [sample.image for sample in samples[: len(found)]]
    assert [loss.skip.reason for loss in losses] == ["damaged shard"]
    n_bytes_before = sum(1024 + 1024 + len(sample.image) for sample in samples[: len(found) + 2])
    assert n_kept <= n_bytes_before + 2048  # at most the sample that was cut is missing


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_stop_the_reading(
    data: st.DataObject, folder: Path, tmp_path: Path
) -> None:
    content = bytearray(Path(names_in(folder)[0]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 513))
        junk = data.draw(st.binary(min_size=1, max_size=512))
        content[place : place + len(junk)] = junk
    (tmp_path / "bad.tar").write_bytes(content)
    samples, losses = read(tmp_path / "bad.tar")
    assert len(samples) + len(losses) <= 10
    if data.draw(st.booleans()):
        packed = gzip.compress(bytes(content))
        (tmp_path / "bad.tar.gz").write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
        read(tmp_path / "bad.tar.gz")


def test_a_damaged_header_is_not_taken_for_the_end(folder: Path, tmp_path: Path) -> None:
    content = bytearray(Path(names_in(folder)[0]).read_bytes())
    with tarfile.open(names_in(folder)[0]) as archive:
        third = [member.offset for member in archive][4]
    content[third : third + 512] = b"x" * 512
    (tmp_path / "bad.tar").write_bytes(content)
    samples, losses = read(tmp_path / "bad.tar")
    assert len(samples) == 1  # the second one's members may go on beyond the damage
    assert [loss.skip.reason for loss in losses] == ["damaged shard"]


def test_compressed_shards_are_read(folder: Path, tmp_path: Path) -> None:
    whole = Path(names_in(folder)[0])
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    found, losses = read(tmp_path / "a.tar.gz")
    assert [sample.image for sample in found] == [sample.image for sample in read(whole)[0]]
    assert losses == []


def test_names_are_expanded(folder: Path, tmp_path: Path) -> None:
    for name in ("train-00.tar", "train-01.tar", "val-00.tar", "x.txt"):
        (tmp_path / name).write_bytes(b"")
    here = str(tmp_path)

    def found(name: str, split: str | None = None) -> list[str]:
        return [Path(shard).name for shard in expand_shards(f"{here}/{name}", split=split)]

    assert found("train-{00..02}.tar") == ["train-00.tar", "train-01.tar", "train-02.tar"]
    assert found("{val,train}-0{0..1}.tar")[:3] == ["val-00.tar", "val-01.tar", "train-00.tar"]
    assert found("*-00.tar") == ["train-00.tar", "val-00.tar"]
    assert found("", "train") == ["train-00.tar", "train-01.tar"]
    assert found("") == ["train-00.tar", "train-01.tar", "val-00.tar"]
    for wrong, split in (("nothing-{0..9}.tar", None), ("*.tgz", None), ("", "test")):
        with pytest.raises(TrainingDataError, match=r"No shard of .* is there"):
            found(wrong, split)


def draws(stream: ShardStream, n: int) -> list[Drawn | Lost]:
    """The first n."""
    return list(itertools.islice(stream.draw_from(stream.start), n))


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("shuffle_buffer", [1, 7, 100])
def test_together_the_processes_see_each_sample_once_an_epoch(
    folder: Path, world: int, shuffle_buffer: int
) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    for rank in range(world):
        stream = ShardStream(
            [names_in(folder)], seed=1, rank=rank, world=world, shuffle_buffer=shuffle_buffer
        )
        for draw in draws(stream, 4 * 6 * 4 + 100):
            if draw.epoch < 3:
                assert isinstance(draw, Drawn)
                seen[draw.epoch, draw.key] += 1
    assert set(seen.values()) == {1}
    assert len(seen) == 3 * 23


def test_orders_differ_between_epochs_and_seeds(folder: Path) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        stream = ShardStream([names_in(folder)], seed=seed, shuffle_buffer=8)
        found = (draw for draw in draws(stream, 60) if isinstance(draw, Drawn))
        return [draw.key for draw in found if draw.epoch == epoch]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert len({tuple(sorted(order(seed, epoch))) for seed in (1, 2) for epoch in (0, 1)}) == 1


def loader_config(*paths: Path | str, **values: object) -> DataConfig:
    """Without augmentation."""
    return DataConfig(paths=tuple(map(str, paths)), augment=False, threads=2, **values)  # type: ignore[arg-type]


def batches_of(
    config: DataConfig, n_before: int, n: int, *, rank: int = 0, world: int = 1
) -> tuple[list[Batch], list[Batch], dict[str, object], dict[str, object]]:
    """n batches after n_before, in one go and resumed; and both states at the end."""

    def opened() -> object:
        return open_loader(
            config,
            batch_size=3,
            seed=4,
            preprocessing=PREPROCESSING,
            tokenizer=LetterTokenizer(),
            rank=rank,
            world=world,
        )

    whole, first, second = opened(), opened(), opened()
    expected = take(whole, n_before + n)[n_before:]  # type: ignore[arg-type]
    take(first, n_before)  # type: ignore[arg-type]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))  # type: ignore[attr-defined]
    return expected, take(second, n), whole.state_dict(), second.state_dict()  # type: ignore[arg-type, attr-defined]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_before=st.integers(0, 12),
    shuffle_buffer=st.sampled_from([1, 2, 5, 8, 30]),
    rank=st.integers(0, 1),
    world=st.integers(1, 3),
    damage=st.booleans(),
    resampled=st.booleans(),
)
def test_a_run_resumes_exactly_after_any_batch(
    n_before: int,
    shuffle_buffer: int,
    rank: int,
    world: int,
    damage: bool,
    resampled: bool,
    folder: Path,
    damaged_folder: Path,
) -> None:
    config = loader_config(
        damaged_folder if damage else folder, shuffle_buffer=shuffle_buffer, resampled=resampled
    )
    expected, found, state, state_too = batches_of(
        config, n_before, 4, rank=min(rank, world - 1), world=world
    )
    assert_same(found, expected)
    assert state == state_too


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a picture that is none, one that ends early, one that is none, one whole."""
    folder = tmp_path_factory.mktemp("damaged")
    write_shards(captioned(16, bad=(1, 2)), folder, samples_per_shard=4)
    second, third = folder / "shard-000001.tar", folder / "shard-000002.tar"
    with tarfile.open(second) as archive:
        cut = archive.getmembers()[5].offset + 100  # in the third sample
    second.write_bytes(second.read_bytes()[:cut])
    third.write_bytes(b"no tar at all")
    return folder


def test_damage_is_counted_and_listed_and_the_run_goes_on(damaged_folder: Path) -> None:
    loader = open_loader(
        loader_config(damaged_folder, shuffle_buffer=5),
        batch_size=2,
        seed=0,
        preprocessing=PREPROCESSING,
        tokenizer=LetterTokenizer(),
    )
    batches = take(loader, 8)  # 8 usable samples, two epochs
    numbers = Counter(int(key.rpartition("/")[2]) for batch in batches for key in batch.keys)
    assert numbers == {0: 2, 3: 2, 4: 2, 5: 2, 12: 2, 13: 2, 14: 2, 15: 2}
    listed = {(skip.key.rpartition("/")[2], skip.reason) for skip in loader.skipped.listed}
    assert listed == {
        ("000000001", "not an image"),
        ("000000002", "not an image"),
        ("shard-000001.tar", "damaged shard"),
        ("shard-000002.tar", "damaged shard"),
    }


def test_a_missing_shard_is_a_skip_and_all_missing_an_error(folder: Path, tmp_path: Path) -> None:
    config = loader_config(folder / "shard-{000004..000006}.tar")
    stream, _ = open_stream(config, seed=0)
    first = [draw for draw in draws(stream, 16) if draw.epoch == 0]  # type: ignore[arg-type]
    losses = [draw for draw in first if isinstance(draw, Lost)]
    assert len(first) == 4 + 3 + 1
    assert [loss.skip.reason for loss in losses] == ["missing shard"]
    for path in (tmp_path / "shard-{0..3}.tar", tmp_path / "*.tar"):
        with pytest.raises(TrainingDataError, match="No shard of"):
            open_stream(loader_config(path), seed=0)


def test_shards_without_any_sample_end_the_run_with_one_clear_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(b"nothing")
    with pytest.raises(TrainingDataError, match=r"None of 3 shards holds a sample .*damaged shard"):
        draws(ShardStream([names_in(tmp_path)], seed=0), 10)


def test_fewer_shards_than_processes_are_refused_unless_drawn_with_replacement(
    folder: Path,
) -> None:
    names = names_in(folder)[:2]
    with pytest.raises(TrainingDataError, match="2 shards for 3 processes"):
        ShardStream([names], seed=0, world=3)
    assert len(draws(ShardStream([names], seed=0, rank=2, world=3, weights=(1,)), 9)) == 9


def test_weights_decide_how_often_a_source_is_drawn(folder: Path) -> None:
    names = names_in(folder)[:5]  # four samples each
    stream = ShardStream([names[:1], names[1:]], seed=0, weights=(3, 1), shuffle_buffer=16)
    found = Counter(
        isinstance(draw, Drawn) and draw.key.startswith("shard-000000")
        for draw in draws(stream, 8000)
    )
    assert abs(found[True] / 8000 - 0.75) < 0.05


def test_a_block_is_bounded_in_bytes_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST_BLOCK", len(jpeg(0)))
    stream = ShardStream([names_in(folder)[:1]], seed=0, shuffle_buffer=1000)
    found = [draw.after for draw in draws(stream, 8)]
    assert found[0] == (0, 2, 0) or found[1] == (0, 2, 0)


def test_other_shards_are_refused_at_resumption(folder: Path, damaged_folder: Path) -> None:
    def opened(path: Path) -> object:
        return open_loader(
            loader_config(path),
            batch_size=3,
            seed=4,
            preprocessing=PREPROCESSING,
            tokenizer=LetterTokenizer(),
        )

    with pytest.raises(TrainingDataError, match="n_shards = 6, now it is 4"):
        opened(damaged_folder).load_state_dict(opened(folder).state_dict())  # type: ignore[attr-defined]


def test_shards_and_other_files_do_not_mix(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixes shards"):
        open_stream(loader_config(folder, tmp_path / "a.csv"), seed=0)
    with pytest.raises(TrainingDataError, match=r"only \.tar shards are read from a URL"):
        open_stream(loader_config("https://localhost/a.parquet"), seed=0)
    with pytest.raises(TrainingDataError, match="No data was named"):
        open_stream(loader_config(), seed=0)


def test_shards_on_other_file_systems_are_read(folder: Path) -> None:
    files = fsspec.filesystem("memory")
    for name in names_in(folder)[:3]:
        files.pipe(f"/bucket/{Path(name).name}", Path(name).read_bytes())
    names = expand_shards("memory://bucket/*.tar")
    assert len(names) == 3
    assert [sample.image for name in names for sample in read(name)[0]] == [
        jpeg(number) for number in range(12)
    ]
    assert expand_shards("memory://bucket/shard-{000000..000001}.tar") == [
        f"memory://bucket/shard-{n:06d}.tar" for n in range(2)
    ]
    assert read("memory://bucket/none.tar")[1][0].skip.reason == "missing shard"


def test_a_scheme_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open", missing)
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for action in (lambda: read("s3://bucket/a.tar"), lambda: expand_shards("s3://bucket/*.tar")):
        with pytest.raises(MissingExtra, match=r"Install s3fs.*prolip-search\[remote\]"):
            action()


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The folder over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_shards_are_read_over_http(web: str, folder: Path) -> None:
    pytest.importorskip("aiohttp")
    found, losses = read(f"{web}/shard-000002.tar")
    assert [sample.image for sample in found] == [jpeg(number) for number in range(8, 12)]
    assert losses == []
    assert read(f"{web}/shard-000009.tar")[1][0].skip.reason == "missing shard"
    config = loader_config(f"{web}/shard-{{000000..000005}}.tar", shuffle_buffer=8)
    expected, resumed, *_ = batches_of(config, 3, 3)
    assert_same(resumed, expected)
    local, *_ = batches_of(loader_config(folder, shuffle_buffer=8), 3, 3)
    assert_same(local, expected)


def test_the_webdataset_package_writes_what_we_read_and_reads_what_we_write(
    folder: Path, tmp_path: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write(
                {
                    "__key__": f"{number:03d}",
                    "jpg": jpeg(number),
                    "txt": f"picture {number}",
                    "json": {"captions": captions_of(number)},
                }
            )
    samples, losses = read(tmp_path / "a.tar")
    assert [sample.captions for sample in samples] == [captions_of(number) for number in range(3)]
    assert losses == []
    members = webdataset.tariterators
    with Path(names_in(folder)[0]).open("rb") as file:
        source = [{"stream": file, "url": "a.tar"}]
        theirs = list(members.group_by_keys(members.tar_file_expander(source)))
    ours, _ = read(names_in(folder)[0])
    assert [sample["jpg"] for sample in theirs] == [sample.image for sample in ours]
