"""Whether a file looks like a photograph or like a mask, where names leave it open.

Design note: a mask's grey levels stand in a few sharp heaps, whatever its coding; JPEG blurs a heap by a few levels. A
photograph's levels are spread, even where most of it is black. A flat picture passes for a mask.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from siamese_diffusion.data.images import open_image
from siamese_diffusion.errors import InputError

REACH = 8
"""Grey levels that JPEG moves a flat area's pixels by at most, nearly always."""
SHARP = 0.3
"""Share of a heap that its commonest level holds at least; noise puts less than a tenth there."""
LEAST = 0.002
"""Share of the pixels that a heap holds at least."""
SAMPLE = 16


def is_photograph(path: Path) -> bool:
    """Whether the grey levels of a file are spread as a photograph's are; a file that cannot be read is none."""
    try:
        image = open_image(path)
    except InputError:
        return False
    if image.mode == "P":  # palettes put a mask's labels and a photograph's colours in any order
        image = image.convert("RGB")
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.nan_to_num(np.asarray(image, np.float64))
        spread = float(np.ptp(values)) or 1.0
        levels = ((values - values.min()) * (255 / spread)).astype(np.uint8)
    else:
        levels = np.asarray(image.convert("L"))
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    near = np.convolve(shares, np.ones(2 * REACH + 1), "same")
    heaps = np.flatnonzero((shares >= LEAST) & (shares >= SHARP * near))
    explained = np.zeros(256, bool)
    for heap in heaps:
        explained[max(0, heap - REACH) : heap + REACH + 1] = True
    loose = float(shares[~explained].sum())
    ground = float(near[heaps].max(initial=0))
    return loose > 0.02 and loose > 0.6 * (1 - ground)


def photographs(files: Sequence[Path]) -> list[Path]:
    """Those of a sample of files, drawn evenly, that look like photographs."""
    return [path for path in sample(files) if is_photograph(path)]


def sample(files: Sequence[Path]) -> Sequence[Path]:
    """At most `SAMPLE` of the files, evenly."""
    return files[:: max(1, -(-len(files) // SAMPLE))]
