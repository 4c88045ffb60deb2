"""Label maps as signed distances, and back: what a diffusion on masks learns, since it is smooth where masks jump.

Design note: a map is far coarser than the mask it stands for. The outline lies where interpolated distances change
their sign, between its points, so 32 points a side tell an outline to about a hundredth of the side.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

Labels = NDArray[np.uint8]  # (N, h, w), 0 is background, 1..K are classes

REACH = 0.3
"""Distances, as shares of the side, are bent by tanh(distance / REACH): what is far away is all alike."""
FINER = 3
"""Points a side of the label maps, over those of the distance maps that are made of them."""
SEAM = 0.5
"""Where two classes touch, background between them that is no wider than this many points of the map is closed."""


def to_maps(labels: Labels, classes: int, side: int) -> NDArray[np.float32]:
    """Signed distances of each class, in [-1, 1], above 0 inside.

    Args:
        labels: uint8 (N, h, w), values 0..`classes`; h = w, a multiple of `side`.
        classes: K.
        side: points a side of the maps.

    Returns:
        float32 (N, K, side, side).
    """
    maps = np.empty((len(labels), classes, side, side), np.float32)
    for i, label in enumerate(labels):
        for k in range(classes):
            bent = np.tanh(_signed(label == k + 1) / len(label) / REACH)
            maps[i, k] = _coarse(bent, side)
    return maps


def to_labels(maps: Tensor, size: int) -> Labels:
    """The label maps that signed distances stand for: at each pixel the class that is deepest inside, if any is.

    Args:
        maps: (N, K, side, side).
        size: pixels a side.

    Returns:
        uint8 (N, size, size).
    """
    fine = _fine(maps.float(), size)
    best, place = fine.max(1)
    lesion = best > 0
    if maps.shape[1] > 1:  # at a seam the two distances are opposite, at any other outline their sum is far below 0
        first, second = fine.topk(2, dim=1).values.unbind(1)
        lesion |= first + second > -2 * SEAM / maps.shape[-1] / REACH
    found: Labels = torch.where(lesion, place + 1, 0).to(torch.uint8).cpu().numpy()
    return found


def areas(labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Share of the frame that each class covers, (N, K)."""
    return np.stack([(labels == k + 1).mean((1, 2)) for k in range(classes)], 1)


def _fine(maps: Tensor, size: int) -> Tensor:
    """Bicubic interpolation to (N, K, size, size). Distances go on beyond the frame as they come to it: with nothing
    there, each lesion within half a point of the border would touch it."""
    side, margin = maps.shape[-1], 2
    for axis in (-2, -1):
        first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, maps.shape[axis] - 1, 1)
        before = 2 * first - maps.narrow(axis, 1, margin).flip(axis)
        after = 2 * last - maps.narrow(axis, maps.shape[axis] - 1 - margin, margin).flip(axis)
        maps = torch.cat([before, maps, after], axis)
    places = ((torch.arange(size, device=maps.device) + 0.5) / size * 2 - 1) * side / (side + 2 * margin)
    across, down = torch.meshgrid(places, places, indexing="xy")
    grid = torch.stack([across, down], -1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _signed(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each pixel's centre from the outline, in pixels, below 0 outside; a class that is absent is a whole
    side away."""
    if not inside.any() or inside.all():
        return np.full(inside.shape, float(len(inside)) if inside.any() else -float(len(inside)))
    return np.asarray(
        np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside)), np.float64
    )


def _coarse(fine: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Means over square cells."""
    cell = len(fine) // side
    return np.asarray(fine.reshape(side, cell, side, cell).mean((1, 3)))
