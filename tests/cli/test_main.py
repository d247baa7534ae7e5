"""The command as a whole: help, usage errors, cost."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import pytest
import typer

import prolip_search
from prolip_search.cli.__main__ import ALIASES, COMMANDS
from prolip_search.cli.evaluate import TASKS
from tests.cli.conftest import Run
from tests.golden_files import assert_golden

OURS = [name for name in COMMANDS if name != "train"]
# What a query must not pay for, and what --help must not pay for besides.
HEAVY = {"torch", "open_clip", "torchvision", "transformers", "lancedb", "sentence_transformers"}
HEAVY_FOR_HELP = HEAVY | {"numpy", "pyarrow", "faiss", "lance", "onnxruntime", "PIL", "rich"}


def modules_after(script: str, folder: Path) -> set[str]:
    """The packages that a fresh interpreter holds after a script, which may print as it likes."""
    script += "\nimport sys; print('\\n##', *{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return set(done.stdout.rpartition("##")[2].split())


@pytest.mark.parametrize("name", ["", *OURS, *(f"evaluate {task}" for task in TASKS)])
def test_help_is_as_reviewed(run: Run, name: str) -> None:
    ran = run(*name.split(), "--help")
    assert (ran.status, ran.err) == (0, "")
    assert_golden(f"{'-'.join(['help', *name.split()])}.txt", ran.out)


def test_every_command_begins_its_help_with_the_line_of_the_table() -> None:
    tables = {"prolip_search.cli": OURS, "prolip_search.cli.evaluate": [*TASKS]}
    lines = COMMANDS | TASKS
    for package, names in tables.items():
        for name in names:
            function = getattr(import_module(f"{package}.{name}"), name)
            if isinstance(function, typer.Typer):
                assert function.registered_callback is not None
                function = function.registered_callback.callback
            first = (getdoc(function) or "").splitlines()[0]
            assert first.startswith(lines[name].rstrip("."))


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = "from prolip_search.cli.__main__ import main; assert main(['--help']) == 0"
    assert modules_after(script, tmp_path) & HEAVY_FOR_HELP == set()


def test_help_of_a_command_imports_nothing_heavy(tmp_path: Path) -> None:
    script = "from prolip_search.cli.__main__ import main\n"
    script += "".join(f"assert main(['{name}', '--help']) == 0\n" for name in OURS)
    script += "".join(f"assert main(['evaluate', '{task}', '--help']) == 0\n" for task in TASKS)
    assert modules_after(script, tmp_path) & HEAVY_FOR_HELP == set()


def test_a_query_imports_neither_torch_nor_the_like(run: Run, indexed: Path) -> None:
    script = """
from prolip_search import engine
from prolip_search.testing import FakeEncoder
engine.load_encoder = lambda name, **options: FakeEncoder()
from prolip_search.cli.__main__ import main
assert main(["query", "red"]) == 0
"""
    assert modules_after(script, indexed.parent) & HEAVY == set()


@pytest.mark.parametrize(("command", "is_brief"), [("status", True), ("index", False)])
def test_only_a_brief_command_puts_off_looking_for_cycles(
    command: str, is_brief: bool, tmp_path: Path
) -> None:
    """What reads photos must not: cycles that hold their pixels would pile up."""
    script = """
import gc, sys
from prolip_search.cli.__main__ import main
before = gc.get_threshold()[0]
sys.argv = ["prolip-search", *sys.argv[1:]]
assert main() == 2
print(gc.get_threshold()[0] > before, gc.get_freeze_count() > 0)
"""
    asked = [sys.executable, "-c", script, command, "--index", "nowhere"]
    done = subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(is_brief), "True"]


def test_without_arguments_the_help_is_shown_and_the_status_is_2(run: Run) -> None:
    ran = run()
    assert ran.status == 2
    assert ran.out.startswith("Usage: prolip-search")


def test_version(run: Run) -> None:
    assert run("--version").out == f"prolip-search {prolip_search.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["qurey"], "No such command 'qurey'. Did you mean 'query'? See `prolip-search --help`."),
        (["query", "x", "--topp", "3"], "--top"),
        (["evaluate", "nothing"], "No such command 'nothing'. See `prolip-search evaluate --help`"),
        (["query", "x", "-k", "0"], "See `prolip-search query --help`."),
        (["query", "x", "-k", "many"], "See `prolip-search query --help`."),
        (["query", "x", "--rank-by", "luck"], "csd"),
        (["query"], "prolip-search query --image FILE"),
        (["query", "x", "--image", "y.jpg"], "not both: leave out 'x' or --image"),
        (["query", "x", "--json", "-0"], "--json and -0 exclude each other"),
        (["query", "x"], "prolip-search index PHOTOS"),
        (["status"], "prolip-search index PHOTOS"),
        (["status", "--index", "nothing"], "nothing"),
        (["similar"], "PATH"),
        (["index"], "PATH"),
        (["index", "nothing"], "There is no file or folder nothing"),
        (["index", "--rebuild"], "prolip-search index"),
    ],
)
def test_every_mistake_gets_one_line_and_status_2(
    run: Run, arguments: list[str], expected: str
) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("prolip-search: ")
    assert expected in ran.err
    assert "Traceback" not in ran.err


def test_aliases_lead_to_commands(run: Run, indexed: Path) -> None:
    assert set(ALIASES.values()) <= set(COMMANDS)
    assert run("search", "red", "-0").out == run("query", "red", "-0").out


def test_a_reader_that_leaves_early_is_no_error(indexed: Path) -> None:
    script = """
import sys
from prolip_search import engine
from prolip_search.testing import FakeEncoder
engine.load_encoder = lambda name, **options: FakeEncoder()
from prolip_search.cli.__main__ import main
sys.exit(main(["query", "-", "--jsonl"]))
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command,
        cwd=indexed.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"red\n" * 500)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
