"""A manifest that names every pair: this package's `pairs.jsonl`, or the authors' `prompt.json`.

A row of `pairs.jsonl` may have further keys, which `row_of` writes: `name`, where it is not the image's base name;
`parts`, the files of a mask of several, with `labels`; and `shapes`, of a mask that is drawn and not read.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.paths import ROLES, Paths, say_left_out
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.prepared import read as read_prepared
from siamese_diffusion.data.shapes import Shape, Shapes
from siamese_diffusion.data.tars import base_name
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl

KINDS = {"pairs.jsonl": ("image", "mask"), "prompt.json": ("target", "source")}
"""Manifests, and their keys of the image and the mask."""


def find(folder: Path) -> str | None:
    """The name of a folder's manifest; None without one."""
    return next((name for name in KINDS if (folder / name).exists()), None)


def read(folder: Path) -> Listing | None:
    """A row a pair; a row that names a file which is not there is broken."""
    name = find(folder)
    if name is None:
        return None
    image_key, mask_key = KINDS[name]
    prepared = read_prepared(folder) if name == "pairs.jsonl" else None
    listing, paths = Listing(name, {}, {}, prepared=prepared), Paths(folder)
    listing.classes.update(prepared.classes if prepared is not None and prepared.labels else {})
    for number, row in enumerate(read_jsonl(folder / name), start=1):
        both = [
            paths.find(row[key], role) if isinstance(row.get(key), str) else None
            for key, role in zip((image_key, mask_key), ROLES, strict=True)
        ]
        wrong = [
            f"line {number} has no {key!r}"
            if not isinstance(row.get(key), str)
            else f"line {number} names {row[key]}, which is not there"
            for key, path in zip((image_key, mask_key), both, strict=True)
            if path is None
        ]
        if not isinstance(row.get("prompt"), str | None):
            wrong.append(f"line {number} has a prompt that is no text")
        image, mask = both
        if wrong or image is None or mask is None:
            listing.broken.extend((folder / name, detail) for detail in wrong)
            continue
        del row[image_key], row[mask_key]
        named = row.pop("name", None)
        pair = named if isinstance(named, str) else base_name(image)
        if pair in listing.images:
            listing.doubled.append(image)
        listing.images[pair] = image
        listing.masks[pair] = _source(row, image, mask, folder / name)
        listing.rows[pair] = row
        if row.get("group") is not None:
            listing.groups[pair] = str(row["group"])
    _say(listing, paths)
    return listing


def row_of(pair: Pair) -> dict[str, Any]:
    """The row of `pairs.jsonl` that gives the pair again from any folder: by absolute paths."""
    source = pair.mask.source
    row: dict[str, Any] = {"image": str(pair.image.path.absolute()), "mask": str(pair.mask.path.absolute())}
    if pair.name != base_name(pair.image.path):
        row["name"] = pair.name
    if pair.prompt:
        row["prompt"] = pair.prompt
    if pair.group is not None:
        row["group"] = pair.group
    if len(source.files) > 1 or source.classes:
        row |= {"parts": [str(path.absolute()) for path in source.files], "labels": list(source.classes)}
    if source.shapes is not None:
        row["shapes"] = {"size": source.shapes.size, "drawn": [asdict(part) for part in source.shapes.parts]}
    return row


def _source(row: dict[str, Any], image: Path, mask: Path, file: Path) -> MaskSource:
    """The mask of a row, whose further keys are taken out of it."""
    parts, labels, shapes = (row.pop(key, None) for key in ("parts", "labels", "shapes"))
    try:
        if shapes is not None:
            size = tuple(shapes["size"]) if shapes["size"] else None
            drawn = tuple(_shape(part) for part in shapes["drawn"])
            return MaskSource((mask,), shapes=Shapes(drawn, image, mask, size))
        files = tuple(mask.parent / part for part in parts) if parts else (mask,)
        return MaskSource(files, tuple(int(label) for label in labels or ()))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{file}: the row of {image.name} has parts, labels or shapes that cannot be read") from None


def _shape(part: Mapping[str, Any]) -> Shape:
    polygons = tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in part["polygons"])
    runs = tuple(int(run) for run in part["runs"]) if part["runs"] is not None else None
    return Shape(int(part["label"]), polygons, runs, bool(part["hole"]))


def _say(listing: Listing, paths: Paths) -> None:
    if paths.loose:
        listing.notes.append(f"{listing.layout}: {paths.loose} names were matched to files that are written otherwise")
    say_left_out(listing, paths.tops)
