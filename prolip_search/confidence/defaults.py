"""Calibrations that come with the package, for encoders whose judgements are published."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from prolip_search.confidence.calibration import ConfidenceModel

FOLDER = Path(__file__).parent / "defaults"


@lru_cache(maxsize=8)
def default_model(fingerprint: str) -> ConfidenceModel | None:
    """The shipped calibration of an encoder (64 hex digits), or None where there is none.

    Its kinds have status "default". Raises ValueError when the shipped file is damaged.
    """
    file = FOLDER / f"{fingerprint[:16]}.json"
    if not file.is_file():
        return None
    try:
        model = ConfidenceModel.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The shipped calibration {file.name} is damaged: {error}.") from error
    return model.for_encoder(fingerprint)
