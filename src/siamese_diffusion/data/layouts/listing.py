"""What a folder of pairs holds, before anything is matched or opened."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.images import SUFFIXES


@dataclass(frozen=True)
class Listing:
    """Images and masks by base name, as a layout finds them."""

    layout: str
    images: dict[str, Path]
    masks: dict[str, MaskSource]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further columns of a manifest."""
    doubled: list[Path] = field(default_factory=list)
    """Files whose base name another file of the same kind has."""
    broken: list[tuple[Path, str]] = field(default_factory=list)
    """A manifest and what is wrong with a row of it, which is left out; or a shard and what is wrong with it."""
    test_sets: dict[str, "Listing"] = field(default_factory=dict)
    """Sets that the folder keeps apart for testing."""


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name; hidden ones and ISIC's super-pixels are none."""
    return sorted(path for path in folder.iterdir() if is_image(path))


def is_image(path: Path) -> bool:
    """Whether a path is that of an image file, by its extension."""
    hidden = path.name.startswith(".") or path.stem.lower().endswith("_superpixels")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


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
