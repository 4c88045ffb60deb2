"""The mask that is painted on the page, between the browser's picture of colours and labels."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.opening import decoded
from siamese_diffusion.errors import InputError
from siamese_diffusion.webapp.shown import enlarged

SIDE = 512
"""Pixels of the side that is painted on."""
_HEAD = "data:image/png;base64,"
_LARGEST = 4 << 20


@dataclass(frozen=True)
class Class:
    """What a colour of the brush marks."""

    name: str
    colour: str
    """As #rrggbb."""

    @property
    def rgb(self) -> tuple[int, ...]:
        return tuple(bytes.fromhex(self.colour[1:]))


COLOURS = ("#2dd4bf", "#f59e0b", "#a78bfa", "#f472b6", "#60a5fa", "#a3e635")
"""Of the first classes; the first is the lesion where there is one class."""


def classes_of(names: Sequence[str]) -> list[Class]:
    """A colour for each name: label 1 is the first."""
    return [Class(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)]


def to_labels(value: object, classes: Sequence[Class]) -> Pixels:
    """Labels uint8 (S, S) of what the browser sends: 0 where nothing is painted, else the class of the nearest colour.

    Raises:
        InputError: it is no picture of the page's.
    """
    if not isinstance(value, str) or not value.startswith(_HEAD) or len(value) > _LARGEST:
        raise InputError("paint a mask first")
    try:
        content = base64.b64decode(value.removeprefix(_HEAD), validate=True)
    except ValueError:
        raise InputError("the painted mask did not arrive whole; try again") from None
    with TemporaryDirectory(prefix="siamese-diffusion-") as folder:
        path = Path(folder) / "painted.png"
        path.write_bytes(content)
        with decoded(path, SIDE * SIDE) as picture:
            pixels = np.array(picture.convert("RGBA"))
    away = [((pixels[..., :3].astype(np.int32) - each.rgb) ** 2).sum(-1) for each in classes]
    return np.where(pixels[..., 3] >= 128, np.argmin(away, 0) + 1, 0).astype(np.uint8)


def to_picture(labels: Pixels, classes: Sequence[Class]) -> str:
    """What the browser loads for labels uint8 (H, W)."""
    table = np.zeros((256, 4), np.uint8)
    for label, each in enumerate(classes, start=1):
        table[label] = (*each.rgb, 255)
    content = io.BytesIO()
    Image.fromarray(table[labels]).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(content, "PNG")
    return _HEAD + base64.b64encode(content.getvalue()).decode()


def from_mask(mask: Mask) -> Pixels:
    """Labels (S, S) of a mask (H, W) of any shape, which is squashed to the square."""
    return enlarged(mask, (SIDE, SIDE)).astype(np.uint8)


def part(name: str) -> str:
    """A file that the browser gets: `sketch.html`, `sketch.css`, `sketch.js`, `page.css`."""
    return (resources.files("siamese_diffusion") / "webapp" / name).read_text(encoding="utf-8")
