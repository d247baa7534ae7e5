"""The house rules that no linter knows: links, layers, lazy imports, the public names."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import prolip_search

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = Path(prolip_search.__file__).parent
ROOMS = ("indexes", "train", "cli")

# A room imports only what stands below it; what is named together does not import each other.
LAYERS = (
    {"cli", "server", "integrations"},
    {"train"},
    {"engine"},
    {"watching", "feedback"},
    {"indexing", "label_files", "status", "asking"},
    {"ingestion", "judging", "remembering", "verification", "calibrating"},
    {"queries", "answering", "descriptions"},
    {"indexes", "encoders", "images", "changes", "results", "testing", "calibration_report"},
    {"confidence"},
    {"distances", "metrics", "rankings", "files", "exif", "streams"},
    {"gaussians", "ignoring", "timings"},
    {"errors"},
)
# Libraries that cost a quarter of a second and more; a query does without them.
HEAVY = ("torch", "open_clip", "torchvision", "transformers", "lancedb", "sentence_transformers")


def room_of(module: str) -> str:
    """`prolip_search.encoders.mini` -> `encoders`; the package itself -> ``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def layer_of(room: str) -> int:
    return next((i for i, rooms in enumerate(LAYERS) if room in rooms), -1)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py")) + [
        file
        for room in ROOMS
        if (PACKAGE / room).is_symlink()  # rglob does not follow the links of a checkout
        for file in sorted((PACKAGE / room).resolve().rglob("*.py"))
    ]


def module_name(file: Path) -> str:
    for room in ROOMS:
        folder = (PACKAGE / room).resolve()
        if file.resolve().is_relative_to(folder):
            return ".".join(
                ["prolip_search", room, *file.resolve().relative_to(folder).with_suffix("").parts]
            )
    return ".".join(["prolip_search", *file.relative_to(PACKAGE).with_suffix("").parts])


def imports_of(file: Path) -> set[str]:
    """Every module of ours that the file imports, anywhere in it but under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("prolip_search.")}


def test_every_module_belongs_to_a_known_room() -> None:
    rooms = {room_of(module_name(file)) for file in modules()} - {"__init__", ""}
    assert {"encoders", "indexes", "train", "cli", "distances", "errors"} <= rooms
    assert {room for room in rooms if layer_of(room) < 0} == set()


def test_a_room_imports_only_what_stands_below_it() -> None:
    wrong = []
    for file in modules():
        importer = module_name(file)
        room = room_of(importer)
        if room in ("", "__init__"):
            continue  # the package's lazy names point everywhere
        for imported in imports_of(file):
            target = room_of(imported)
            if target == room or layer_of(target) < 0:
                continue
            if target == "errors":
                continue
            # The command line starts training; nothing else knows that it exists.
            if (layer_of(target) <= layer_of(room)) or (target == "train" and room != "cli"):
                wrong.append(f"{importer} imports {imported}")
    assert wrong == []


def test_the_public_names_are_these() -> None:
    assert sorted(prolip_search.__all__) == [
        "Encoder",
        "Filter",
        "Gaussians",
        "MatchLogit",
        "ProlipSearchError",
        "SearchEngine",
        "SearchResult",
        "SearchResults",
        "__version__",
        "load_encoder",
    ]
    for name in prolip_search.__all__:
        assert getattr(prolip_search, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prolip_search.nothing


def test_importing_the_package_costs_nothing_heavy() -> None:
    script = "import prolip_search, sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.split()
    )
    assert loaded & {*HEAVY, "faiss", "lance", "pyarrow", "onnxruntime", "typer", "rich"} == set()


def test_no_generic_name_lands_in_site_packages() -> None:
    """Nothing called `train`, `cli` or `indexes` may become importable for a user."""
    installed_at = Path(sysconfig.get_path("purelib"))
    for room in ROOMS:
        assert not (installed_at / room).exists()
        assert not (installed_at / f"{room}.py").exists()


@pytest.mark.skipif(
    not (CHECKOUT / "pyproject.toml").is_file() or not (CHECKOUT / "indexes").is_dir(),
    reason="only a checkout has the links",
)
def test_the_rooms_are_relative_links_in_a_checkout() -> None:
    for room in ROOMS:
        link = CHECKOUT / "prolip_search" / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room
