"""From files that are known to be images and masks to pairs: which mask is whose, what a pair is called, groups and
splits.

Design note: several readings are tried, strictest first, and the first in which every mask has its image counts. Where
there is none, the one with the most is kept, so that the error names the files that have no partner.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.names import Match, Name, match
from siamese_diffusion.data.layouts.tree import Found
from siamese_diffusion.data.layouts.words import KINDS, RATERS, SPLIT_ORDER, plain, words
from siamese_diffusion.errors import InputError

Place = tuple[str | None, tuple[str, ...]]


def pair_up(images: Sequence[Found], masks: Sequence[Found], layout: str) -> Listing | None:
    """The pairs of two lists of files; None where no mask has an image.

    Raises:
        InputError: there are several kinds of masks and nothing says which are meant.
    """
    best: tuple[Reading, Match] | None = None
    for reading in _readings(images, masks):
        found = reading.match(images, masks)
        if best is None or found.count > best[1].count:
            best = reading, found
        if found.count == len(masks):
            break
    if best is None or best[1].count == 0:
        _require_one_kind(masks)
        return None
    return _listing(images, masks, *best, layout)


class Reading:
    """One way to say what belongs to the same place.

    Args:
        image: place of an image.
        mask: place of a mask.
        kind: what a mask's folder says besides, a class or the image that it is a part of; None: nothing.
        one_image: every place holds one image, which has all masks there, whatever they are called.
        by_folder: the folder of the masks is called like their image.
    """

    def __init__(
        self,
        image: Callable[[Found], Place],
        mask: Callable[[Found], Place],
        kind: Callable[[Found], str] | None = None,
        one_image: bool = False,
        by_folder: bool = False,
    ) -> None:
        self.image, self.mask, self.kind, self.one_image, self.by_folder = image, mask, kind, one_image, by_folder

    def match(self, images: Sequence[Found], masks: Sequence[Found]) -> Match:
        """The image of each mask by this reading."""
        if self.one_image:
            holder = {self.image(found): index for index, found in enumerate(images)}
            return Match([holder.get(self.mask(found)) for found in masks])
        if self.kind is not None and not self.by_folder:
            return self._match_each(images, masks, self.kind)
        return self._match(images, masks)

    def _match_each(self, images: Sequence[Found], masks: Sequence[Found], kind: Callable[[Found], str]) -> Match:
        """Class by class, since each may add its own to the images' names: `IDRiD_01_MA`, `IDRiD_01_HE`."""
        whole = Match([None] * len(masks))
        for name in sorted({kind(found) for found in masks}):
            held = [index for index, found in enumerate(masks) if kind(found) == name]
            part = self._match(images, [masks[index] for index in held])
            for index, image in zip(held, part.image, strict=True):
                whole.image[index] = image
            whole.notes.extend(note for note in part.notes if note not in whole.notes)
        return whole

    def _match(self, images: Sequence[Found], masks: Sequence[Found]) -> Match:
        stem = self.kind if self.by_folder and self.kind is not None else _own_stem
        places = {self.mask(found) for found in masks}
        held = [index for index, found in enumerate(images) if self.image(found) in places]
        matched = match(
            [Name(self.image(images[index]), images[index].path.stem) for index in held],
            [Name(self.mask(found), stem(found)) for found in masks],
        )
        return replace(matched, image=[index if index is None else held[index] for index in matched.image])


