"""Images as they are looked at: at one size, with smooth outlines of the masks."""

import numpy as np
from PIL import Image, ImageFilter

from siamese_diffusion import pictures
from siamese_diffusion.data.images import Mask, Pixels

SHOWN = 384
"""Pixels of the longer side of an image that is looked at."""
THUMBNAIL = 200


def looked_at(image: Pixels, asked: Mask | None = None, seen: Mask | None = None, side: int = SHOWN) -> Pixels:
    """An image (H, W, 3) at the size at which it is looked at, with the outline of the mask asked for in green and that
    of what a network sees in magenta."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    for mask, colour in ((asked, pictures.GREEN), (seen, pictures.MAGENTA)):
        if mask is not None and mask.any():
            shown = pictures.outline(shown, enlarged(mask, size), colour, max(2, round(side / 130)))
    return shown


def enlarged(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask (H, W) at another size, without the steps of its pixels."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    larger = size[0] / mask.shape[1]
    if larger > 1.5:
        grey = grey.filter(ImageFilter.GaussianBlur(0.6 * larger))
    return np.asarray(grey) >= 128
