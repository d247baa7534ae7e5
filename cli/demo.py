"""prolip-search demo: the main job on photos that come with an installed package.

Nothing is fetched. The photos lie in the wheels of scikit-image (public domain or CC0, as the
docstrings of skimage.data say) and scikit-learn (CC BY 2.0); neither package is imported.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

import prolip_search
from prolip_search.cli import options
from prolip_search.cli.drawing import footer, report_summary, result_line
from prolip_search.cli.progress import progress_bar
from prolip_search.cli.terminal import Terminal, note
from prolip_search.errors import MissingExtra

# Where each package keeps its photos, and which of them are photos whose licence is stated.
SAMPLES = {
    "skimage": [
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/clock_motion.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/retina.jpg",
        "data/rocket.jpg",
    ],
    "sklearn": [
        "datasets/images/china.jpg",  # by danielbuechele, some rights reserved
        "datasets/images/flower.jpg",  # by vultilion, some rights reserved
    ],
}
QUERIES = (
    "a cat",
    "a cup of coffee",
    "a rocket taking off",
    "a man with a camera",
    "an old building in the mountains",
)
QUERIES_FOR_A_FOLDER = ("people outdoors", "an animal", "something to eat", "a building", "water")


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Photos of your own. By default a few that come with scikit-image.",
        ),
    ] = None,
    top: options.Top = 3,
    runtime: options.Runtime = "auto",
) -> None:
    """Index a few sample photos and ask them questions.

    The index lies in a temporary folder and is gone afterwards.
    """
    options.show_messages()
    photos = [folder] if folder else sample_photos()
    terminal = Terminal.of(sys.stdout)
    with tempfile.TemporaryDirectory(prefix="prolip-search-demo-") as temporary:
        engine = prolip_search.SearchEngine.create(
            Path(temporary) / options.INDEX_FOLDER, runtime=runtime
        )
        with progress_bar("Indexing") as progress:
            print(report_summary(engine.index(photos, progress=progress)))
        answers = engine.search_many(QUERIES_FOR_A_FOLDER if folder else QUERIES, top)
        for answer in answers:
            print(f'\nprolip-search query "{answer.query.text}"')
            for result in answer:
                name = _name(result.file, folder)
                print(result_line(result, terminal, name=name, calibration=answer.calibration))
        sys.stdout.flush()
        if answers and len(answers[-1]):
            note("")
            print(footer(answers[-1], Terminal.of(sys.stderr)), file=sys.stderr)
    note("Now your own: prolip-search index PHOTOS, then prolip-search query WORDS")


def sample_photos() -> list[Path]:
    """The sample photos that are installed. Raises MissingExtra when scikit-image is not."""
    found = []
    for package, names in SAMPLES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            if package == "skimage":
                raise MissingExtra(
                    "The sample photos come with scikit-image: "
                    '`pip install "prolip-search[demo]"`, '
                    "or try photos of your own: `prolip-search demo FOLDER`."
                )
            continue
        found += [Path(spec.origin).parent / name for name in names]
    return [path for path in found if path.is_file()]


def _name(file: Path | None, folder: Path | None) -> str:
    """Of a photo: without the long way to an installed package, or to the folder that was given."""
    if file is None:
        return ""
    return str(file.relative_to(folder.resolve())) if folder else file.name
