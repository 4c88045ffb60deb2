"""Random geometry and colour for a batch of image-mask pairs, in one resampling.

Drawing and applying are apart: `draw` takes the generator and makes the numbers of a whole batch, `augment` is a pure
function of them. So a process that holds some rows of a batch sees what a process that holds all of them would.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = (0.75, 1.25)
DEGREES = 20.0
SHIFT = 0.1
"""Largest shift along an axis, as a share of the image's side."""
JITTER = (0.2, 0.2, 0.2)
"""Brightness, contrast and saturation are multiplied by a factor in 1 ± this."""


class Augmentation(NamedTuple):
    """What happens to each sample of a batch."""

    affine: Tensor  # (B, 2, 3): output to input position, both in [-1, 1] as in `torch.nn.functional.affine_grid`
    colour: Tensor  # (B, 3): factors on brightness, contrast and saturation

    def rows(self, rows: range) -> "Augmentation":
        """The part for these rows of the batch."""
        index = list(rows)
        return Augmentation(self.affine[index], self.colour[index])


def identity(count: int) -> Augmentation:
    """No change."""
    return Augmentation(torch.eye(2, 3).repeat(count, 1, 1), torch.ones(count, 3))


def draw(count: int, generator: torch.Generator) -> Augmentation:
    """Random flips, then one half quarter turns (exact, no blur), the other half a small affine map; colour for all."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    flip = torch.randint(0, 2, (count, 2), generator=generator) * 2.0 - 1.0
    turns = torch.randint(0, 4, (count,), generator=generator)
    small = torch.rand(count, generator=generator) < 0.5
    angle = torch.where(small, torch.deg2rad(uniform(-DEGREES, DEGREES)), turns * (math.pi / 2))
    scale = torch.where(small, uniform(*SCALE), 1.0)
    shift = torch.stack([uniform(-SHIFT, SHIFT), uniform(-SHIFT, SHIFT)], 1) * 2 * small[:, None]
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1) * flip[:, None]
    colour = torch.stack([uniform(1 - width, 1 + width) for width in JITTER], 1)
    return Augmentation(torch.cat([matrix, shift[:, :, None]], 2), colour)


def draw_flips(count: int, generator: torch.Generator) -> Augmentation:
    """SANet's: each flip with probability one half, then for one half a number of quarter turns; all of it exact."""
    flip = torch.randint(0, 2, (count, 2), generator=generator) * 2.0 - 1.0
    turned = torch.rand(count, generator=generator) < 0.5
    angle = torch.randint(0, 4, (count,), generator=generator) * turned * (math.pi / 2)
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1).round() * flip[:, None]
    return Augmentation(torch.cat([matrix, torch.zeros(count, 2, 1)], 2), torch.ones(count, 3))


def rescale(images: Tensor, masks: Tensor, side: int, soft: bool) -> tuple[Tensor, Tensor]:
    """A batch of pairs at another size.

    Args:
        images: (B, 3, R, R) in [0, 1].
        masks: (B, 1, R, R) of 0 and 1.
        side: in pixels.
        soft: interpolate masks as well, corners aligned, as Polyp-PVT does; else take their nearest pixel, as SANet
            does.
    """
    if images.shape[-1] == side:
        return images, masks
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=soft)
    if soft:
        return images, F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=True)
    return images, F.interpolate(masks, size=(side, side), mode="nearest")


def augment(images: Tensor, masks: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """Apply `how` to pairs; what comes from outside an image is black and outside the mask.

    Args:
        images: (B, 3, R, R) uint8.
        masks: (B, 1, R, R) bool, or labels uint8 of several classes.

    Returns:
        (B, 3, R, R) float images in [0, 1] and (B, 1, R, R) float masks of 0 and 1, or of labels.
    """
    planes = masks.float() if masks.dtype == torch.bool else _planes(masks)  # (B, K, R, R)
    stacked = torch.cat([images / 255.0, planes], 1)
    grid = F.affine_grid(how.affine, list(stacked.shape), align_corners=False)
    moved = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    found = (moved[:, 3:] > 0.5).float() if masks.dtype == torch.bool else _labels(moved[:, 3:])
    return _jitter(moved[:, :3], how.colour), found


def _planes(labels: Tensor) -> Tensor:
    """Labels (B, 1, R, R) as a plane a class, (B, K, R, R), K the largest label."""
    return torch.cat([labels == label for label in range(1, int(labels.max()) + 1)] or [labels], 1).float()


def _labels(planes: Tensor) -> Tensor:
    """Labels (B, 1, R, R) of shares of classes (B, K, R, R); the rest of a pixel is background, which wins no draw."""
    shares = torch.cat([planes, 1 - planes.sum(1, keepdim=True)], 1)
    return (shares.argmax(1, keepdim=True) + 1).remainder(shares.shape[1]).float()


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1) each
    images = images * brightness
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601 luma
    mean = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    grey = (images * weights).sum(1, keepdim=True)
    return (grey + (images - grey) * saturation).clamp(0, 1)
