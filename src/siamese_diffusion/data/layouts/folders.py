"""Images and masks in folders whose names say which is which, at any depth; or side by side in one folder.

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
from siamese_diffusion.data.layouts.tree import Found, Tree, scan
from siamese_diffusion.data.layouts.words import KINDS, RATERS, SPLIT_ORDER, plain, says_mask, words
from siamese_diffusion.data.looks import photographs
from siamese_diffusion.errors import InputError

FORMATS = ("png", "tif", "tiff", "bmp", "jpg", "jpeg")
"""Formats that a set may come in a folder each, best first."""
Place = tuple[str | None, tuple[str, ...]]


def read(folder: Path) -> Listing | None:
    """Pairs of a folder by the names of its sub-folders and files, and by what files look like where names leave it open.

    Raises:
        InputError: masks look like photographs, or there are several kinds of masks and nothing says which are meant.
    """
    return read_tree(scan(folder))


def read_tree(tree: Tree) -> Listing | None:
    """As `read`, of files that were found already."""
    tree, notes = _one_format(tree)
    images, masks, others = tree.of("image"), tree.of("mask"), tree.of(None)
    for reading in (_by_role, _in_one_folder, _by_looks):
        listing = reading(images, masks, others)
        if listing is not None:
            listing.notes.extend(notes)
            _say_what_is_left(listing, tree)
            return listing
    return None


def _one_format(tree: Tree) -> tuple[Tree, list[str]]:
    """Of a set that comes in several formats, a folder each, one: `PNG/` and `TIF/` hold the same images."""
    formats = sorted({part for found in tree.files for part in found.above if part.lower() in FORMATS})
    if len(formats) < 2:
        return tree, []
    kept = min(formats, key=lambda part: FORMATS.index(part.lower()))
    files = [
        replace(found, above=tuple(part for part in found.above if part != kept))
        for found in tree.files
        if not set(found.above) & set(formats) - {kept}
    ]
    return replace(tree, files=files), [f"{' and '.join(formats)} are taken for the same images; {kept} is read"]


def _by_role(images: list[Found], masks: list[Found], others: list[Found]) -> Listing | None:
    """Folders that say images and masks; where none says images, those that say nothing hold them."""
    images = images or others
    if not images or not masks:
        return None
    listing = pair_up(images, masks, "images and masks in folders")
    if listing is not None:
        _require_masks(listing)
    return listing


def _in_one_folder(images: list[Found], masks: list[Found], others: list[Found]) -> Listing | None:
    """Masks beside their images, told by what their names add, or by their format where that tells mask from photograph."""
    files = images or others
    if masks or not files:
        return None
    return _flat_by_words(files) or _flat_by_looks(files)


def _flat_by_words(files: list[Found]) -> Listing | None:
    marked = [found for found in files if says_mask(found.path.stem)]
    plain_ones = [found for found in files if not says_mask(found.path.stem)]
    if not marked or not plain_ones:
        return None
    with_masks = {found.path.parent for found in marked}
    listing = pair_up([found for found in plain_ones if found.path.parent in with_masks], marked, "masks beside images")
    if listing is not None:
        _require_masks(listing)
    return listing


def _flat_by_looks(files: list[Found]) -> Listing | None:
    """Files of one folder of which half look like masks, told apart by extension or by an addition to their names."""
    kinds: dict[str, list[Found]] = defaultdict(list)
    for found in files:
        kinds[found.path.suffix.lower()].append(found)
    if len(kinds) == 2:
        listing = _by_looks_of(list(kinds.values()), "masks beside images, told by their format")
        if listing is not None:
            return listing
    added: dict[tuple[str, str], list[Found]] = defaultdict(list)
    stems = {(found.path.parent, found.path.stem): found for found in files}
    for found in files:
        stem = found.path.stem
        ends = range(1, len(stem))
        for start, end in [*((0, end) for end in ends), *((start, len(stem)) for start in ends)]:
            cut = stem[start - 1 : start + 1].isdigit() if start else stem[end - 1 : end + 1].isdigit()
            if not cut and (found.path.parent, stem[start:end]) in stems:
                added[stem[:start], stem[end:]].append(found)
    for marked in sorted(added.values(), key=len, reverse=True)[:2]:
        drawn = {found.path for found in marked}
        rest = [found for found in files if found.path not in drawn]
        if len(marked) > 1 and len(rest) <= 2 * len(marked):
            listing = _by_looks_of([rest, marked], "masks beside images, told by their names")
            if listing is not None:
                return listing
    return None


def _by_looks(images: list[Found], masks: list[Found], others: list[Found]) -> Listing | None:
    """Folders whose names do not say it, all of photographs or all of masks: `images/` beside `lungs/` and `heart/`."""
    if masks:
        return None
    folders: dict[Path, list[Found]] = defaultdict(list)
    for found in others:
        folders[found.path.parent].append(found)
    if images:
        drawn = [files for files in folders.values() if not photographs([found.path for found in files])]
        return _paired_by_looks(images, drawn, "images and folders that look like masks")
    return _by_looks_of(list(folders.values()), "folders told by what they hold") if 2 <= len(folders) <= 12 else None


def _by_looks_of(sets: Sequence[list[Found]], layout: str) -> Listing | None:
    looks = [len(photographs([found.path for found in files])) for files in sets]
    pictures = [
        found for files, count in zip(sets, looks, strict=True) if count * 2 > min(len(files), 16) for found in files
    ]
    drawn = [files for files, count in zip(sets, looks, strict=True) if count == 0]
    return _paired_by_looks(pictures, drawn, layout)


def _paired_by_looks(images: list[Found], drawn: Sequence[list[Found]], layout: str) -> Listing | None:
    masks = [found for files in drawn for found in files]
    if not images or not masks:
        return None
    listing = pair_up(images, masks, layout)
    if listing is None or listing.masks.keys() - listing.images.keys():
        return None
    where = sorted({found.path.parent.name for found in masks})
    listing.notes.append(f"taken for masks by what they look like: {len(masks)} files in {', '.join(where)}")
    return listing


# ---- which mask is whose ------------------------------------------------------------------------------------------


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
        return found.split, tuple(part for part in found.above if part not in constant[found.path])

    shared = [set.intersection(*(set(found.above) for found in files)) for files in (images, masks)]
    constant = {found.path: parts for files, parts in zip((images, masks), shared, strict=True) for found in files}
    for place in (_above, _whole, varying):
        if _fit(images, masks, place, place) and not _several(images, place) and not _several(masks, place):
            yield Reading(place, place)
    for place in (_above, _whole):
        holders = [place(found) for found in images]
        if len(set(holders)) == len(holders) > 1 and _fit(images, masks, place, place) and not _several(masks, place):
            yield Reading(place, place, one_image=True)
    depth = max(len(found.places) for found in masks)
    for take in range(1, depth + 1):

        def without(found: Found, take: int = take) -> Place:
            return found.split, (*found.places[: len(found.places) - take], *found.places[len(found.places) - take + 1 :])

        def taken(found: Found, take: int = take) -> str:
            return found.places[-take]

        if all(len(found.places) >= take for found in masks) and _fit(images, masks, _above, without):
            yield Reading(_above, without, taken, by_folder=True)
            yield Reading(_above, without, taken)
    for place in (_split, _anywhere):
        stems = [(place(found), plain(found.path.stem)) for found in images]
        if len(set(stems)) == len(stems) and not _several(masks, place):
            yield Reading(place, place)


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

    A name is a file's base name, after those of its sub-folders: `p01-001`. Words of splits come along only where names of
    two splits would else be the same.
    """
    places = [place(found)[1] for found in images]
    shared = next(
        (i for i, parts in enumerate(zip(*places, strict=False)) if len(set(parts)) > 1), min(map(len, places), default=0)
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


def _require_masks(listing: Listing) -> None:
    """Photographs are never taken for masks.

    Raises:
        InputError: a file that its name makes a mask looks like a photograph.
    """
    wrong = photographs([path for mask in listing.masks.values() for path in mask.files])
    if wrong:
        raise InputError(
            f"{wrong[0]}: its name says a mask, but it looks like a photograph; say with data.images and data.masks which "
            "files are which"
        )


def _say_what_is_left(listing: Listing, tree: Tree) -> None:
    used = {*listing.images.values(), *listing.doubled, *(path for mask in listing.masks.values() for path in mask.files)}
    left: dict[Path, int] = defaultdict(int)
    for found in tree.files:
        if found.path not in used:
            left[found.path.parent] += 1
    listing.broken.extend(tree.broken)
    if left:
        shown = ", ".join(f"{path.name} ({count})" for path, count in sorted(left.items())[:6])
        listing.notes.append(
            f"left out, {sum(left.values())} images that no pair needs: {shown}{', ...' if len(left) > 6 else ''}"
        )
    listing.notes.extend(unread(tree))


def unread(tree: Tree) -> list[str]:
    """A line on pictures in formats that are not read."""
    kinds = {kind: count for kind, count in tree.unread.items() if kind in PICTURES}
    if not kinds:
        return []
    return ["not read: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))]


_PICTURES = (
    ".dcm .nii .gz .mhd .mha .nrrd .npy .npz .mat .svs .webm .mp4 .avi .heic .avif .psd .raw .img .pgm .ppm .tga .pdf .eps "
    ".zip .rar .7z"
)
PICTURES = frozenset(_PICTURES.split())
"""Extensions of pictures, volumes, videos and archives that this package does not read as pairs."""
