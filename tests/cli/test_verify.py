from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.golden_files import assert_golden


def without_time(text: str) -> str:
    return text[: text.rindex("(")] + "(TIME)\n"


def test_a_sound_index_has_nothing_to_do(run: Run, indexed: Path) -> None:
    ran = run("verify")
    assert (ran.status, ran.err) == (0, "")
    assert without_time(ran.out) == "6 items and 6 files checked: nothing to do (TIME)\n"


def test_findings_are_told_with_what_to_do(run: Run, indexed: Path, tmp_path: Path) -> None:
    (indexed / "red.ppm").unlink()
    (indexed / "blue.ppm").write_bytes(b"P6 1 1 255 abc")
    (tmp_path / ".prolip-search/csd.json").write_text("{")
    ran = run("verify")
    assert ran.status == 1
    assert_golden("verify.txt", without_time(ran.out))
    document = json.loads(run("verify", "--json").out)
    assert (document["clean"], len(document["findings"])) == (False, 3)
    assert document["findings"][0]["repairable"] is True


def test_repair_mends_what_is_derived_and_leaves_the_rest(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    (tmp_path / ".prolip-search/csd.json").write_text("{")
    (tmp_path / ".prolip-search/csd-7.arrow.writing").touch()
    assert "csd-7.arrow.writing" in run("verify").err
    ran = run("verify", "--repair")
    assert ran.status == 0
    assert ran.err.count("repaired") >= 2
    assert run("verify").err == ""
    (indexed / "red.ppm").unlink()
    assert run("verify", "--repair").status == 1


def test_many_findings_are_counted_and_not_all_listed(run: Run, indexed: Path) -> None:
    for number in range(30):
        (indexed / f"{number}.ppm").write_bytes(b"P6 1 1 255 ab" + bytes([number]))
    run("index", indexed)
    for photo in indexed.iterdir():
        photo.unlink()
    (indexed / "note.txt").touch()
    ran = run("verify")
    assert ran.out.count("is gone") == 20
    assert "and 16 more of file" in ran.err
    assert len(json.loads(run("verify", "--json").out)["findings"]) == 36


def test_a_manifest_that_cannot_be_read_is_a_finding(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    (tmp_path / ".prolip-search/manifest.json").write_text("{")
    ran = run("verify")
    assert (ran.status, "--rebuild" in ran.out) == (1, True)


def test_an_encoder_that_changed_is_a_finding(run: Run, indexed: Path, tmp_path: Path) -> None:
    manifest = tmp_path / ".prolip-search/manifest.json"
    content = json.loads(manifest.read_text()) | {"checksum": None}
    content["encoder"]["name"] = "other"
    manifest.write_text(json.dumps(content))
    ran = run("verify")
    assert ran.status == 1
    assert ran.out.startswith("encoder other: The index was built with encoder")
