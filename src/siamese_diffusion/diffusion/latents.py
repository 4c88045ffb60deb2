"""The cache of latents and prompt embeddings that training reads its batches from.

Design note: a sample is a pure function of (seed, step, row). Flips are cached as latents of their own, so the first
stage and the text encoder run once, before training, and can then leave the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion import progress
from siamese_diffusion.config import DataConfig, LoopConfig
from siamese_diffusion.data.arrays import Images, Masks, array_file, require_written, stored_array, to_tensor
from siamese_diffusion.data.classes import class_names, hint_colours, present, prompt_for
from siamese_diffusion.files import one_at_a_time
from siamese_diffusion.prefetch import Batch, one_ahead
from siamese_diffusion.randomness import generator, rows_of_epochs
from siamese_diffusion.settings import MOST_CLASSES

ENCODED, EMBEDDED = 8, 64
"""Images in one pass of the first stage, and prompts in one of the text encoder. Eight images of 384 pixels fill a
GPU."""

FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
"""Axes of a channels-first image that each variant reverses."""


def mask_hint(masks: Tensor) -> Tensor:
    """Masks (B, H, W) to hints (B, 3, H, W) in [0, 1]: boolean ones to black and white, label maps uint8 to a colour
    for each class (`data.classes.hint_colours`)."""
    if masks.dtype == torch.bool:
        return masks[:, None].float().expand(-1, 3, -1, -1)
    return torch.from_numpy(hint_colours(MOST_CLASSES))[masks.long()].movedim(3, 1)


@dataclass
class LatentData:
    """What training draws its batches from.

    Attributes:
        moments: (N, flips, 2, C, h, w) means and standard deviations of the scaled latents.
        embeddings: (P + 1, L, D) of the distinct prompts; the last is that of the empty one.
        prompts: (N,) index of each sample's embedding.
        images, masks: for the hints, in memory or mapped; None for unlabelled images.
        features: (N, flips, D, h', w') of the images, for the alignment of a hidden state with them.
    """

    moments: NDArray[np.float32]
    embeddings: Tensor
    prompts: list[int]
    images: Images | None = None
    masks: Masks | None = None
    of_classes: dict[str, int] | None = None
    """Index of the embedding of each set's prompt, with `data.class_dropout`; None without."""
    own: Sequence[bool] = ()
    """With `of_classes`: which samples have prompts of their own, which stay."""
    features: NDArray[np.float32] | None = None

    def batch(
        self,
        step: int,
        rows: range,
        settings: LoopConfig,
        data: DataConfig,
        timesteps: int = 1000,
        hint_dropout: float = 0.0,
    ) -> Batch:
        """Rows of a step as arguments of `SiameseDiffusion.forward` (without hints for unlabelled images)."""
        samples = rows_of_epochs(step, rows, settings.batch_size, len(self.moments), settings.seed)
        drawn = [
            self._sample(index, generator(settings.seed, 3, step, row), data, timesteps, hint_dropout)
            for index, row in zip(samples, rows, strict=True)
        ]
        batch: Batch = {key: torch.stack([sample[key] for sample in drawn]) for key in drawn[0]}
        if self.masks is not None:
            batch["progress"] = step / settings.steps
        return batch

    def _sample(
        self, index: int, random: torch.Generator, data: DataConfig, timesteps: int, hint_dropout: float
    ) -> dict[str, Tensor]:
        flips = FLIPS[data.flip]
        flip = int(torch.randint(len(flips), (), generator=random))
        mean, spread = torch.from_numpy(np.array(self.moments[index, flip]))
        sample = {
            "latents": mean + spread * torch.randn(mean.shape, generator=random),
            "noise": torch.randn(mean.shape, generator=random),
            "timesteps": torch.randint(timesteps, (), generator=random),
        }
        dropped = float(torch.rand((), generator=random)) < data.prompt_dropout
        sample["text"] = self.embeddings[-1 if dropped else self.prompts[index]]
        if self.images is not None and self.masks is not None:
            mask = torch.from_numpy(np.array(self.masks[index]))  # copied: maps are read-only
            if self.of_classes is not None:
                mask = self._without_some(mask, data, random)
                if not dropped and not self.own[index]:
                    held = prompt_for(present(mask.numpy(), class_names(data)))
                    sample["text"] = self.embeddings[self.of_classes[held]]
            image = torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1).float() / 255
            sample["mask_hint"] = mask_hint(mask[None])[0].flip(flips[flip])
            sample["image_hint"] = image.flip(flips[flip])
            if hint_dropout > 0:  # drawn last, so that the rest of the sample is what it is without
                sample["kept"] = torch.rand((), generator=random) >= hint_dropout
        if self.features is not None:
            sample["features"] = torch.from_numpy(np.array(self.features[index, flip]))
        return sample

    def _without_some(self, mask: Tensor, data: DataConfig, random: torch.Generator) -> Tensor:
        """A label map (H, W) in which each class has become background with probability `data.class_dropout`."""
        stays = torch.rand(len(class_names(data)) + 1, generator=random) >= data.class_dropout
        return mask * stays[mask.long()]


