"""A folder of pairs, opened once at a command's door and handed on: its layout, its pairs, its splits and test sets.

Design note: opening lists files and reads manifests, no image. What is wrong with a folder is told when the part that is
wrong is asked for, so that images can be had of a folder whose masks are missing.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import Decoding, MaskSource
from siamese_diffusion.data.layouts import LAYOUTS, Listing, detect
from siamese_diffusion.data.layouts.listing import image_files, is_image
from siamese_diffusion.data.opening import KINDS
from siamese_diffusion.data.pairs import ImageFile, MaskFile, Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_folder, require_kind

Item = TypeVar("Item")

SPLITS = "splits.json"


class DataFolder:
    """A folder of image-mask pairs in one of the field's layouts (`data.layouts`), or of images or masks alone.

    Args:
        path: the folder.
        option: what the user gave it with, for errors.
        settings: `data` of the settings, which say how files are read; default: the defaults.

    Attributes:
        listing: its files as the layout finds them; None where no layout fits.

    Raises:
        InputError: there is no such folder, or its manifest cannot be read.
    """

    def __init__(self, path: Path, option: str = "data folder", settings: DataConfig | None = None) -> None:
        require_folder(path, option)
        self.path, self.settings = path, settings
        self.listing = detect(path)

    @classmethod
    def of(
        cls, source: "Path | DataFolder", option: str = "data folder", settings: DataConfig | None = None
    ) -> "DataFolder":
        """`source` as it is where it is open already, else opened."""
        return source if isinstance(source, DataFolder) else cls(source, option, settings)

    @cached_property
    def decoding(self) -> Decoding:
        """How its files are read, those of its test sets too."""
        if self.listing is None:
            files = image_files(self.path)
            return Decoding(self.settings, files, [MaskSource((path,)) for path in files])
        listings = [self.listing, *self.listing.test_sets.values()]
        images = [path for listing in listings for path in listing.images.values()]
        return Decoding(self.settings, images, [mask for listing in listings for mask in listing.masks.values()])

    @cached_property
    def lists(self) -> dict[str, list[str]] | None:
        """The lists of `splits.json`, name of the list to base names; None without that file.

        Raises:
            InputError: the file is not a mapping of lists of names.
        """
        path = self.path / SPLITS
        if not path.exists():
            return None
        value = read_json(path)
        require_kind(value, dict[str, list[str]], f"{path}: expected lists of base names, as in {{'train': [...]}}")
        lists: dict[str, list[str]] = value
        return lists

    @cached_property
    def test_sets(self) -> dict[str, list[Pair]]:
        """The pairs of each set that the layout keeps apart for testing, by name: PraNet's; empty for other layouts.

        Raises:
            InputError: see `pairs`.
        """
        sets = self.listing.test_sets if self.listing is not None else {}
        return {name: _matched(listing, self.path, self.decoding) for name, listing in sets.items()}

    def pairs(self, split: str | None = None, limit: int | None = None, limit_seed: int = 0) -> list[Pair]:
        """The pairs, by name.

        Args:
            split: a list of `splits.json`; without that file it is ignored, but for PraNet's release, whose "test" is
                every set of `TestDataset`. That folder itself may be given, with "test" or None.
            limit: draw this many; a smaller draw with the same seed is part of a larger one.
            limit_seed: of that draw.

        Raises:
            InputError: no pairs, an image or mask without its partner, two of the same name, an unknown split, or fewer
                pairs than `limit`.
        """
        # Never for "train": a training run pointed at TestDataset must not learn from it.
        pairs = (
            self._all_test_pairs()
            if self._means_tests(split)
            else list(self._in_split({pair.name: pair for pair in self._own}, split).values())
        )
        if not pairs:
            raise InputError(f"{self.path}: no image-mask pairs")
        return _draw(pairs, limit, limit_seed, f"{self.path} has {len(pairs)} pairs" + (f" in {split}" if split else ""))

    def images(self, split: str | None = None) -> list[ImageFile]:
        """Images for use without masks: those of the pairs, else all at or below the folder.

        Raises:
            InputError: there are none, or `split` is unknown.
        """
        if self._means_tests(split):
            found = [pair.image for pair in self._all_test_pairs()]
        elif self.listing is None:
            found = [ImageFile(path, self.decoding) for path in sorted(self.path.rglob("*")) if is_image(path)]
        else:
            _refuse_broken(self.listing, self.path)
            images = {name: ImageFile(path, self.decoding) for name, path in sorted(self.listing.images.items())}
            found = list(self._in_split(images, split).values())
        if not found:
            what = f"images ({KINDS})" if self.listing is None else "image-mask pairs"
            raise InputError(f"{self.path}: no {what}")
        return found

    def masks(self, split: str | None = None, limit: int | None = None, limit_seed: int = 0) -> list[tuple[str, MaskFile]]:
        """Names and masks: those of the pairs (as `pairs` picks them), else the folder's image files.

        Raises:
            InputError: there are none, or see `pairs`.
        """
        if self.listing is not None:
            return [(pair.name, pair.mask) for pair in self.pairs(split, limit, limit_seed)]
        files = image_files(self.path)
        if not files:
            raise InputError(f"{self.path}: no masks, and no image-mask pairs")
        counts = Counter(path.stem for path in files)
        _refuse((path for path in files if counts[path.stem] > 1), self.path, "has the base name of another file")
        named = [
            (path.stem, MaskFile(MaskSource((path,)), self.decoding)) for path in sorted(files, key=lambda path: path.stem)
        ]
        return _draw(named, limit, limit_seed, f"{self.path} has {len(files)} masks")

    def require_listing(self) -> Listing:
        """The listing.

        Raises:
            InputError: no layout fits the folder.
        """
        if self.listing is None:
            raise InputError(f"{self.path}: no image-mask pairs found; expected {', '.join(LAYOUTS)}")
        return self.listing

    @cached_property
    def _own(self) -> list[Pair]:
        return _matched(self.require_listing(), self.path, self.decoding)

    def _means_tests(self, split: str | None) -> bool:
        if self.listing is None or not self.listing.test_sets:
            return False
        return split == "test" or (split is None and not self.listing.images)

    def _all_test_pairs(self) -> list[Pair]:
        return [
            Pair(f"{name}-{pair.name}", pair.image, pair.mask, pair.prompt)
            for name, pairs in self.test_sets.items()
            for pair in pairs
        ]

    def _in_split(self, named: dict[str, Item], split: str | None) -> dict[str, Item]:
        if self.lists is None or split is None:
            return named
        if split not in self.lists:
            raise InputError(f"data.split = {split}: {self.path / SPLITS} has {', '.join(self.lists)}")
        lost = [name for name in self.lists[split] if name not in named]
        if lost:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise InputError(f"{self.path / SPLITS}: {split} names {lost[0]}{more}, which is not there")
        return {name: named[name] for name in sorted(set(self.lists[split]))}


def _matched(listing: Listing, folder: Path, decoding: Decoding) -> list[Pair]:
    """The pairs of a listing, by name; one that does not match is an error."""
    images, masks = listing.images, listing.masks
    _refuse_broken(listing, folder)
    _refuse(listing.doubled, folder, "has the base name of another file")
    _refuse((images[name] for name in sorted(images.keys() - masks.keys())), folder, "has no mask")
    _refuse((masks[name].path for name in sorted(masks.keys() - images.keys())), folder, "has no image")
    pairs = []
    for name in sorted(images):
        extra = dict(listing.rows.get(name, {}))
        image, mask = ImageFile(images[name], decoding), MaskFile(masks[name], decoding)
        pairs.append(Pair(name, image, mask, extra.pop("prompt", None), extra))
    return pairs


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
