"""Pictures of image-mask pairs: outlines and captioned grids."""

import io
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

T = TypeVar("T", bound=np.generic)
Pixels = NDArray[np.uint8]

GREEN = (0, 230, 90)
MAGENTA = (255, 0, 200)

CLASSES = (
    *((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    *((0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5)),
    *((1, 0.5, 0), (0.5, 1, 0), (0, 1, 0.5), (0, 0.5, 1), (0.5, 0, 1), (1, 0, 0.5)),
    *((1, 1, 0.5), (1, 0.5, 1), (0.5, 1, 1), (1, 0.5, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 1)),
)
"""Colours of the classes of a mask, in [0, 1]: corners, middles of edges and of faces of the colour cube but black, the
best separated first. (`settings.MOST_CLASSES` is their number.)"""

_VISIBLE = 192  # pixels: a one-pixel outline on a smaller picture hides what it should show


_WIDE = 500
"""Pixels of a picture's longer side for each pixel of a line's width."""


def outline(image: Pixels, mask: NDArray[Any], colour: tuple[int, int, int], width: int | None = None) -> Pixels:
    """A copy of `image` with the border of `mask` drawn, enlarged where the image is small.

    The line is a pixel wide, and wider in a large image, so that it is seen where the whole of it is looked at.

    Args:
        image: uint8 (H, W, 3); may be a whole multiple of the mask's size, such as an earlier outline.
        mask: bool (h, w); or a label map uint8 (h, w), each class of which has the border in its own colour.
        colour: RGB, 0 to 255; of a label map the classes' own are taken.
        width: of the line, in pixels of the result.
    """
    import cv2

    if mask.dtype != np.bool_:
        for label in np.unique(mask[mask != 0]).tolist():
            red, green, blue = (round(255 * value) for value in CLASSES[label - 1])
            image = outline(image, mask == label, (red, green, blue), width)
        return outline(image, np.zeros(mask.shape, bool), colour, width)  # as large as with a border
    drawn = _enlarge(image, math.ceil(_VISIBLE / max(image.shape[:2]))).copy()
    large = _enlarge(mask, drawn.shape[0] // mask.shape[0])
    width = width or max(1, round(max(drawn.shape[:2]) / _WIDE))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # Beyond the picture is no mask, so that one that reaches its edge has a line there.
    inner = cv2.erode(large.astype(np.uint8), cross, iterations=width, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[large & (inner == 0)] = colour
    return drawn


def outlines(image: Pixels, true: NDArray[Any], seen: NDArray[Any]) -> Pixels:
    """`outline` of a true mask in green, and over it of what a network sees in magenta; of label maps, whose classes
    have their own colours, the true one on the left and what is seen on the right."""
    if true.dtype != np.bool_:
        return np.concatenate([outline(image, true, GREEN), outline(image, seen, MAGENTA)], 1)
    return outline(outline(image, true, GREEN), seen, MAGENTA)


def grid(
    rows: Sequence[Sequence[Pixels]], captions: Sequence[Sequence[str]] | None = None, gap: int = 4, font: int = 10
) -> Image.Image:
    """Tiles in rows, each with a caption below it where captions are given.

    Args:
        rows: uint8 (H, W, 3) tiles; rows may differ in length, tiles in size.
        captions: one text a tile.
        gap: pixels between tiles.
        font: size of the captions, in pixels.
    """
    height = max(tile.shape[0] for row in rows for tile in row)
    width = max(tile.shape[1] for row in rows for tile in row)
    line = font + 4 if captions else 0
    columns = max(len(row) for row in rows)
    picture = Image.new("RGB", (columns * (width + gap) + gap, len(rows) * (height + line + gap) + gap), "white")
    draw = ImageDraw.Draw(picture)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            left, top = gap + j * (width + gap), gap + i * (height + line + gap)
            picture.paste(Image.fromarray(tile), (left, top))
            if captions:
                draw.text((left, top + height + 1), captions[i][j], fill="black", font_size=font)
    return picture


def png(image: Image.Image, **options: Any) -> bytes:
    """An image as the content of a PNG file; `options` are Pillow's."""
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


def _enlarge(array: NDArray[T], factor: int) -> NDArray[T]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else array
