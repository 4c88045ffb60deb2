"""Pairs from the rows of a table, whose columns are told by what they hold and then by their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.images import SUFFIXES
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.pairing import name_all, splits_of
from siamese_diffusion.data.layouts.paths import ROLES, Paths
from siamese_diffusion.data.layouts.tree import Found
from siamese_diffusion.data.layouts.words import IMAGE, MASK, SPLITS, plain, words

Row = Mapping[str, Any]

GROUPS = (
    "group",
    "patient",
    "patient_id",
    "patientid",
    "subject",
    "subject_id",
    "case",
    "case_id",
    "video",
    "video_id",
    "sequence",
    "sequence_id",
    "centre",
    "center",
)
PROMPTS = ("prompt", "text", "caption")
_MASKS = MASK | {"conditioning", "lesion"}
_IMAGES = IMAGE | {"file", "filename", "path"}
LOOKED_AT = 20
"""Rows from which the columns are told."""


def columns(rows: Sequence[Row], paths: Paths) -> list[tuple[str, str]]:
    """Columns of images and of masks, in pairs; several where a table names the same images in several formats."""
    first = rows[:LOOKED_AT]
    names = [name for name in first[0] if name and any(_is_path(row.get(name)) for row in first)] if first else []
    names = [name for name in names if any(paths.find(row[name]) for row in first if _is_path(row.get(name)))]
    masks = [name for name in names if set(words(name)) & _MASKS]
    images = [name for name in names if name not in masks and set(words(name)) & _IMAGES]
    if not masks and len(names) == 2:
        return [(names[0], names[1])]
    if not images and masks and len(names) == len(masks) + 1:
        images = [name for name in names if name not in masks]
    if len(images) == len(masks):
        return list(zip(images, masks, strict=True))
    return [(image, mask) for image in images[:1] for mask in masks]


def listing_of(
    rows: Sequence[Row], chosen: tuple[str, str], paths: Paths, file: Path, layout: str, first_line: int = 1
) -> Listing:
    """Pairs of rows; a row that names a file which is not there is broken.

    Args:
        rows: of the table.
        chosen: its columns of the image and of the mask.
        paths: where its files are.
        file: the table, for errors.
        layout: what the table is.
        first_line: line of the first row.
    """
    listing = Listing(layout, {}, {})
    found: list[Found] = []
    masks: list[MaskSource] = []
    kept: list[Row] = []
    at: dict[Path, int] = {}
    for number, row in enumerate(rows, start=first_line):
        both = [paths.find(str(row.get(c) or ""), role) for c, role in zip(chosen, ROLES, strict=True)]
        for column, path in zip(chosen, both, strict=True):
            if path is None:
                said = row.get(column)
                what = f"names {said}, which is not there" if said else f"has no {column!r}"
                listing.broken.append((file, f"line {number} {what}"))
        image, mask = both
        if image is None or mask is None:
            continue
        before = at.setdefault(image, len(found))
        if before < len(found) and mask not in masks[before].files:
            masks[before] = MaskSource((*masks[before].files, mask))
            continue
        found.append(Found(image, None, split_in(row), _above(image, paths), ""))
        masks.append(MaskSource((mask,)))
        kept.append(row)
    _fill(listing, found, masks, kept, chosen)
    if joined := sum(len(mask.files) > 1 for mask in masks):
        listing.notes.append(f"{joined} images have several masks, which are joined")
    if paths.loose:
        listing.notes.append(f"{file.name}: {paths.loose} names were matched to files that are written otherwise")
    return listing


def split_in(row: Row) -> str | None:
    """The split that a row's column of that name says."""
    for name, value in row.items():
        if name and plain(name) in ("split", "subset", "set", "partition") and value:
            return next((SPLITS[word] for word in words(str(value)) if word in SPLITS), None)
    return None


def value_of(row: Row, names: Iterable[str]) -> str | None:
    """The first value under one of several names of a column."""
    known = {plain(name): value for name, value in row.items() if name}
    return next((str(known[name]) for name in names if known.get(name) not in (None, "")), None)


def _fill(
    listing: Listing, found: list[Found], masks: list[MaskSource], rows: list[Row], chosen: tuple[str, str]
) -> None:
    stems = [(one.split, one.path.stem) for one in found]
    apart = len(set(stems)) < len(stems)  # the same base names in several folders: the folders' names tell them apart
    names, groups, doubled = name_all(found, lambda one: (None, one.above if apart else ()))
    listing.doubled.extend(doubled)
    for index, name in names.items():
        row = rows[index]
        listing.images[name], listing.masks[name] = found[index].path, masks[index]
        extra: dict[str, Any] = {} if (prompt := value_of(row, PROMPTS)) is None else {"prompt": prompt}
        if row.get("synthetic") in (True, "True", "true"):  # so that they are not taken for real ones
            extra["synthetic"] = True
        listing.rows[name] = extra
        group = value_of(row, GROUPS) or groups.get(name)
        if group is not None:
            listing.groups[name] = group
    listing.splits.update(splits_of({name: found[index].split for index, name in names.items()}))


def _above(image: Path, paths: Paths) -> tuple[str, ...]:
    top = next((top for top in reversed(paths.tops) if image.is_relative_to(top)), None)
    return image.relative_to(top).parts[:-1] if top is not None else ()


def _is_path(value: Any) -> bool:
    """Whether a cell may name a file; a bare number is more often a class."""
    if not isinstance(value, str):
        return False
    path = PurePosixPath(value.strip().replace("\\", "/"))
    return path.suffix.lower() in SUFFIXES or bool(re.search(r"[^\W\d]", path.name))