def _readings(images: Sequence[Found], masks: Sequence[Found]) -> Iterator[Reading]:
    """The ways to read, strictest first; those in which a mask's place would hold no image are left out."""

    def varying(found: Found) -> Place:
        return found.split, tuple(
            part
            for part in found.above
            if part not in constant[found.path] and not re.fullmatch(r"(?i)fold[-_ ]?\d+", part)
        )

    shared = [set.intersection(*(set(found.above) for found in files)) for files in (images, masks)]
    constant = {found.path: parts for files, parts in zip((images, masks), shared, strict=True) for found in files}
    for place in (_above, _whole, varying):
        if _fit(images, masks, place, place) and not _several(images, place) and not _several(masks, place):
            yield Reading(place, place)
    for place in (_above, _whole):
        holders = [place(found) for found in images]
        if len(set(holders)) == len(holders) > 1 and _fit(images, masks, place, place) and not _several(masks, place):
            yield Reading(place, place, one_image=True)
    for place in (_whole, _above, varying):
        for take in range(1, max(len(place(found)[1]) for found in masks) + 1):
            taken, without = _one_out(place, take)
            if all(len(place(found)[1]) >= take for found in masks):
                for images_at in dict.fromkeys((_above, place)):
                    if _fit(images, masks, images_at, without):
                        yield Reading(images_at, without, taken, by_folder=True)
                        yield Reading(images_at, without, taken)
    for place in (_split, _anywhere):
        stems = [(place(found), plain(found.path.stem)) for found in images]
        if len(set(stems)) == len(stems) and not _several(masks, place):
            yield Reading(place, place)


def _one_out(place: Callable[[Found], Place], take: int) -> tuple[Callable[[Found], str], Callable[[Found], Place]]:
    """What one folder of a place says, counted from its end, and the place without that folder."""

    def taken(found: Found) -> str:
        return place(found)[1][-take]

    def without(found: Found) -> Place:
        split, parts = place(found)
        return split, (*parts[: len(parts) - take], *parts[len(parts) - take + 1 :])

    return taken, without


def _above(found: Found) -> Place:
    return found.split, found.above


def _whole(found: Found) -> Place:
    return found.split, found.places


def _split(found: Found) -> Place:
    return found.split, ()


def _anywhere(found: Found) -> Place:
    return None, ()


def _own_stem(found: Found) -> str:
    return found.path.stem


def _fit(
    images: Sequence[Found], masks: Sequence[Found], image: Callable[[Found], Place], mask: Callable[[Found], Place]
) -> bool:
    return {mask(found) for found in masks} <= {image(found) for found in images}


def _several(files: Sequence[Found], place: Callable[[Found], Place]) -> bool:
    """Whether one place takes files of several folders, so that names may mean different things there."""
    folders: dict[Place, Path] = {}
    return any(folders.setdefault(place(found), found.path.parent) != found.path.parent for found in files)


def _require_one_kind(masks: Sequence[Found]) -> None:
    """Folders of masks that no word tells apart, `masks/` and `labels/`, are never both taken."""
    folders: dict[Place, Path] = {}
    for found in masks:
        first = folders.setdefault((found.split, found.places), found.path.parent)
        if first != found.path.parent:
            raise two_kinds(first, found.path.parent)


def two_kinds(one: Path, other: Path) -> InputError:
    """The error that two folders hold masks of the same images."""
    return InputError(
        f"{one} and {other} both hold masks; name those that are meant, for example data.masks='**/{one.name}/*' with "
        "data.images"
    )


# ---- from matches to a listing ------------------------------------------------------------------------------------


def _listing(images: Sequence[Found], masks: Sequence[Found], reading: Reading, found: Match, layout: str) -> Listing:
    masked = {images[index].split for index in found.image if index is not None}
    names, groups, doubled = name_all(images, reading.image, found.core_less)
    names = {index: name for index, name in names.items() if images[index].split in masked}
    listing = Listing(layout, {}, {}, notes=list(found.notes), doubled=doubled)
    for index, name in names.items():
        listing.images[name] = images[index].path
    listing.groups.update({name: group for name, group in groups.items() if name in listing.images})
    kinds = reading.kind if not reading.by_folder else None
    classes = sorted({kinds(mask) for mask in masks}, key=_natural) if kinds else []
    _require_no_raters(classes, masks)
    drawn: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for mask, of in zip(masks, found.image, strict=True):
        label = classes.index(kinds(mask)) + 1 if kinds else 1
        name = names.get(of, "") if of is not None else "/".join((*mask.places, mask.path.stem))
        if name:
            drawn[name].append((mask.path, label))
    for name, parts in drawn.items():
        parts.sort(key=lambda part: part[1])
        labels = tuple(label for _, label in parts) if len(classes) > 1 else ()
        listing.masks[name] = MaskSource(tuple(path for path, _ in parts), labels)
    if len(classes) > 1:
        listing.classes.update(dict(enumerate(classes, start=1)))
        listing.notes.append(f"a mask folder a class; where classes overlap the later one counts: {', '.join(classes)}")
    elif joined := sum(len(parts) > 1 for parts in drawn.values()):
        listing.notes.append(f"{joined} images have several masks, which are joined")
    splits = {name: images[index].split for index, name in names.items()}
    listing.splits.update(splits_of(splits))
    if listing.splits and (outside := sum(split is None for split in splits.values())):
        listing.notes.append(f"{outside} pairs are in no split and are not used")
    return listing


