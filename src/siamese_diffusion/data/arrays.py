"""Squared images and masks of many files as `.npy` files that are mapped into memory and never held there whole.

Design note: the files are written part by part and not through a memory map. The system kills a process that writes to
a map on a full disk, and counts the pages that it has not written back as the process's memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese_diffusion import progress
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import ImageFile, MaskFile, Pair
from siamese_diffusion.data.tars import is_member
from siamese_diffusion.errors import InputError, reason
from siamese_diffusion.files import hash_json, one_at_a_time, whole_file

Images = NDArray[np.uint8]  # (N, R, R, 3)
Masks = NDArray[Any]  # (N, R, R): boolean, or label maps uint8 of several classes

Stored = TypeVar("Stored")

CHUNK = 64
"""Files that are read side by side; no more are in memory at a time."""


@contextmanager
def array_file(path: Path, count: int) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a `.npy` file of `count` rows whole or not at all; yields a function that adds the next rows (n, ...).

    Raises:
        InputError: the disk is full.
        ValueError: fewer or more rows were added.
    """
    added = 0
    with whole_file(path) as temporary, temporary.open("wb") as file:

        def add(part: NDArray[Any]) -> None:
            nonlocal added
            if added == 0:
                header: dict[str, Any] = {
                    "descr": np.lib.format.dtype_to_descr(part.dtype),
                    "fortran_order": False,
                    "shape": (count, *part.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part).data)
            added += len(part)

        yield add
        if added != count:
            raise ValueError(f"{path}: {added} rows of {count}")


def stored_array(path: Path, kind: type, shape: tuple[int | None, ...]) -> NDArray[Any] | None:
    """A `.npy` file of a cache, mapped for reading; None where there is none.

    One that is damaged is removed, and said to be in a line, so that the caller makes it anew.

    Args:
        path: the file.
        kind: of its values.
        shape: of the array; None for a length that is not known.
    """
    if not path.exists():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.memmap) or found.dtype != np.dtype(kind):
            raise ValueError(f"holds no array of {np.dtype(kind)}")
        if len(found.shape) != len(shape) or any(b not in (None, a) for a, b in zip(found.shape, shape, strict=True)):
            raise ValueError(f"holds an array of {list(found.shape)}")
        if found.offset + found.nbytes != path.stat().st_size:
            raise ValueError("is longer than its array")
    except Exception as error:  # numpy's reader raises whatever the bytes lead it to
        progress.notify(f"{path}: is damaged ({reason(error)}); it is made anew")
        path.unlink(missing_ok=True)
        return None
    return found


def read_squared(pairs: Sequence[Pair], resolution: int) -> tuple[Images, Masks]:
    """Images (N, R, R, 3) and masks (N, R, R) at `resolution` pixels; errors as in `Pair.read`."""

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda pair: pair.squared(resolution), pairs))
    return np.stack([image for image, _ in both]), np.stack([mask for _, mask in both])


def map_pairs(pairs: Sequence[Pair], resolution: int, cache: Path) -> tuple[Images, Masks]:
    """`read_squared`, through files in folder `cache` that are made once and mapped for reading.

    Processes that need the same files wait for the one that makes them.

    Raises:
        InputError: a file cannot be read, an image and its mask differ in size, or the disk is full.
    """
    key = cache_key([path for pair in pairs for path in pair.files], resolution, *_keys(pair.mask for pair in pairs))
    files = cache / f"images-{key}.npy", cache / f"masks-{key}.npy"
    size = (len(pairs), resolution, resolution)
    kind = np.uint8 if pairs[0].mask.decoding.settings.classes else np.bool_

    def stored() -> tuple[Images, Masks] | None:
        images, masks = stored_array(files[0], np.uint8, (*size, 3)), stored_array(files[1], kind, size)
        return None if images is None or masks is None else (images, masks)

    with one_at_a_time(cache):
        found = stored()
        if found is None:
            with array_file(files[0], len(pairs)) as add_images, array_file(files[1], len(pairs)) as add_masks:
                for start in progress.track(range(0, len(pairs), CHUNK), "reading pairs"):
                    images, masks = read_squared(pairs[start : start + CHUNK], resolution)
                    add_images(images)
                    add_masks(masks)
            found = stored()
    return require_written(found, cache)


