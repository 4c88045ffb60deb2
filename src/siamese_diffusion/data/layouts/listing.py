"""What a folder of pairs holds, before anything is matched or opened."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.images import SUFFIXES
from siamese_diffusion.data.prepared import Prepared

NO_EXTENSION = "without extension"
NOT_READ = "not read, for their formats"
_PICTURES = (
    ".dcm .nii .gz .mhd .mha .nrrd .npy .npz .mat .svs .webm .mp4 .avi .heic .avif .psd .raw .img .pgm .ppm .tga .pdf "
    ".eps .zip .rar .7z"
)
PICTURES = frozenset(_PICTURES.split())
"""Extensions of pictures, volumes, videos and archives that this package does not read as pairs."""


@dataclass(frozen=True)
class Listing:
    """Images and masks by name, as a layout finds them."""

    layout: str
    images: dict[str, Path]
    masks: dict[str, MaskSource]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further columns of a manifest."""
    doubled: list[Path] = field(default_factory=list)
    """Files whose base name another file of the same kind has."""
    broken: list[tuple[Path, str]] = field(default_factory=list)
    """A file and what is wrong with it: a manifest with a bad row, which is left out; a shard; a link that leads
    nowhere."""
    test_sets: dict[str, "Listing"] = field(default_factory=dict)
    """Sets that the folder keeps apart for testing."""
    groups: dict[str, str] = field(default_factory=dict)
    """What a pair shares with others that must not be parted from it, a patient for example, by the pair's name."""
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Names of the pairs of each split, where sub-folders or a manifest say so."""
    classes: dict[int, str] = field(default_factory=dict)
    """Names of the labels in the masks, where a layout knows them; 0 is the background."""
    notes: list[str] = field(default_factory=list)
    """What was matched otherwise than by equal names, or left out: a line each for the user."""
    prepared: Prepared | None = None
    """What `prepare` said of the folder, where it wrote it."""
    root: Path | None = None
    """The folder inside the one given that holds everything, where that holds nothing else."""


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name; hidden ones and ISIC's super-pixels are none."""
    return sorted(path for path in folder.iterdir() if is_image(path))


def is_image(path: Path) -> bool:
    """Whether a path is that of an image file, by its extension."""
    return named_as_image(path) and path.is_file()


def named_as_image(path: Path) -> bool:
    """Whether a path would be that of an image file if it led to one."""
    hidden = path.name.startswith(".") or path.stem.lower().endswith("_superpixels")
    return path.suffix.lower() in SUFFIXES and not hidden


def dead_links(folder: Path) -> list[tuple[Path, str]]:
    """Links of a folder that are called like images and lead nowhere, as `Listing.broken` has them."""
    links = (path for path in folder.iterdir() if path.is_symlink() and named_as_image(path) and not path.exists())
    return [(path, "is a link that leads nowhere") for path in sorted(links)]


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders at and below `folder` with the names of their files, in order; hidden and system folders left out."""
    seen = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        if real in seen:  # a link in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield Path(top), sorted(name for name in files if not name.startswith("."))


def one_file_each(files: dict[str, Path]) -> dict[str, MaskSource]:
    """Masks that are a file each."""
    return {name: MaskSource((path,)) for name, path in files.items()}


def by_base_name(files: Iterable[Path], suffix: str = "") -> tuple[dict[str, Path], list[Path]]:
    """Files by base name without `suffix`, the first of each; and the others."""
    found: dict[str, Path] = {}
    doubled = []
    for path in files:
        name = path.stem.removesuffix(suffix)
        if name in found:
            doubled.append(path)
        found.setdefault(name, path)
    return found, doubled


def seen_in(folder: Path, most: int = 12) -> str:
    """What a folder holds, for an error: its sub-folders with the extensions of their files and how many there are."""
    parts = []
    for top, files in walk(folder):
        counts = Counter(
            "".join(Path(name).suffixes[-2:]) if name.endswith(".gz") else Path(name).suffix for name in files
        )
        if counts:
            where = "." if top == folder else f"{top.relative_to(folder)}/"
            parts.append(
                f"{where} ({', '.join(f'{count} {kind or NO_EXTENSION}' for kind, count in counts.most_common(4))})"
            )
        if len(parts) > most:
            return ", ".join([*parts[:most], "..."])
    return ", ".join(parts) or "nothing"


def not_read(folder: Path) -> str | None:
    """A line on the pictures of a folder in formats that are not read."""
    return counted(Counter(path.suffix.lower() for path in folder.iterdir()))


def counted(extensions: Mapping[str, int]) -> str | None:
    """The line, from files by extension."""
    kinds = [f"{count} {kind}" for kind, count in sorted(extensions.items()) if kind in PICTURES]
    return f"{NOT_READ}: {', '.join(kinds)}" if kinds else None
