"""Named recipes that vary a mask at random, so that synthetic pairs have lesions of new shape, size and place."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.errors import InputError

TRIES = 20
LEAST = 16
"""Pixels of lesion that have to remain."""


@dataclass(frozen=True)
class Recipe:
    """What may happen to a mask; every quantity is drawn uniformly."""

    description: str
    flips: bool = False
    """Horizontally and vertically, each with probability 1/2."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Factor on lengths, about the lesion's centroid."""
    shift: float = 0.0
    """At most this share of the mask's side along each axis."""
    rotation: float = 0.0
    """At most this many degrees either way, about the lesion's centroid."""


MASK_RECIPES: dict[str, Recipe] = {
    "none": Recipe("the mask as it is"),
    "flip-scale-shift": Recipe(
        "flips, scale 0.7 to 1.3 about the lesion's centroid, shift up to 0.15 of the side",
        flips=True,
        scale=(0.7, 1.3),
        shift=0.15,
    ),
    "flip-scale-shift-rotate": Recipe(
        "flip-scale-shift, and rotation by up to 45 degrees either way",
        flips=True,
        scale=(0.7, 1.3),
        shift=0.15,
        rotation=45.0,
    ),
}


def transform_mask(mask: AnyMask, recipe: str, seed: int, name: str, copy: int) -> tuple[AnyMask, dict[str, Any]]:
    """Vary a mask; what is drawn depends on `seed`, `name` and `copy` only.

    A lesion does not vanish: a draw that leaves less than half of its scaled area inside the frame, or fewer than 16
    pixels, is repeated; after 20 of them the mask is only flipped.

    Args:
        mask: bool (H, W), or a label map uint8 (H, W), whose classes move together; an empty one stays empty.
        recipe: a key of `MASK_RECIPES`.
        seed: of the run.
        name: of the mask.
        copy: number of the variant of this mask.

    Returns:
        The new mask (H, W), and the numbers drawn: the flips, then `scale`, `rotation` in degrees
        (anticlockwise as seen) and `shift` [down, right] as shares of the height and width.

    Raises:
        InputError: the recipe is unknown.
    """
    if recipe not in MASK_RECIPES:
        raise InputError(f"mask recipe {recipe}: unknown; recipes: {', '.join(MASK_RECIPES)}")
    if recipe == "none":
        return mask, {"recipe": recipe}
    chosen = MASK_RECIPES[recipe]
    digest = hashlib.sha256(f"{seed}/{copy}/{name}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    horizontal, vertical = (bool(chosen.flips and random.random() < 0.5) for _ in range(2))
    flipped = mask[:: -1 if vertical else 1, :: -1 if horizontal else 1].copy()
    drawn: dict[str, Any] = {"recipe": recipe, "flip_horizontal": horizontal, "flip_vertical": vertical}
    if flipped.any():
        for _ in range(TRIES):
            scale = random.uniform(*chosen.scale)
            shift = random.uniform(-chosen.shift, chosen.shift, 2).tolist()
            rotation = random.uniform(-chosen.rotation, chosen.rotation)
            moved = _move(flipped, scale, shift, rotation)
            if np.count_nonzero(moved) >= max(LEAST, 0.5 * scale**2 * np.count_nonzero(flipped)):
                return moved, {**drawn, "scale": scale, "shift": shift, "rotation": rotation}
    return flipped, {**drawn, "scale": 1.0, "shift": [0.0, 0.0], "rotation": 0.0}


def _move(mask: AnyMask, scale: float, shift: list[float], rotation: float) -> AnyMask:
    """Scale and rotate (anticlockwise as seen) about the centroid, then shift by shares of the sides."""
    centre = np.argwhere(mask).mean(0)
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    # From output to input, in (row, column) with rows counted downwards.
    back = np.array(((cos, sin), (-sin, cos))) / scale
    offset = centre - back @ (centre + np.array(shift) * mask.shape)
    return warp(mask, back, offset)


def warp(mask: AnyMask, back: NDArray[np.float64], offset: NDArray[np.float64], order: int = 1) -> AnyMask:
    """A mask (H, W) under an affine map: boolean ones cut at one half, of labels the one with the largest share.

    Args:
        mask: boolean, or a label map uint8.
        back, offset: from output to input position (row, column), as in `scipy.ndimage.affine_transform`; what comes
            from outside the frame is background.
        order: of the interpolation.
    """
    if mask.dtype == np.bool_:
        return np.asarray(affine_transform(mask.astype(np.float64), back, offset, order=order) >= 0.5)
    held = np.flatnonzero(np.bincount(mask.ravel(), minlength=1))[::-1]  # background last: it wins no draw
    parts = [
        affine_transform((mask == label) * 1.0, back, offset, order=order, cval=float(label == 0)) for label in held
    ]
    return np.asarray(held.astype(np.uint8)[np.argmax(parts, 0)])
