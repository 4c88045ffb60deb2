"""Folders of image-mask pairs: find them in the layouts the field uses, and read them.

The path of an image or mask may be that of a member of an archive; see `tars`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from siamese_diffusion.data.images import SUFFIXES, Mask, Pixels, read_image, read_mask, square
from siamese_diffusion.data.shards import MANIFEST, find_shards, read_shards
from siamese_diffusion.data.tars import base_name, exists
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, require_folder

__all__ = [
    "Pair",
    "find_images",
    "find_masks",
    "find_pairs",
    "read_image",
    "read_mask",
    "read_pair",
    "splits",
    "square",
    "test_sets",
]


Item = TypeVar("Item")


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    name: str
    image: Path
    mask: Path
    prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of `pairs.jsonl`: where a synthetic pair comes from."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds, before anything is read."""

    layout: str
    images: dict[str, Path]
    masks: dict[str, Path]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    doubled: list[Path] = field(default_factory=list)
    """Files whose base name another file of the same kind has."""
    broken: list[tuple[Path, str]] = field(default_factory=list)
    """A manifest and what is wrong with a row of it, which is left out; or a shard and what is wrong with it."""


_NAMES = (("images", "masks"), ("image", "mask"), ("image", "masks"), ("images", "mask"))
_ISIC = "_segmentation"


def list_folder(folder: Path) -> Listing:
    """Images and masks of `folder` by base name, whatever the layout; nothing is matched or opened.

    Raises:
        InputError: the folder is not there, or holds no layout that is known.
    """
    require_folder(folder, "data folder")
    listing = _detect(folder)
    if listing is None:
        raise InputError(
            f"{folder}: no image-mask pairs found; expected images/ and masks/, a PraNet or ISIC release, "
            "pairs.jsonl, prompt.json or shards/*.tar"
        )
    return listing


def _detect(folder: Path) -> Listing | None:
    if (folder / "pairs.jsonl").exists():
        return _manifest(folder, "pairs.jsonl", "image", "mask")
    if (folder / "prompt.json").exists():
        return _manifest(folder, "prompt.json", "target", "source")
    if find_shards(folder) or (folder / MANIFEST).exists():
        return Listing("WebDataset shards", *read_shards(folder))
    if (folder / "TrainDataset").is_dir():
        return _detect(folder / "TrainDataset")
    by_name = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    for image_name, mask_name in _NAMES:
        if image_name in by_name and mask_name in by_name:
            return _two_folders("images and masks", by_name[image_name], by_name[mask_name])
    truth = [child for child in by_name.values() if any(child.glob(f"*{_ISIC}.*"))]
    inputs = [child for child in by_name.values() if child not in truth and any(child.glob("ISIC_*"))]
    if len(truth) == 1 and len(inputs) == 1:
        return _two_folders("ISIC challenge", inputs[0], truth[0])
    if any(folder.glob(f"*{_ISIC}.*")):
        return _two_folders("ISIC challenge", folder, folder)
    return None


def find_pairs(folder: Path, split: str | None = None, limit: int | None = None, limit_seed: int = 0) -> list[Pair]:
    """The pairs of a folder, by name.

    Args:
        folder: see `list_folder` for the layouts.
        split: a list of `splits.json`; without that file it is ignored, but for PraNet's release, whose "test" is
            every set of `TestDataset`. That folder itself may be given, with "test" or None.
        limit: draw this many; a smaller draw with the same seed is part of a larger one.
        limit_seed: of that draw.

    Raises:
        InputError: no pairs, an image or mask without its partner, two of the same name, an unknown split, or fewer
            pairs than `limit`.
    """
    sets = test_sets(folder)
    # Never for "train": a training run pointed at TestDataset must not learn from it.
    if sets and (split == "test" or (split is None and _detect(folder) is None)):
        pairs = [
            Pair(f"{name}-{pair.name}", pair.image, pair.mask, pair.prompt)
            for name, inner in sets.items()
            for pair in find_pairs(inner)
        ]
    else:
        listing = list_folder(folder)
        _refuse_broken(listing, folder)
        _refuse(listing.doubled, folder, "has the base name of another file")
        _refuse((listing.images[n] for n in sorted(listing.images.keys() - listing.masks.keys())), folder, "has no mask")
        _refuse((listing.masks[n] for n in sorted(listing.masks.keys() - listing.images.keys())), folder, "has no image")
        pairs = [_pair(listing, name) for name in sorted(listing.images)]
        pairs = _in_split(pairs, folder, split)
    if not pairs:
        raise InputError(f"{folder}: no image-mask pairs")
    return _draw(pairs, limit, limit_seed, f"{folder} has {len(pairs)} pairs" + (f" in {split}" if split else ""))


def find_images(folder: Path, split: str | None = None) -> list[Path]:
    """Image files for use without masks: those of a folder of pairs, else all at or below `folder`.

    Raises:
        InputError: there are none, or `split` is unknown.
    """
    require_folder(folder, "image folder")
    listing = _detect(folder)
    if test_sets(folder) and (split == "test" or listing is None):
        return [pair.image for pair in find_pairs(folder, split)]
    if listing is None:
        found = sorted(path for path in folder.rglob("*") if _is_image(path))
    else:
        _refuse_broken(listing, folder)
        pairs = [Pair(name, path, path) for name, path in sorted(listing.images.items())]
        found = [pair.image for pair in _in_split(pairs, folder, split)]
    if not found:
        raise InputError(f"{folder}: no images (JPEG, PNG, TIFF or BMP)")
    return found


