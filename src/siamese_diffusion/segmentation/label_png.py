"""A mask as a picture that viewers show black and white and programs read as labels."""

import numpy as np
from PIL import Image

from siamese_diffusion.data.images import Mask

BACKGROUND, LESION = (0, 0, 0), (255, 255, 255)
"""Colours that a viewer shows for the labels 0 and 1."""


def label_png(mask: Mask) -> Image.Image:
    """A palette picture of a boolean mask (H, W): index 0 is background, 1 lesion."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([*BACKGROUND, *LESION])
    return picture
