"""Lesions drawn into existing images: only the lesion and a band around it are generated.

Design note: at every step of the reverse process the latents outside the region are put back to those of the image at
that step's noise (blended latent diffusion, Avrahami et al., arXiv:2206.02779; RePaint, arXiv:2201.09865), so that
what is drawn goes on from what is there. The first stage changes every pixel a little; so the drawn region is set into
the image itself, with its gradients and the image's colours at the seam (`copypaste.poisson`). The seam lies outside
the lesion, and outside the band every pixel is the original's. No training is needed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn import functional as F

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.data.copypaste import laid_over, poisson
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.masks import LEAST, warp
from siamese_diffusion.data.pairs import ImageFile, MaskFile
from siamese_diffusion.data.placing import BAND, field_of_view, free_places
from siamese_diffusion.diffusion.schedule import Schedule

TRIES = 60
"""Images that are tried for a lesion; after every ten it is made smaller."""
SMALLER = 0.85


@dataclass(frozen=True)
class Scene:
    """A place for a lesion in an image."""

    image: Pixels  # (R, R, 3)
    mask: AnyMask  # (R, R), of every lesion that the result shows
    region: Mask  # (R, R), what is drawn: the lesion and its band
    told: dict[str, Any]
    """For the manifest: the image's name, and a hash of its file."""
    transform: dict[str, Any]
    """The same of the lesion: how it was scaled and where it was put."""

    def finish(self, drawn: Pixels) -> Pixels:
        """The image with the region of `drawn` (R, R, 3) set into it."""
        return poisson(self.image, drawn.astype(np.float64), self.region)


class Backgrounds:
    """The images that lesions are drawn into.

    Args:
        folder: of pairs, whose own lesions are left alone, or of images without any.
        settings: which of them, and how they are read.
        resolution: side of the squared images, in pixels.
        seed: of which image a lesion comes into, and where.
    """

    def __init__(self, folder: DataFolder, settings: DataConfig, resolution: int, seed: int) -> None:
        self.resolution, self.seed = resolution, seed
        self.images: list[tuple[str, ImageFile, MaskFile | None]]
        if folder.holds_pairs:
            pairs = folder.pairs(settings.split, settings.limit, settings.limit_seed)
            self.images = [(pair.name, pair.image, pair.mask) for pair in pairs]
        else:
            self.images = [(image.path.stem, image, None) for image in folder.images(settings.split)]

    @cached_property
    def files(self) -> list[Path]:
        """All that is read of them."""
        return [
            path for _, image, mask in self.images for path in (image.path, *(mask.files if mask is not None else ()))
        ]

    def scene(self, lesion: AnyMask, source: str, copy: int) -> Scene | None:
        """A place for a lesion, bool (R, R) or of several classes uint8 (R, R); None where there is none, or no lesion.

        It depends on the seed, the name `source` of the lesion's pair, `copy` and these images only. The image that
        the lesion comes from is not among those that are tried, unless it is the only one.
        """
        if np.count_nonzero(lesion) < LEAST:
            return None
        digest = hashlib.sha256(f"into/{self.seed}/{copy}/{source}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        others = [i for i, (name, *_) in enumerate(self.images) if name != source] or range(len(self.images))
        for attempt in range(TRIES):
            scale = SMALLER ** (attempt // 10)
            centred = _centred(lesion, scale)
            if np.count_nonzero(centred) < LEAST:
                return None
            name, image, mask = self.images[int(random.choice(others))]
            pixels = image.squared(self.resolution)
            taken = np.zeros_like(lesion) if mask is None else mask.squared(self.resolution)
            region = binary_dilation(centred != 0, iterations=max(2, round(BAND * len(centred))))
            for place in free_places(random, centred != 0, region, field_of_view(pixels), taken != 0):
                moved, around = (np.roll(part, place, (0, 1)) for part in (centred, region))
                told = {"background": name, "background_sha256": hash_files([image.path])}
                put = {"fitted": scale, "place": [side / len(centred) for side in place]}
                return Scene(pixels, laid_over(taken, moved, around), around, told, put)
        return None


def keep_outside(
    region: NDArray[np.bool_], clean: Tensor, noise: Tensor, schedule: Schedule
) -> Callable[[Tensor, int | None], Tensor]:
    """What `sampler.denoise` does after each step: latents outside the region are the image's at that step's noise.

    Args:
        region: bool (B, R, R).
        clean: (B, C, h, w) latents of the images.
        noise: (B, C, h, w), the same at every step.
        schedule: of the model.
    """
    size = (clean.shape[-2], clean.shape[-1])
    inside = F.adaptive_max_pool2d(torch.from_numpy(region)[:, None].float(), size).to(clean.device)

    def keep(latents: Tensor, timestep: int | None) -> Tensor:
        known = clean
        if timestep is not None:
            at = torch.full((len(clean),), timestep, device=clean.device)
            known = schedule.add_noise(clean, noise, at)
        return inside * latents + (1 - inside) * known

    return keep


def _centred(mask: AnyMask, scale: float) -> AnyMask:
    """A lesion scaled, its centroid in the middle of the frame."""
    middle = np.array(mask.shape) // 2
    centre = np.argwhere(mask).mean(0).round()
    if scale == 1:
        return warp(mask, np.eye(2), centre - middle, order=0)
    return warp(mask, np.eye(2) / scale, centre - middle / scale)
