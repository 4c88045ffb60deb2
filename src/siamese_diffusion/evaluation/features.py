"""Features of image files, computed once: cached by content, memory-mapped, streamed in batches.

A set's features are one `.npy` file, named by a hash of what they depend on: the content of every image, the
extractor's weights, the resizing and the flips. They are made in shards, so a killed pass goes on where it stopped,
and two passes over one cache do each other no harm.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion import progress
from siamese_diffusion.data.arrays import array_file, require_written, stored_array
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import hash_json, write_whole
from siamese_diffusion.prefetch import one_ahead

SHARD = 2048
"""Images of a shard; a shard of Inception's features has 16 MiB a flip."""

PLAIN: tuple[tuple[int, ...], ...] = ((),)
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of (B, 3, R, R) that each variant reverses: none, left-right, upside-down, both."""
FLIP_NAMES = ("none", "horizontal", "vertical", "both")


@dataclass(frozen=True)
class Extractor:
    """A function from images to features.

    Attributes:
        name: as reported.
        embed: uint8 (B, 3, R, R) on the CPU -> float (B, D).
        key: tells its weights apart from all others.
        resizing: what `embed` does about the size, in words.
        resolution: the R that it needs; None: any.
        family: "inception" or "clip", whose metrics have names of their own, else "other".
    """

    name: str
    embed: Callable[[Tensor], Tensor]
    key: str
    resizing: str
    resolution: int | None = None
    family: str = "other"


def contents(images: Sequence[ImageFile]) -> list[str]:
    """A hash of the content of each image's file, and of how it is read where that is not the plain way."""

    def digest(image: ImageFile) -> str:
        own = hash_files([image.path])
        return hash_json([own, image.decoding.image_key]) if image.decoding.image_key else own

    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest, images))


def features(
    images: Sequence[ImageFile],
    extractor: Extractor,
    cache: Path,
    resolution: int,
    batch_size: int = 32,
    flips: Sequence[tuple[int, ...]] = PLAIN,
    hashes: Sequence[str] | None = None,
) -> NDArray[np.float32]:
    """Features (N, F, D), memory-mapped: of every image in each of F `flips`.

    Args:
        images: of any number.
        extractor: see `extractors.create`.
        cache: folder that keeps them.
        resolution: the images are squared to this side first, in pixels, unless the extractor needs another.
        batch_size: images in one pass.
        flips: see `FLIPS`.
        hashes: `contents(images)`, where it is known.

    Raises:
        InputError: an image cannot be read, the features are not finite, or the disk is full.
    """
    side = extractor.resolution or resolution
    digests = list(hashes) if hashes is not None else contents(images)
    key = hash_json([extractor.key, side, [list(axes) for axes in flips], digests])
    whole, shards = cache / f"{key}.npy", cache / key
    shape = (len(images), len(flips), None)
    found = stored_array(whole, np.float32, shape)
    if found is None:
        starts = range(0, len(images), SHARD)
        with progress.bar() as shown:
            task = shown.add_task(f"features: {extractor.name}", total=len(images))
            for start in starts:
                part = images[start : start + SHARD]
                shard = shards / f"{start:08d}.npy"
                if stored_array(shard, np.float32, (len(part), *shape[1:])) is None:
                    _save(shard, _shard(part, extractor, side, batch_size, flips, lambda n: shown.advance(task, n)))
                else:
                    shown.advance(task, len(part))
        _join(whole, [shards / f"{start:08d}.npy" for start in starts], len(images))
        found = stored_array(whole, np.float32, shape)
    shutil.rmtree(shards, ignore_errors=True)  # also those of a call that was killed just before
    return require_written(found, cache)


def _shard(
    images: Sequence[ImageFile],
    extractor: Extractor,
    side: int,
    batch_size: int,
    flips: Sequence[tuple[int, ...]],
    advance: Callable[[int], None],
) -> NDArray[np.float32]:
    def read(image: ImageFile) -> Pixels:
        return image.squared(side)

    def read_batch(start: int) -> tuple[int, NDArray[np.uint8]]:
        return start, np.stack(list(pool.map(read, images[start : start + batch_size])))

    parts = []
    with ThreadPoolExecutor() as pool, torch.inference_mode():
        for start, batch in one_ahead(read_batch, range(0, len(images), batch_size)):
            pixels = torch.from_numpy(batch).movedim(3, 1)  # (B, 3, R, R)
            variants = [extractor.embed(pixels.flip(axes)).float().cpu() for axes in flips]
            parts.append(torch.stack(variants, 1).numpy())
            if not np.isfinite(parts[-1]).all():
                raise InputError(
                    f"features {extractor.name}: not finite for one of {images[start].path} and the {len(batch) - 1} "
                    "after it; choose other --features, or evaluate.precision=fp32"
                )
            advance(len(batch))
    return np.concatenate(parts)


def _save(path: Path, array: NDArray[np.float32]) -> None:
    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, array)

    write_whole(path, save)


def _join(path: Path, shards: Sequence[Path], count: int) -> None:
    with array_file(path, count) as add:
        for shard in shards:
            add(np.load(shard))
