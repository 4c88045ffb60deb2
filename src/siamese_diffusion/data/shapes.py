"""Masks that are given as polygons, rectangles, circles or runs of pixels, drawn at their image's size.

Design note: coordinates are those of COCO and labelme, in pixels from the outer corner of the first one, so a polygon
of (0, 0), (4, 0), (4, 4), (0, 4) marks 4 x 4 pixels: a pixel is marked where its centre lies inside. Runs go down
columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.images import read_header
from siamese_diffusion.errors import InputError

MOST, FAR = 1 << 27, 1e7
"""Pixels of the largest image that is drawn on, and how far off a corner may lie; NaN and infinity lie further."""

Points = tuple[tuple[float, float], ...]
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """An area of one label: the union of its polygons, or its runs."""

    label: int
    polygons: tuple[Points, ...] = ()
    """Corners (x, y) in pixels."""
    runs: tuple[int, ...] | None = None
    """Lengths of runs of pixels off and on in turn, off first, column by column."""
    hole: bool = False
    """Whether it is cut out of what was drawn before."""


@dataclass(frozen=True)
class Shapes:
    """What is marked on one image."""

    parts: tuple[Shape, ...]
    """In the order in which they are drawn: where labels overlap the later one counts."""
    image: Path
    file: Path
    """What lists the shapes, for errors."""
    size: tuple[int, int] | None = None
    """(width, height) that the coordinates are of, where the file says so; else the image is opened for it."""

    def labels(self) -> Labels:
        """Labels (H, W) as uint8, 0 where nothing is marked.

        Raises:
            InputError: the image cannot be read, or runs are not of its size.
        """
        width, height = self.size or read_header(self.image).size
        if width * height > MOST:
            raise InputError(
                f"{self.file}: says that {self.image.name} has {width} x {height} pixels, more than are drawn"
            )
        drawn = np.zeros((height, width), np.uint8)
        for part in self.parts:
            drawn[self._area(part, height, width)] = 0 if part.hole else part.label
        return drawn

    def _area(self, part: Shape, height: int, width: int) -> NDArray[np.bool_]:
        if part.runs is None:
            if not all(abs(value) < FAR for points in part.polygons for corner in points for value in corner):
                raise InputError(f"{self.file}: a shape on {self.image.name} has a corner that lies nowhere near it")
            areas = [fill(points, height, width) for points in part.polygons]
            return np.any(areas, axis=0) if areas else np.zeros((height, width), bool)
        if sum(part.runs) != height * width:
            raise InputError(
                f"{self.file}: runs for {self.image.name} have {sum(part.runs)} pixels, not {height * width}"
            )
        marked = np.repeat(np.arange(len(part.runs)) % 2 == 1, part.runs)
        return np.asarray(marked.reshape(width, height).T)


def fill(points: Points, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) whose centres lie in a polygon; where it crosses itself, those it goes round an odd number of
    times."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    inside = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        first = max(0, int(np.ceil(min(y0, y1) - 0.5)))
        last = min(height - 1, int(np.ceil(max(y0, y1) - 0.5)) - 1)
        if last < first:
            continue
        rows = np.arange(first, last + 1)
        crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossed - 0.5), 0, width).astype(np.int64)
        np.add.at(inside, (rows, columns), 1)
    return np.asarray(np.cumsum(inside, axis=1)[:, :width] % 2 == 1)


def rectangle(x: float, y: float, width: float, height: float) -> Points:
    """Corners of an upright rectangle."""
    return (x, y), (x + width, y), (x + width, y + height), (x, y + height)


def circle(x: float, y: float, radius: float) -> Points:
    """Corners of a circle, 64 of them."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return tuple((float(x + radius * np.cos(angle)), float(y + radius * np.sin(angle))) for angle in angles)


def pairs_of(flat: Sequence[float]) -> Points:
    """(x, y) corners of x, y, x, y ..."""
    return tuple(zip(map(float, flat[::2]), map(float, flat[1::2]), strict=True))


def decompress(text: str) -> tuple[int, ...]:
    """Runs of COCO's compressed form: five bits a character, least significant first, each run from the fourth on as
    its difference to the one two before it.

    Raises:
        ValueError: the text is cut short or has other characters.
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            if position == len(text):
                raise ValueError("cut short")
            code = ord(text[position]) - 48
            if not 0 <= code < 64:
                raise ValueError(f"has the character {text[position]!r}")
            value |= (code & 31) << shift
            more = bool(code & 32)
            position, shift = position + 1, shift + 5
            if not more and code & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    if any(run < 0 for run in runs):
        raise ValueError("has a run of negative length")
    return tuple(runs)
