"""A folder of pairs, opened once at a command's door and handed on: its layout, its pairs, its splits and test sets.

Design note: opening lists files and reads manifests; an image is only looked at where names leave open what it is. What
is wrong with a folder is told when the part that is wrong is asked for, so that images can be had of a folder whose
masks are missing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.config import Config, DataConfig, update
from siamese_diffusion.data.clinical.told import told
from siamese_diffusion.data.decided import read_decided
from siamese_diffusion.data.decoding import Decoding, MaskSource, plain_settings
from siamese_diffusion.data.layouts import LAYOUTS, Listing, coco, detect, manifest, patterns
from siamese_diffusion.data.layouts.listing import NOT_READ, dead_links, image_files, is_image, seen_in
from siamese_diffusion.data.layouts.names import Name
from siamese_diffusion.data.layouts.paths import inside
from siamese_diffusion.data.layouts.words import meaning, says_mask
from siamese_diffusion.data.pairs import ImageFile, MaskFile, Pair
from siamese_diffusion.data.photographs import photographs, posterised
from siamese_diffusion.data.shards import find_shards
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, require_kind
from siamese_diffusion.progress import notify

Item = TypeVar("Item")

SPLITS, MANIFEST = "splits.json", "pairs.jsonl"


class DataFolder:
    """A folder of image-mask pairs in one of the field's layouts (`data.layouts`), or of images or masks alone.

    Args:
        path: the folder.
        option: what the user gave it with, for errors.
        settings: `data` of the settings, which say how files are read; default: the defaults.
        listing: its files, where they are known; default: as the first layout that knows the folder finds them.

    Attributes:
        listing: its files as the layout finds them; None where no layout fits.
        named: the folder with its option, for errors.

    Raises:
        InputError: there is no such folder, its manifest cannot be read, or it could be read in two ways.
    """

    def __init__(
        self,
        path: Path,
        option: str = "data folder",
        settings: DataConfig | None = None,
        listing: Listing | None = None,
    ) -> None:
        self.path, self.settings = path, settings
        self.named = f"{option} {path}" if option.startswith("-") else str(path)
        _require_folder(path, self.named)
        found = listing or _by_hand(path, settings) or detect(path)
        self.listing = found if found is None or (settings and settings.outside) else _inside(found, path)
        self._told = False
        if self.listing is not None and self.listing.prepared is not None and settings is not None:
            idle = self.listing.prepared.idle(settings)
            note = f"written by `prepare`; not applied once more: data.{', data.'.join(idle)}"
            self.listing.notes.extend([note] if idle else [])

    @classmethod
    def of(
        cls, source: "StrPath | DataFolder", option: str = "data folder", settings: DataConfig | None = None
    ) -> "DataFolder":
        """`source` as it is where it is open already, else opened."""
        return source if isinstance(source, DataFolder) else cls(to_path(source, option), option, settings)

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def decoding(self) -> Decoding:
        """How its files are read, those of its test sets too."""
        if self.listing is None:
            files = image_files(self.path)
            return Decoding(self.settings, files, [MaskSource((path,)) for path in files])
        listings = [self.listing, *self.listing.test_sets.values()]
        images = [path for listing in listings for path in listing.images.values()]
        masks = [mask for listing in listings for mask in listing.masks.values()]
        pairs = [
            (listing.images[name], listing.masks[name])
            for listing in listings
            for name in listing.images
            if name in listing.masks
        ]
        settings = self.settings
        if (prepared := self.listing.prepared) is not None:
            settings = prepared.settings(settings or DataConfig(), self.path)
        elif settings is not None and self.listing.rows and all(map(_is_synthetic, self.listing.rows.values())):
            settings = plain_settings(settings)
        names = {name: value for listing in listings for value, name in listing.classes.items()}
        decided = read_decided(self.path) if self.listing.layout == MANIFEST else None
        return Decoding(settings, images, masks, pairs, names, decided)

    @cached_property
    def lists(self) -> dict[str, list[str]] | None:
        """Names of pairs by the list of `splits.json`, else by the split of the layout; None without either.

        Raises:
            InputError: the file is not a mapping of lists of names.
        """
        path = self.splits_file
        if not path.exists():
            return dict(self.listing.splits) or None if self.listing is not None else None
        value = read_json(path)
        require_kind(value, dict[str, list[str]], f"{path}: expected lists of base names, as in {{'train': [...]}}")
        return {split: self._as_named(names) for split, names in value.items()}

    @property
    def splits_file(self) -> Path:
        """Where `splits.json` is, or would be."""
        root = self.listing.root if self.listing is not None else None
        return (self.path if root is None or (self.path / SPLITS).exists() else root) / SPLITS

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
            raise InputError(f"{self.named}: no image-mask pairs; it holds {seen_in(self.path)}")
        self.tell()
        return _draw(
            pairs, limit, limit_seed, f"{self.path} has {len(pairs)} pairs" + (f" in {split}" if split else "")
        )

    def images(self, split: str | None = None) -> list[ImageFile]:
        """Images for use without masks: those of the pairs, else all at or below the folder.

        Raises:
            InputError: there are none, or `split` is unknown.
        """
        if self._means_tests(split):
            found = [pair.image for pair in self._all_test_pairs()]
        elif self.listing is None:
            found = [ImageFile(path, self.decoding) for path in self._pictures()]
        else:
            _refuse_broken(self.listing, self.path)
            images = {name: ImageFile(path, self.decoding) for name, path in sorted(self.listing.images.items())}
            found = list(self._in_split(images, split).values())
        if not found:
            self._require_plain()
            what = f"images; it holds {seen_in(self.path)}" if self.listing is None else "image-mask pairs"
            raise InputError(f"{self.named}: no {what}")
        self.tell()
        return found

    def masks(
        self, split: str | None = None, limit: int | None = None, limit_seed: int = 0
    ) -> list[tuple[str, MaskFile]]:
        """Names and masks: those of the pairs (as `pairs` picks them), else the folder's image files.

        Raises:
            InputError: there are none, they look like photographs, or see `pairs`.
        """
        if self.listing is not None:
            return [(pair.name, pair.mask) for pair in self.pairs(split, limit, limit_seed)]
        files = image_files(self.path)
        if not files:
            self._require_plain()
            raise InputError(f"{self.named}: no masks, and no image-mask pairs; it holds {seen_in(self.path)}")
        self._require_masks(files)
        counts = Counter(path.stem for path in files)
        _refuse((path for path in files if counts[path.stem] > 1), self.path, "has the base name of another file")
        named = [
            (path.stem, MaskFile(MaskSource((path,)), self.decoding))
            for path in sorted(files, key=lambda path: path.stem)
        ]
        return _draw(named, limit, limit_seed, f"{self.path} has {len(files)} masks")

    @property
    def holds_pairs(self) -> bool:
        """Whether any image has a mask; `check` tells what else is there."""
        listing = self.listing
        return listing is not None and bool(listing.images.keys() & listing.masks.keys() or listing.test_sets)

    def require_real(self) -> Self:
        """The folder itself, where real pairs are asked for.

        Raises:
            InputError: it holds pairs whose manifest says that they are synthetic.
        """
        rows = self.listing.rows if self.listing is not None else {}
        made = sorted(name for name, row in rows.items() if _is_synthetic(row))
        if made:
            raise InputError(
                f"{self.named}: {len(made)} of {len(rows)} pairs are synthetic, by their manifest ({made[0]} is one), "
                "and real pairs are asked for"
            )
        return self

    def resolved(self, config: Config) -> Config:
        """The settings with `data.classes` of "all" as the names that this folder gives its labels.

        Raises:
            InputError: see `Decoding.class_names`.
        """
        return update(config, "data", classes=self.decoding.class_names) if config.data.classes == "all" else config

    def require_listing(self) -> Listing:
        """The listing.

        Raises:
            InputError: no layout fits the folder.
        """
        if not self.holds_pairs:
            self._require_plain()
        if self.listing is None:
            raise InputError(f"{self.named}: no image-mask pairs found; {_would_fit(self.path)}")
        return self.listing

    def _require_plain(self) -> None:
        """Clinical files are read by `prepare` alone, and this folder holds no pairs of others."""
        kind = told(self.path)
        if kind is not None:
            command = f"siamese-diffusion prepare {self.path} --out PAIRS"
            raise InputError(f"{self.named}: holds {kind} files; `{command}` turns them into pairs")

    def tell(self) -> None:
        """Say once what was matched otherwise than by equal names, and what was left out."""
        if self.listing is not None and not self._told:
            for note in self.listing.notes:
                notify(f"{self.path}: {note}")
        self._told = True

    @cached_property
    def _own(self) -> list[Pair]:
        return _matched(self.require_listing(), self.path, self.decoding)

    def _means_tests(self, split: str | None) -> bool:
        if self.listing is None or not self.listing.test_sets:
            return False
        return split == "test" or (split is None and not self.listing.images)

    def _all_test_pairs(self) -> list[Pair]:
        return [
            Pair(f"{name}-{pair.name}", pair.image, pair.mask, pair.prompt, pair.extra)
            for name, pairs in self.test_sets.items()
            for pair in pairs
        ]

    def _in_split(self, named: dict[str, Item], split: str | None) -> dict[str, Item]:
        if self.lists is None or split is None:
            return named
        if split not in self.lists:
            raise InputError(f"data.split = {split}: {self._lists_are} has {', '.join(self.lists)}")
        lost = [name for name in self.lists[split] if name not in named]
        if lost:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise InputError(f"{self._lists_are}: {split} names {lost[0]}{more}, which is not there")
        return {name: named[name] for name in sorted(set(self.lists[split]))}

    @property
    def _lists_are(self) -> Path:
        return self.splits_file if self.splits_file.exists() else self.path

    def _as_named(self, names: list[str]) -> list[str]:
        """The names as the pairs bear them: in another Unicode form or case, or with an extension, they are the
        same."""
        known = self.listing.images if self.listing is not None else {}
        if all(name in known for name in names):
            return names
        alike = {Name((), name).plain: name for name in known}
        return [name if name in known else alike.get(Name((), name).plain, name) for name in names]

    def _pictures(self) -> list[Path]:
        """Images at and below the folder, but those in folders of masks and those called like the masks of others."""
        files = [path for path in sorted(self.path.rglob("*")) if is_image(path)]
        masks = {path for path in files if _is_in_masks(path.relative_to(self.path))}
        beside = {(path.parent, path.stem) for path in files}
        masks |= {path for path in files if _is_mask_beside(path, beside)}
        found = [path for path in files if path not in masks]
        if meaning(self.path.name).role == "mask" and found and not photographs(found):
            raise InputError(f"{self.named}: holds masks, not images")
        if masks and found and not self._told:
            notify(f"{self.path}: left out, {len(masks)} files that are called masks; {len(found)} images remain")
        return found

    def _require_masks(self, files: list[Path]) -> None:
        """Photographs are never taken for masks, nor links that lead nowhere for nothing."""
        if links := dead_links(self.path):
            raise InputError(f"{links[0][0]}: {links[0][1]}{f', and {len(links) - 1} more' if len(links) > 1 else ''}")
        wrong = photographs(files)
        if wrong:
            raise InputError(
                f"{self.named}: holds photographs, not masks ({wrong[0].name} is one); give a folder of masks, or "
                "the folder of pairs that it belongs to"
            )
        if rough := posterised(files):
            raise InputError(
                f"{self.named}: holds photographs in a few colours, not masks ({rough[0].name} is full of specks, "
                "which nobody draws); give a folder of masks, or smooth them (a median filter)"
            )


def _matched(listing: Listing, folder: Path, decoding: Decoding) -> list[Pair]:
    """The pairs of a listing, by name; one that does not match is an error."""
    images, masks = listing.images, listing.masks
    _refuse_broken(listing, folder)
    _refuse(listing.doubled, folder, "has the base name of another file")
    unread = "".join(f" ({note})" for note in listing.notes if note.startswith(NOT_READ))
    _refuse((images[name] for name in sorted(images.keys() - masks.keys())), folder, f"has no mask{unread}")
    _refuse((masks[name].path for name in sorted(masks.keys() - images.keys())), folder, f"has no image{unread}")
    pairs = []
    for name in sorted(images):
        extra = dict(listing.rows.get(name, {}))
        if name in listing.groups:
            extra.setdefault("group", listing.groups[name])
        image, mask = ImageFile(images[name], decoding), MaskFile(masks[name], decoding, images[name])
        pairs.append(Pair(name, image, mask, extra.pop("prompt", None), extra))
    return pairs


def _is_synthetic(row: Mapping[str, Any]) -> bool:
    return bool(row.get("synthetic"))


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


def _by_hand(folder: Path, settings: DataConfig | None) -> Listing | None:
    """The pairs by `data.images` and `data.masks`; a folder that this package wrote needs no patterns."""
    if settings is None or not (settings.images or settings.masks) or manifest.find(folder) or find_shards(folder):
        return None
    return patterns.read(folder, settings.images, settings.masks)


def open_as_written(path: Path, option: str = "data folder") -> DataFolder:
    """A folder of pairs with all classes that it names, where its masks are label maps; errors as in `DataFolder`."""
    folder = DataFolder(path, option)
    known = folder.listing.prepared if folder.listing is not None else None
    several = known is not None and known.labels and len(known.classes) > 1
    return DataFolder(path, option, DataConfig(classes="all")) if several else folder


def is_archive(path: Path) -> bool:
    """Whether a path names a file that holds others, by its extension."""
    volume = path.name.lower().endswith(".nii.gz")
    return path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar") and not volume and path.is_file()


def _require_folder(path: Path, named: str) -> None:
    if is_archive(path):
        raise InputError(
            f"{named}: is not a folder but an archive; `siamese-diffusion prepare {path} --out PAIRS` unpacks it into "
            "pairs, or give the folder that it unpacks to"
        )
    if not path.is_dir():
        raise InputError(f"{named} is not a folder" + ("" if path.exists() else " (it does not exist)"))


def _inside(listing: Listing, folder: Path) -> Listing:
    """The listing without pairs of which a file lies outside the folder, which are told as broken."""
    tests = {name: _inside(one, folder) for name, one in listing.test_sets.items()}
    away = {name: path for name, path in listing.images.items() if not inside(path, folder)}
    for name, mask in listing.masks.items():
        away |= dict.fromkeys([name] * any(not inside(path, folder) for path in mask.files), mask.path)
    if not away:
        return replace(listing, test_sets=tests)
    detail = "lies outside the folder that names it; data.outside=true allows that"
    return replace(
        listing,
        images={name: path for name, path in listing.images.items() if name not in away},
        masks={name: mask for name, mask in listing.masks.items() if name not in away},
        broken=[*listing.broken, *((path, detail) for path in away.values())],
        test_sets=tests,
    )


def _is_in_masks(path: Path) -> bool:
    """Whether the folders of a path say masks, or pictures that are no images."""
    roles = [said.role for part in path.parts[:-1] if (said := meaning(part)).role and not said.faint]
    return bool(roles) and (roles[-1] == "mask" or "ignored" in roles)


def _is_mask_beside(path: Path, beside: set[tuple[Path, str]]) -> bool:
    """Whether a file is called like another one in its folder with a word of masks added."""
    stem = path.stem
    return says_mask(stem) and any(
        (path.parent, stem[:end]) in beside and says_mask(stem[end:]) for end in range(1, len(stem))
    )


def _would_fit(folder: Path) -> str:
    """What a folder holds instead of pairs, and the `pairs.csv` that would make it fit."""
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if is_image(path)]
    half = len(found) // 2
    rows = [*zip(found[:half], found[half:], strict=False)][:2] or [
        ("IMAGE.png", "MASK.png"),
        ("IMAGE2.png", "MASK2.png"),
    ]
    lines = "".join(f"\n{image},{mask}" for image, mask in rows)
    boxes = coco.boxes_alone(folder)
    if boxes is not None:
        return f"{boxes} draws boxes alone, and a mask needs an outline: export polygons or masks instead"
    return (
        f"it holds {seen_in(folder)}; expected {', '.join(LAYOUTS)}; or a pairs.csv that names each image and its "
        f"mask, for example\nimage,mask{lines}"
    )
