"""What `predict` looks at: an image, the frames of a video or an animation, or a folder of images, each by its name."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from siamese_diffusion import progress
from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import SUFFIXES, Pixels, read_header
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.errors import InputError, refused

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".webm", ".wmv", ".m4v"})
ANIMATED = frozenset({".gif", ".webp", ".png"})


@dataclass(frozen=True)
class Source:
    """Named images, in a fixed order."""

    files: list[Path]
    count: int
    images: dict[str, ImageFile]
    """By name; empty for a video or an animation."""

    def __iter__(self) -> Iterator[tuple[str, Pixels | ImageFile]]:
        if self.images:
            yield from self.images.items()
        else:
            yield from (_frames if self.files[0].suffix.lower() in VIDEOS else _pages)(self.files[0])


def open_source(path: Path, settings: DataConfig) -> Source:
    """An image, a video, or a folder of images, read as `settings` say, which are those the network was trained with.

    Raises:
        InputError: there is no such file, or nothing in it can be read as an image.
    """
    if path.is_dir():
        found = DataFolder(path, "--images", settings).images()
        named: dict[str, ImageFile] = {}
        for image in found:
            inside = image.path.relative_to(path) if image.path.is_relative_to(path) else Path(image.path.name)
            name = image.path.stem if len(found) == len({each.path.stem for each in found}) else _flat(inside)
            if name in named:
                raise InputError(f"{image.path}: has the base name of {named[name].path}; rename one of them")
            named[name] = image
        _require_readable([image.path for image in found], settings)
        return Source([image.path for image in found], len(found), named)
    if not path.exists():
        raise InputError(f"--images {path}: no such file or folder")
    if path.suffix.lower() in VIDEOS:
        return Source([path], _frame_count(path), {})
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES | VIDEOS))
        raise InputError(f"--images {path}: neither an image nor a video by its extension (known: {known})")
    frames = read_header(path, settings.max_pixels).pages
    if frames > 1 and path.suffix.lower() in ANIMATED:
        return Source([path], frames, {})
    _require_readable([path], settings)
    return Source([path], 1, {path.stem: ImageFile(path, Decoding(settings, [path]))})


def _require_readable(paths: Sequence[Path], settings: DataConfig) -> None:
    """Refuse, before anything is written, what is no image, and several images in one file: the first is not all."""
    with ThreadPoolExecutor() as pool:
        headers = pool.map(lambda path: read_header(path, settings.max_pixels), paths)
        for path, header in zip(paths, headers, strict=True):
            if header.pages > 1:
                raise InputError(
                    f"{path}: holds {header.pages} images; give an animation alone, as --images, and split up a stack "
                    "of pages"
                )


def _pages(path: Path) -> Iterator[tuple[str, Pixels]]:
    """The frames of an animation."""
    with refused(f"{path}: the animation is damaged"), Image.open(path) as picture:
        for number, frame in enumerate(ImageSequence.Iterator(picture), start=1):
            yield f"{path.stem}-{number:06d}", np.array(frame.convert("RGB"))


def _flat(inside: Path) -> str:
    return "-".join(inside.with_suffix("").parts)


def _frame_count(path: Path) -> int:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise InputError(f"--images {path}: the video cannot be read")
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def _frames(path: Path) -> Iterator[tuple[str, Pixels]]:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            number += 1
            yield f"{path.stem}-{number:06d}", np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if not number:
            raise InputError(f"--images {path}: the video has no frame that can be read")
        if number < (promised := int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
            progress.notify(f"--images {path}: {number} of the {promised} frames that it promises could be read")
    finally:
        video.release()
