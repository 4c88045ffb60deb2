"""Images and masks in folders whose names say which is which, at any depth; or side by side in one folder.

Design note: what a file looks like is asked where its name does not say what it is, and of what a name makes a mask: a
photograph never is one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing, counted
from siamese_diffusion.data.layouts.pairing import pair_up
from siamese_diffusion.data.layouts.tree import Found, Tree, scan
from siamese_diffusion.data.layouts.words import says_mask
from siamese_diffusion.data.photographs import photographs, posterised
from siamese_diffusion.errors import InputError

FORMATS = ("png", "tif", "tiff", "bmp", "jpg", "jpeg")
"""Formats that a set may come in a folder each, best first."""


def read(folder: Path) -> Listing | None:
    """Pairs of a folder by the names of its sub-folders and files, and by what files look like where names leave it
    open.

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
    """Masks beside their images, told by what their names add, or by their format where that tells mask from
    photograph."""
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


def _require_masks(listing: Listing) -> None:
    """Photographs are never taken for masks.

    Raises:
        InputError: a file that its name makes a mask looks like a photograph.
    """
    files = [path for mask in listing.masks.values() for path in mask.files]
    wrong = photographs(files) or posterised(files)
    if wrong:
        raise InputError(
            f"{wrong[0]}: its name says a mask, but it looks like a photograph; say with data.images and data.masks "
            f"which files are which"
        )


def _say_what_is_left(listing: Listing, tree: Tree) -> None:
    used = {
        *listing.images.values(),
        *listing.doubled,
        *(path for mask in listing.masks.values() for path in mask.files),
    }
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
    listing.notes.extend(filter(None, [counted(tree.unread)]))
