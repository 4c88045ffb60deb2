"""A mask laid on its image: turned with it, cut to it or enlarged to it, where it is plain that this is what is
missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_diffusion.data.images import Header, Pixels, upright
from siamese_diffusion.errors import InputError

ROUNDING = 2
"""Pixels that a mask may be larger or smaller by, and no more than `ROUNDING_SHARE` of the side."""
ROUNDING_SHARE = 0.05
SIMPLE = (1.5, *range(2, 17))
"""Ratios of sizes that are believed of a single pair; any other has to be that of most pairs."""

Size = tuple[int, int]
"""Width and height."""


def lay(
    labels: Pixels,
    image: Header,
    orientation: str,
    mostly_scaled: Callable[[], bool],
    mask_path: Path,
    image_path: Path,
) -> tuple[Pixels, str | None]:
    """A label map at its image's size and orientation.

    Args:
        labels: (h, w), upright as its own file says.
        image: header of the image.
        orientation: `data.orientation`.
        mostly_scaled: asked whether most masks of the folder have another size than their images, in one ratio.
        mask_path, image_path: for the error.

    Returns:
        The label map (H, W), and what was done: "turned", "cut", "resized", or None.

    Raises:
        InputError: the sizes do not fit.
    """
    size = labels.shape[1], labels.shape[0]
    turned = image.orientation != 1 and orientation != "upright" and _on_stored(size, image, orientation == "stored")
    if turned:
        labels = np.ascontiguousarray(upright(labels, image.orientation))
    done = "turned" if turned else None
    size = labels.shape[1], labels.shape[0]
    if size == image.size:
        return labels, done
    if is_rounding(size, image.size):
        return _cut(labels, image.size), "cut"
    ratio = common_ratio(size, image.size)
    if ratio is not None and (_is_simple(ratio) or mostly_scaled()):
        return enlarge(labels, image.size), "resized"
    raise InputError(
        f"{mask_path}: is {size[0]} x {size[1]}, but its image {image_path} is {image.size[0]} x {image.size[1]}"
    )


def is_rounding(size: Size, target: Size) -> bool:
    """Whether two sizes differ by what rounding makes."""
    return all(
        abs(ours - theirs) <= min(ROUNDING, ROUNDING_SHARE * theirs) for ours, theirs in zip(size, target, strict=True)
    )


def common_ratio(size: Size, target: Size) -> float | None:
    """Factor from one size to the other, where it is the same along both sides up to rounding."""
    ratio = float(np.sqrt(target[0] * target[1] / (size[0] * size[1])))
    slack = 0.5 + max(1.0, ratio) / 2
    same = all(abs(theirs - ours * ratio) <= slack for ours, theirs in zip(size, target, strict=True))
    return ratio if same else None


def enlarge(labels: Pixels, size: Size) -> Pixels:
    """A label map at another size: to a larger one each pixel as it is, to a smaller one the label of most of its
    area."""
    if size[0] * size[1] >= labels.size:
        return np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    values = np.unique(labels)
    areas = [
        Image.fromarray((labels == value).astype(np.uint8) * 255).resize(size, Image.Resampling.BOX) for value in values
    ]
    return np.asarray(values[np.argmax(np.stack([np.asarray(area) for area in areas]), axis=0)], np.uint8)


def _on_stored(size: Size, image: Header, always: bool) -> bool:
    """Whether a mask of this size lies on the stored pixels and not on the upright image."""
    if always:
        return True
    if size == image.size or image.stored == image.size:
        return False
    if size == image.stored:
        return True
    fits = is_rounding(size, image.size) or common_ratio(size, image.size) is not None
    return not fits and (is_rounding(size, image.stored) or common_ratio(size, image.stored) is not None)


def _is_simple(ratio: float) -> bool:
    larger = max(ratio, 1 / ratio)
    return any(abs(larger / simple - 1) <= 0.02 for simple in SIMPLE)


def _cut(labels: Pixels, size: Size) -> Pixels:
    """Rows and columns taken off at the end, or the last one repeated."""
    width, height = size
    labels = labels[:height, :width]
    missing = (0, height - labels.shape[0]), (0, width - labels.shape[1])
    return np.ascontiguousarray(np.pad(labels, missing, mode="edge"))
