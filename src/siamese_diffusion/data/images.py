"""Read images and masks of every kind that clinics and challenges hand out, and say what was done with each."""

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.opening import MAX_PIXELS, decoded
from siamese_diffusion.data.opening import SUFFIXES as SUFFIXES

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Either = TypeVar("Either", Pixels, Mask)


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file, or a member of an archive (see `tars`), fully, turned upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, corrupt or truncated, is not an image, or has more pixels than `max_pixels`.
    """
    with decoded(path, max_pixels) as image:
        return image


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """An image as uint8 (H, W, 3) RGB.

    Grey is repeated over the channels and a palette resolved. Alpha is composited on black, the colour outside an
    endoscope's field of view. 16-bit grey is scaled by the smallest range that holds it: 255 (8 bits stored as 16),
    4095 (12-bit devices) or 65535. Floating point likewise, with the range [0, 1] first; NaN is black.

    Raises:
        InputError: see `open_image`.
    """
    with decoded(path, max_pixels) as image:
        return _rgb(image)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> Mask:
    """A mask as boolean (H, W): brighter than 127 of 255 is lesion.

    A mask whose only values are 0 and 1 is taken as labels, and one whose lesion is drawn by its alpha channel alone
    (all colours equal) by that channel. 16-bit values are scaled as in `read_image`.

    Raises:
        InputError: see `open_image`.
    """
    return to_mask(mask_values(path, max_pixels))


def to_mask(values: Pixels) -> Mask:
    """A mask from its grey values, see `read_mask`."""
    return np.asarray(values == 1 if values.max(initial=0) == 1 else values > 127)


def mask_values(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A mask's grey values as uint8 (H, W), before any threshold.

    Raises:
        InputError: see `open_image`.
    """
    with decoded(path, max_pixels) as image:
        return _grey(image)


def square(pixels: Either, resolution: int) -> Either:
    """Resize to (resolution, resolution); another aspect ratio is squashed, as the original does.

    Images are filtered (Lanczos); masks are averaged and thresholded at one half, so a lesion keeps its area.
    """
    if pixels.shape[:2] == (resolution, resolution):
        return pixels
    size = (resolution, resolution)
    if pixels.dtype == np.bool_:
        grey = Image.fromarray(pixels.astype(np.uint8) * 255)
        return np.asarray(grey.resize(size, Image.Resampling.BOX)) >= 128  # type: ignore[return-value]
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return np.repeat(_to_8_bit(np.asarray(image, np.float64))[..., None], 3, axis=2)
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def _grey(image: Image.Image) -> Pixels:
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.nan_to_num(np.asarray(image, np.float64))
        whole = bool((values == values.round()).all())
        return values.astype(np.uint8) if whole and values.max(initial=0) <= 255 else _to_8_bit(values)
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        grey = np.asarray(image.convert("RGB").convert("L"))
        alpha = rgba[..., 3]
        return np.array(alpha if alpha.min() < 255 and grey.min() == grey.max() else grey * (alpha > 127))
    return np.array(image.convert("L"))


def _to_8_bit(values: NDArray[np.float64]) -> Pixels:
    values = np.nan_to_num(values)
    highest = values.max(initial=0)
    scale = next((bound for bound in (1, 255, 4095, 65535) if highest <= bound), highest)
    return (values.clip(0) * (255 / scale)).round().astype(np.uint8)
