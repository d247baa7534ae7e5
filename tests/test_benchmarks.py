"""Every benchmark can be run: it imports what there is and says how it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.nested_captions import nest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem[0] != "_")
RUNNABLE = [name for name in MODULES if "argparse" in (ROOT / f"benchmarks/{name}.py").read_text()]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_all_import() -> None:
    done = run("-c", "; ".join(f"import benchmarks.{name}" for name in MODULES))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", RUNNABLE)
def test_each_says_how_it_is_used(name: str) -> None:
    done = run("-m", f"benchmarks.{name}", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout


@pytest.mark.parametrize(
    ("caption", "chain"),
    [
        (
            "A black dog is running after a white dog in the snow .",
            ["an animal", "a dog", "a black dog is running"],
        ),
        (
            "Two men in red shirts climb up a wall",
            ["people", "two men", "two men in red shirts climb"],
        ),
        ("The elephant stands near water .", ["an animal", "an elephant", "the elephant stands"]),
        ("A dog runs .", None),  # nothing to cut
        ("Snow on a hill with a dog .", None),  # a cut before the noun
        ("People walk on a beach .", None),  # no determiner
    ],
)
def test_captions_are_nested_by_rules(caption: str, chain: list[str] | None) -> None:
    assert nest(caption) == (None if chain is None else [*chain, caption])