def name_all(
    images: Sequence[Found], place: Callable[[Found], Place], by_folder: bool = False
) -> tuple[dict[int, str], dict[str, str], list[Path]]:
    """Names of images by index, groups by name, and files whose name another one has.

    A name is a file's base name, after those of its sub-folders: `p01-001`. Words of splits come along only where names
    of two splits would else be the same.
    """
    places = [place(found)[1] for found in images]
    shared = next(
        (i for i, parts in enumerate(zip(*places, strict=False)) if len(set(parts)) > 1),
        min(map(len, places), default=0),
    )
    places = [parts[shared:] for parts in places]
    stems = ["" if by_folder else _stem(found.path) for found in images]
    names = [_joined((*place, stem)) for place, stem in zip(places, stems, strict=True)]
    if len({(found.split, name) for found, name in zip(images, names, strict=True)}) > len(set(names)):
        names = [_joined((found.split or "", name)) for found, name in zip(images, names, strict=True)]
    named: dict[int, str] = {}
    groups: dict[str, str] = {}
    taken: set[str] = set()
    doubled = []
    for index, name in enumerate(names):
        if name in taken:
            doubled.append(images[index].path)
            continue
        taken.add(name)
        named[index] = name
        if (group := _group(places[index])) is not None:
            groups[name] = group
    return named, groups if len(set(groups.values())) < len(groups) else {}, doubled


def splits_of(split: dict[str, str | None]) -> dict[str, list[str]]:
    """Names by split, where there are several splits."""
    found: dict[str, list[str]] = {}
    for which in SPLIT_ORDER:
        if names := sorted(name for name, own in split.items() if own == which):
            found[which] = names
    return found if found.keys() != {"train"} or not all(split.values()) else {}


def _stem(path: Path) -> str:
    """The base name, without a second extension."""
    name = Name((), path.stem)
    return path.stem[: len(name.plain)] if name.plain != plain(path.stem) else path.stem


def _joined(parts: tuple[str, ...]) -> str:
    """`p01-001` of p01 and 001; a part that the next begins with is not said twice."""
    text = ""
    for part in reversed([part for part in parts if part]):
        text = text if text and plain(text).startswith(plain(part)) else f"{part}-{text}" if text else part
    return text


def _group(places: tuple[str, ...]) -> str | None:
    """What an image's folders say about whom it is of; folders that sort by finding say nothing."""
    speaking = [place for place in places if not set(words(place)) & KINDS]
    if not speaking:
        return None
    patient = next(
        (
            i
            for i, place in enumerate(speaking)
            if re.match(r"(?i)(p|pat|patient|case|sub|subject|seq|video)[-_ ]?\d", place)
        ),
        0,
    )
    return "-".join(speaking[: patient + 1])


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts "2" before "10"."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text) if part]


def _require_no_raters(classes: Sequence[str], masks: Sequence[Found]) -> None:
    if len(classes) > 1 and any(set(words(name)) & RATERS or not re.search(r"[^\W\d]{2}", name) for name in classes):
        folders = sorted({found.path.parent for found in masks})
        raise two_kinds(folders[0], folders[1])
