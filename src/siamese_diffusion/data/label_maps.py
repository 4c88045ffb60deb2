"""The masks of a folder as label maps, without their images: 0 is background, 1 to K are classes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion import progress
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import MaskFile

Labels = NDArray[np.uint8]  # (N, R, R)

CHUNK = 64
"""Files that are read side by side."""


def read_label_maps(masks: Sequence[MaskFile], resolution: int) -> Labels:
    """The label maps uint8 (N, R, R) of masks at `resolution` pixels; without `data.classes` there is one class, 1.

    Raises:
        InputError: a file cannot be read, see `MaskFile.read`.
    """
    found = np.zeros((len(masks), resolution, resolution), np.uint8)
    with ThreadPoolExecutor() as pool:
        for start in progress.track(range(0, len(masks), CHUNK), "reading masks"):
            part = masks[start : start + CHUNK]
            for i, mask in enumerate(pool.map(lambda each: each.squared(resolution), part)):
                found[start + i] = mask
    return found


def other_masks(folder: DataFolder, chosen: Sequence[MaskFile]) -> list[tuple[str, MaskFile]]:
    """Names and masks of a folder, all its lists and test sets, that are not among `chosen`, by whatever path.

    Raises:
        InputError: see `DataFolder.masks`.
    """
    used = {_place(mask) for mask in chosen}
    everything = [*folder.masks(), *((pair.name, pair.mask) for pairs in folder.test_sets.values() for pair in pairs)]
    return list({_place(mask): (name, mask) for name, mask in everything if _place(mask) not in used}.values())


def _place(mask: MaskFile) -> Path:
    """What tells one from another: its image, since a file may hold many masks; without one its file."""
    return (mask.image or mask.path).resolve()
