"""A mask as a picture that viewers show black and white and programs read as labels."""

import numpy as np
from PIL import Image

from siamese_diffusion.data.classes import AnyMask, shown_colours
from siamese_diffusion.settings import MOST_CLASSES

BACKGROUND, LESION = (0, 0, 0), (255, 255, 255)
"""Colours that a viewer shows for the labels 0 and 1."""


def label_png(mask: AnyMask) -> Image.Image:
    """A palette picture of a mask (H, W): index 0 is background, 1 lesion, or the labels of several classes."""
    picture = Image.fromarray(mask.astype(np.uint8))
    several = mask.dtype != np.bool_
    picture.putpalette(shown_colours(MOST_CLASSES).ravel().tolist() if several else [*BACKGROUND, *LESION])
    return picture
