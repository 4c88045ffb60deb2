"""Pairs in shards for the tests; without torch, so that a process of its own begins at once."""

from pathlib import Path

import numpy as np

from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.shards import ShardWriter

SIZE = 4
NAMES = ["a", "b", "c", "d", "e", "f.1", "f.2"]


def picture(name: str) -> tuple[Pixels, Mask]:
    """An image (SIZE, SIZE, 3) of the name's own, and its mask."""
    image = np.random.default_rng(list(name.encode())).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return image, image[..., 0] > 127


def write(folder: Path, names: list[str], resume: bool = False, size: int = 3) -> None:
    """Write, or go on writing, the pairs of these names."""
    with ShardWriter(folder, resume, size=size) as writer:
        for name in names:
            if name not in writer.done:
                writer.write(name, *picture(name), "A photo of polyp", {"seed": ord(name[0])})