def build_latents(
    images: Images,
    prompts: Sequence[str],
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    embed: Callable[[list[str]], Tensor],
    flip: Literal["none", "horizontal", "both"],
    cache: Path,
    masks: Masks | None = None,
    device: Any = "cpu",
    more: Sequence[str] = (),
    own: Sequence[bool] = (),
) -> LatentData:
    """Encode every image, in each flip, and every distinct prompt once; read `cache` instead where it is there.

    Args:
        images: (N, R, R, 3), in memory or mapped.
        prompts: one a sample.
        encode: (B, 3, R, R) in [-1, 1] to the mean and standard deviation of the latents.
        embed: prompts to embeddings (P, L, D).
        flip: which flips training uses.
        cache: file for the latents; its name must tell what they depend on.
        masks: (N, R, R) for labelled images.
        device: where `encode` runs.
        more: the prompts of every set of classes, with `data.class_dropout`.
        own: with `more`: which samples have prompts of their own.
    """
    moments = of_flips(images, flip, lambda chunk: torch.stack(encode(chunk), 1), 4, cache, "encoding images", device)
    distinct = sorted({*prompts, *more})
    texts = [*distinct, ""]
    return LatentData(
        moments=moments,
        embeddings=torch.cat([embed(texts[i : i + EMBEDDED]).cpu() for i in range(0, len(texts), EMBEDDED)]),
        prompts=[distinct.index(prompt) for prompt in prompts],
        images=images if masks is not None else None,
        masks=masks,
        of_classes={prompt: distinct.index(prompt) for prompt in more} if more else None,
        own=own,
    )


def of_flips(
    images: Images,
    flip: Literal["none", "horizontal", "both"],
    make: Callable[[Tensor], Tensor],
    dimensions: int,
    cache: Path,
    description: str,
    device: Any = "cpu",
) -> NDArray[np.float32]:
    """(N, flips, ...): what `make` gives of every image in each flip, made once; read from `cache` where it is there.

    Args:
        images: (N, R, R, 3), in memory or mapped.
        flip: which flips.
        make: (B, 3, R, R) in [-1, 1] to (B, ...).
        dimensions: how many it gives of each image.
        cache: its file.
        description: for the progress bar.
        device: where `make` runs.
    """
    shape = (len(images), len(FLIPS[flip]), *[None] * dimensions)
    with one_at_a_time(cache.parent):
        found = stored_array(cache, np.float32, shape)
        if found is None:
            with array_file(cache, len(images)) as add:
                starts = progress.track(range(0, len(images), ENCODED), description)
                for part in one_ahead(lambda start: to_tensor(images[start : start + ENCODED]), starts):
                    chunk = part.to(device)
                    variants = [make(chunk.flip(axes)).cpu() for axes in FLIPS[flip]]
                    add(torch.stack(variants, 1).numpy())
            found = stored_array(cache, np.float32, shape)
    return require_written(found, cache)