def require_lesions(masks: Masks, folder: DataFolder) -> None:
    """There is something to learn from masks (N, R, R) of a folder.

    Raises:
        InputError: every one of them is empty, or every one is full; or a class is in none of them.
    """
    parts = [np.asarray(masks[start : start + CHUNK]) for start in range(0, len(masks), CHUNK)]
    held = np.sum([np.bincount(part.astype(np.uint8).ravel(), minlength=256) for part in parts], 0)
    for number, name in enumerate(folder.decoding.class_names, 1):
        if not held[number]:
            raise InputError(
                f"{folder.path}: none of its {len(masks)} masks shows {name} at {masks.shape[1]} x {masks.shape[1]} "
                "pixels; leave it out of data.classes"
            )
    for what, nothing in (
        ("empty", not any(part.any() for part in parts)),
        ("full", bool((held != 0).sum() == 1 and not held[0])),
    ):
        if nothing:
            raise InputError(
                f"{folder.path}: each of its {len(masks)} masks is {what} at {masks.shape[1]} x {masks.shape[1]} "
                f"pixels; `siamese-diffusion check {folder.path}` says how they are read"
            )


def map_images(images: Sequence[ImageFile], resolution: int, cache: Path) -> Images:
    """The images (N, R, R, 3) of files without masks, as `map_pairs` does it; errors as there."""
    file = cache / f"images-{cache_key([image.path for image in images], resolution, *_keys(images))}.npy"
    with one_at_a_time(cache):
        found = stored_array(file, np.uint8, (len(images), resolution, resolution, 3))
        if found is None:
            with ThreadPoolExecutor() as pool, array_file(file, len(images)) as add:
                for start in progress.track(range(0, len(images), CHUNK), "reading images"):
                    part = images[start : start + CHUNK]
                    add(np.stack(list(pool.map(lambda image: image.squared(resolution), part))))
            found = stored_array(file, np.uint8, (len(images), resolution, resolution, 3))
    return require_written(found, cache)


def require_written(found: Stored | None, cache: Path) -> Stored:
    """What was just written to a cache, and read back.

    Raises:
        InputError: it was not what had been written.
    """
    if found is None:
        raise InputError(f"{cache}: what is written there is not what is read back; use another disk")
    return found


def _keys(files: Iterable[ImageFile | MaskFile]) -> list[dict[str, Any]]:
    """What the files' decodings depend on, where that is anything, so that a cache is of what is asked for."""
    decodings = {id(file.decoding): (file.decoding, isinstance(file, MaskFile)) for file in files}
    keys = [decoding.key if masks else decoding.image_key for decoding, masks in decodings.values()]
    return [key for key in keys if key]


def remove_arrays(cache: Path) -> None:
    """Remove what `map_pairs` and `map_images` wrote, and features; maps that are open stay good."""
    for kind in ("images", "masks", "features"):
        for path in cache.glob(f"{kind}-*.npy"):
            try:
                path.unlink()
            except OSError:  # another process was faster, or the system keeps files that are mapped
                continue


def cache_key(paths: Sequence[Path], *more: Any) -> str:
    """A key of files that changes when one of them is replaced: of their paths, sizes and times, and of `more` JSON
    values.

    A member of an archive goes by its archive's size and time. A file that is not there counts too.
    """
    known: dict[Path, list[int]] = {}

    def state(path: Path) -> list[int]:
        file = path.parent if is_member(path) else path
        if file not in known:
            known[file] = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else []
        return known[file]

    return hash_json([[[str(path.absolute()), *state(path)] for path in paths], *more])


def load_pairs(pairs: Sequence[Pair], resolution: int) -> tuple[Images, Masks]:
    """Images (N, R, R, 3) and masks (N, R, R) at `resolution` pixels, in memory; for many, see `arrays.map_pairs`.

    Raises:
        InputError: a file cannot be read, or an image and its mask differ in size.
    """
    starts = progress.track(range(0, len(pairs), CHUNK), "reading pairs")
    parts = [read_squared(pairs[start : start + CHUNK], resolution) for start in starts]
    return np.concatenate([images for images, _ in parts]), np.concatenate([masks for _, masks in parts])


def load_images(images: Sequence[ImageFile], resolution: int) -> Images:
    """Images (N, R, R, 3) at `resolution` pixels.

    Raises:
        InputError: a file cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda image: image.squared(resolution), images)
        return np.stack(list(progress.track(read, "reading images", len(images))))


def to_tensor(images: Images) -> Tensor:
    """(N, R, R, 3) 0..255 to float (N, 3, R, R) in [-1, 1]."""
    return torch.from_numpy(np.array(images, order="C")).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(tensor: Tensor) -> Images:
    """Float (N, 3, R, R) in [-1, 1] to (N, R, R, 3) 0..255, rounded."""
    scaled = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
