"""Sample grids of a run: lines of images under each other."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from siamese_diffusion.data.arrays import to_images
from siamese_diffusion.files import write_whole


def save_grid(rows: list[Tensor], path: Path, columns: int = 8) -> None:
    """A PNG of images (N, 3, H, W) in [-1, 1]: where there are several lists, they alternate line by line."""
    count = len(rows[0])
    lines = [images[start : start + columns].cpu() for start in range(0, count, columns) for images in rows]
    grid = make_grid(torch.cat(lines), nrow=min(columns, count), padding=2, pad_value=1.0)
    write_whole(path, lambda temporary: Image.fromarray(to_images(grid[None])[0]).save(temporary))
