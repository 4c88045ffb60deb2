"""Whether a file looks like a photograph or like a mask, where names leave it open.

Design note: a mask's grey levels stand in a few sharp heaps, whatever its coding; JPEG blurs a heap by a few levels. A
photograph's levels are spread, even where most of it is black. A flat picture passes for a mask. A photograph that was
reduced to a few colours has heaps as sharp as a mask's, but noise breaks its areas into specks, which nobody draws: see
`posterised`. One of black and white alone passes for a mask: it is one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.images import open_image
from siamese_diffusion.errors import InputError

REACH = 8
"""Grey levels that JPEG moves a flat area's pixels by at most, nearly always."""
SHARP = 0.3
"""Share of a heap that its commonest level holds at least; noise puts less than a tenth there."""
LEAST = 0.002
"""Share of the pixels that a heap holds at least."""
SAMPLE = 16
SIDE = 512
"""Pixels a side of the middle of an image that specks are looked for in."""
SPECK = 8
"""Pixels of the largest speck."""
FEWEST = 8
SPECKS = 6.0
"""Specks in all, and in 10,000 pixels: masks of polyps, skin lesions and cells have 0 on median over a set, drawn
vessels of several kinds and crowded nuclei 0.5 to 2; photographs of these in 4 colours 3 to 31, in 16 25 to 74."""


def is_photograph(path: Path) -> bool:
    """Whether the grey levels of a file are spread as a photograph's are; a file that cannot be read is none."""
    levels = _levels(path)
    if levels is None:
        return False
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    near = np.convolve(shares, np.ones(2 * REACH + 1), "same")
    heaps = np.flatnonzero((shares >= LEAST) & (shares >= SHARP * near))
    explained = np.zeros(256, bool)
    for heap in heaps:
        explained[max(0, heap - REACH) : heap + REACH + 1] = True
    loose = float(shares[~explained].sum())
    ground = float(near[heaps].max(initial=0))
    return loose > 0.02 and loose > 0.6 * (1 - ground)


def _levels(path: Path) -> NDArray[np.uint8] | None:
    """Grey levels (H, W) of a file; None where it cannot be read."""
    try:
        image = open_image(path)
    except InputError:
        return None
    if image.mode == "P":  # palettes put a mask's labels and a photograph's colours in any order
        image = image.convert("RGB")
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.nan_to_num(np.asarray(image, np.float64))
        spread = float(np.ptp(values)) or 1.0
        return np.asarray((values - values.min()) * (255 / spread), np.uint8)
    return np.asarray(image.convert("L"))


def specks(levels: NDArray[np.uint8]) -> float:
    """Specks in 10,000 pixels of grey levels (H, W); 0 where there are few in all, or fewer than three heaps."""
    import cv2

    height, width = levels.shape
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    levels = levels[top : top + SIDE, left : left + SIDE]
    counts = np.bincount(levels.ravel(), minlength=256)
    heaps: list[int] = []
    for level in np.argsort(-counts, kind="stable").tolist():
        if counts[level] < LEAST * levels.size:
            break
        if all(abs(level - other) > 2 * REACH for other in heaps):
            heaps.append(level)
    if len(heaps) < 3:
        return 0.0
    nearest = np.abs(np.arange(256)[:, None] - np.array(heaps)).argmin(1)[levels]  # JPEG's noise belongs to its heap
    found = 0
    for number in range(len(heaps)):
        _, _, areas, _ = cv2.connectedComponentsWithStats((nearest == number).astype(np.uint8), connectivity=8)
        found += int((areas[1:, cv2.CC_STAT_AREA] <= SPECK).sum())
    return 1e4 * found / levels.size if found >= FEWEST else 0.0


def posterised(files: Sequence[Path]) -> list[Path]:
    """A sample of files, drawn evenly, where most are full of specks, as photographs reduced to a few colours are; else
    nothing: a mask may be as rough."""
    read = [(path, levels) for path in sample(files) if (levels := _levels(path)) is not None]
    rough = [path for path, levels in read if specks(levels) > SPECKS]
    return rough if 2 * len(rough) > len(read) else []


def photographs(files: Sequence[Path]) -> list[Path]:
    """Those of a sample of files, drawn evenly, that look like photographs."""
    return [path for path in sample(files) if is_photograph(path)]


def sample(files: Sequence[Path]) -> Sequence[Path]:
    """At most `SAMPLE` of the files, evenly."""
    return files[:: max(1, -(-len(files) // SAMPLE))]