def find_masks(
    folder: Path, split: str | None = None, limit: int | None = None, limit_seed: int = 0
) -> list[tuple[str, Path]]:
    """Names and files of masks: those of a folder of pairs (as `find_pairs` picks them), else its image files.

    Raises:
        InputError: there are none, or see `find_pairs`.
    """
    require_folder(folder, "mask folder")
    if _detect(folder) is None and not test_sets(folder):
        masks = _files(folder)
        if not masks:
            raise InputError(f"{folder}: no masks, and no image-mask pairs")
        counts = Counter(path.stem for path in masks)
        _refuse((path for path in masks if counts[path.stem] > 1), folder, "has the base name of another file")
        named = sorted((path.stem, path) for path in masks)
        return _draw(named, limit, limit_seed, f"{folder} has {len(masks)} masks")
    return [(pair.name, pair.mask) for pair in find_pairs(folder, split, limit, limit_seed)]


def splits(folder: Path) -> dict[str, list[str]] | None:
    """The lists of `splits.json`, name of the list to base names; None without that file.

    Raises:
        InputError: the file is not a mapping of lists of names.
    """
    path = folder / "splits.json"
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values()
    ):
        raise InputError(f"{path}: expected lists of base names, as in {{'train': [...], 'test': [...]}}")
    return value


def test_sets(folder: Path) -> dict[str, Path]:
    """Folders of the test sets of a PraNet release (given at its top or at `TestDataset`); empty for other layouts."""
    top = folder / "TestDataset" if (folder / "TestDataset").is_dir() else folder
    if top.name != "TestDataset" or not top.is_dir() or _detect(top) is not None:
        return {}
    return {child.name: child for child in sorted(top.iterdir()) if child.is_dir() and not child.name.startswith(".")}


def prompt_of(label: str) -> str:
    """What is asked of a generator where a pair has no prompt of its own: `label` is what the mask marks."""
    return f"A photo of {label}"


def read_pair(pair: Pair) -> tuple[Pixels, Mask]:
    """Image uint8 (H, W, 3) and mask boolean (H, W).

    Raises:
        InputError: a file cannot be read, or their sizes differ.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{pair.mask}: is {mask.shape[1]} x {mask.shape[0]}, but its image {pair.image} is "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    return image, mask


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.stem.lower().endswith("_superpixels")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _two_folders(layout: str, images: Path, masks: Path) -> Listing:
    """ISIC marks its masks by `_segmentation`, in whatever folder; they match without it."""
    isic = any(path.stem.endswith(_ISIC) for path in _files(masks))
    mask_files = [path for path in _files(masks) if not isic or path.stem.endswith(_ISIC)]
    image_files = [path for path in _files(images) if images != masks or not path.stem.endswith(_ISIC)]
    doubled: list[Path] = []

    def by_name(files: list[Path]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in files:
            name = path.stem.removesuffix(_ISIC)
            if name in found:
                doubled.append(path)
            found.setdefault(name, path)
        return found

    return Listing("ISIC challenge" if isic else layout, by_name(image_files), by_name(mask_files), {}, doubled)


def _manifest(folder: Path, name: str, image_key: str, mask_key: str) -> Listing:
    path = folder / name
    images, masks, rows, doubled, broken = {}, {}, {}, [], []
    for number, row in enumerate(read_jsonl(path), start=1):
        wrong = [
            f"line {number} has no {key!r}"
            if not isinstance(row.get(key), str)
            else f"line {number} names {row[key]}, which is not there"
            for key in (image_key, mask_key)
            if not isinstance(row.get(key), str) or not exists(folder / row[key])
        ]
        if wrong:
            broken += [(path, detail) for detail in wrong]
            continue
        image = folder / row.pop(image_key)
        pair = base_name(image)
        if pair in images:
            doubled.append(image)
        images[pair], masks[pair], rows[pair] = image, folder / row.pop(mask_key), row
    return Listing(name, images, masks, rows, doubled, broken)


def _pair(listing: Listing, name: str) -> Pair:
    extra = dict(listing.rows.get(name, {}))
    return Pair(name, listing.images[name], listing.masks[name], extra.pop("prompt", None), extra)


def _in_split(pairs: list[Pair], folder: Path, split: str | None) -> list[Pair]:
    lists = splits(folder)
    if lists is None or split is None:
        return pairs
    if split not in lists:
        raise InputError(f"data.split = {split}: {folder / 'splits.json'} has {', '.join(lists)}")
    known = {pair.name: pair for pair in pairs}
    lost = [name for name in lists[split] if name not in known]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"{folder / 'splits.json'}: {split} names {lost[0]}{more}, which is not there")
    return [known[name] for name in sorted(set(lists[split]))]


def _draw(items: list[Item], limit: int | None, seed: int, has: str) -> list[Item]:
    """`limit` of the items in their order; with the same seed a smaller draw is part of a larger one."""
    if limit is None:
        return items
    if limit > len(items):
        raise InputError(f"data.limit = {limit}: {has}")
    order = np.random.default_rng(seed).permutation(len(items))[:limit]
    return [items[i] for i in sorted(order)]


def _refuse_broken(listing: Listing, folder: Path) -> None:
    if listing.broken:
        path, detail = listing.broken[0]
        more = f", and {len(listing.broken) - 1} more" if len(listing.broken) > 1 else ""
        raise InputError(f"{path}: {detail}{more}; `siamese-diffusion check {folder}` lists every problem")


def _refuse(files: Iterable[Path], folder: Path, reason: str) -> None:
    wrong = list(files)
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}: {reason}{more}; `siamese-diffusion check {folder}` lists every problem")
