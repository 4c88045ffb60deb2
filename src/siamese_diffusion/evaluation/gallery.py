"""Pictures of what `evaluate` found: what the judge sees, and synthetic images beside their nearest real ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion import pictures
from siamese_diffusion.data.pairs import ImageFile, Pair
from siamese_diffusion.evaluation.features import FLIP_NAMES, FLIPS
from siamese_diffusion.evaluation.judge import Judge
from siamese_diffusion.evaluation.metrics.mask_fit import Scores
from siamese_diffusion.segmentation.inference import marked

COLUMNS = 6


def best_and_worst(judge: Judge, pairs: Sequence[Pair], dice: Scores, count: int = 12) -> Image.Image:
    """The worst pairs, then the best, as in `outlined`."""
    order = np.argsort(dice, kind="stable")
    chosen = [int(i) for i in (*order[:count], *order[max(count, len(order) - count) :])]
    tiles = outlined(judge, [pairs[i] for i in chosen])
    captions = [f"Dice {dice[i]:.3f}" for i in chosen]
    rows = range(0, len(chosen), COLUMNS)
    return pictures.grid([tiles[i : i + COLUMNS] for i in rows], [captions[i : i + COLUMNS] for i in rows])


def side_by_side(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    images: Mapping[str, ImageFile],
    real: Mapping[str, ImageFile],
    size: int,
) -> bytes:
    """A PNG: each image above, the training image nearest to it below, turned as it is nearest.

    Args:
        rows: of `comparing.Comparison.nearest`, or of the flagged.
        key: of the image's name in a row; its training image is under `real`.
        images: files by name.
        real: files of the training images by name.
        size: at which they were compared, in pixels.
    """
    above = [_enlarged(images[row[key]].squared(size)) for row in rows]
    below = [_enlarged(_flipped(real[row["real"]].squared(size), row["flip"])) for row in rows]
    captions = [
        [f"score {row['distance']:.2f}" for row in rows],
        ["real" + ("" if row["flip"] == "none" else ", flipped") + f" ({row['by']})" for row in rows],
    ]
    return pictures.png(pictures.grid([above, below], captions, font=16))


def outlined(judge: Judge, pairs: Sequence[Pair]) -> list[NDArray[np.uint8]]:
    """Every image with the outlines of its mask, and of what the judge sees, as `pictures.outlines` has them."""
    tiles = []
    for image, mask, prediction in zip(*judge.see(pairs), strict=True):
        tiles.append(pictures.outlines(image, mask, marked(prediction)))
    return tiles


def _enlarged(image: NDArray[np.uint8], side: int = 192) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _flipped(image: NDArray[np.uint8], flip: str) -> NDArray[np.uint8]:
    axes = tuple(
        axis + 2 for axis in FLIPS[FLIP_NAMES.index(flip)]
    )  # -1 and -2 of (B, 3, H, W) are 1 and 0 of (H, W, 3)
    return np.ascontiguousarray(np.flip(image, axes)) if axes else image
