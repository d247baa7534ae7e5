"""Comparison with files of tests/golden: what users parse or keep, reviewed when it changes.

Set PROLIP_SEARCH_UPDATE_GOLDEN=1 to write them anew, and read the difference before committing it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
# float32 sums differ in the last digits between processors.
LONG_NUMBER = re.compile(r"-?\d+\.\d{4,}")


def assert_golden(name: str, text: str) -> None:
    """`text` is what tests/golden/`name` holds, up to the last digits of long numbers."""
    path = GOLDEN / name
    text = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.3g}", text)
    if os.environ.get("PROLIP_SEARCH_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing; see the docstring of this module"
    assert text == path.read_text(encoding="utf-8")
