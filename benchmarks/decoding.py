"""What does decoding a photo cost, and what does JPEG draft mode change?

    python -m benchmarks.decoding [--side 260] [--photos FOLDER] [--json]

Speed: a drawn photo of 12 megapixels, decoded and resized to the encoder's side, in full and in
draft mode down to twice and to once that side. Fidelity: the pixels that reach the encoder against
those of a full decode, over the photos of FOLDER (or the drawn one), the side scaled down so that
draft mode halves twice or more as it does with camera photos.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

FACTORS = {"full decode": None, "draft, 2 x the side": 2, "draft, 1 x the side": 1}


def drawn_photo(width: int, height: int) -> bytes:
    """A JPEG with detail at every scale: smoothed noise, seeded."""
    rng = np.random.default_rng(0)
    picture = np.zeros((height, width, 3))
    for octave in range(1, 9):
        noise = rng.integers(0, 256, (2**octave * 3, 2**octave * 4, 3), dtype=np.uint8)
        scaled = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture += np.asarray(scaled, dtype=float) / 2**octave
    stream = io.BytesIO()
    Image.fromarray((picture / picture.max() * 255).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def prepared(data: bytes, side: int, factor: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if factor is not None:
        image.draft(None, (factor * side, factor * side))
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def psnr_db(image: Image.Image, truth: Image.Image) -> float:
    error = np.square(np.asarray(image, dtype=float) - np.asarray(truth, dtype=float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=260)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    large = drawn_photo(4000, 3000)
    photos = [large]
    if options.photos:
        photos = [path.read_bytes() for path in sorted(options.photos.rglob("*.jpg"))]
    rows = {}
    for name, factor in FACTORS.items():
        times = []
        for _ in range(5):
            start = time.process_time()
            prepared(large, options.side, factor)
            times.append(1000 * (time.process_time() - start))
        fidelity = []
        for data in photos:
            side = min(min(Image.open(io.BytesIO(data)).size) // 4, options.side)
            fidelity.append(psnr_db(prepared(data, side, factor), prepared(data, side, None)))
        rows[name] = {
            "cpu_ms_12_megapixels": statistics.median(times),
            "psnr_db_mean": statistics.mean(fidelity),
            "psnr_db_min": min(fidelity),
        }
    if options.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        print(json.dumps({**machine, "n_photos": len(photos), "rows": rows}, indent=2))
        return
    for name, row in rows.items():
        print(
            f"{name:<20} {row['cpu_ms_12_megapixels']:6.1f} ms   "
            f"PSNR mean {row['psnr_db_mean']:5.1f} dB, min {row['psnr_db_min']:5.1f} dB"
        )


if __name__ == "__main__":
    main()
