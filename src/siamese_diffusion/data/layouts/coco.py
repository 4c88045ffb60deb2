"""COCO's annotations: one JSON file that lists images and draws what is on them, as polygons or runs of pixels."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.pairing import name_all
from siamese_diffusion.data.layouts.paths import Paths, say_left_out
from siamese_diffusion.data.layouts.table import merge
from siamese_diffusion.data.layouts.tree import Found
from siamese_diffusion.data.layouts.words import SPLITS, words
from siamese_diffusion.data.shapes import Shape, Shapes, decompress, pairs_of
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json

LARGEST = 1 << 29
"""Bytes of the largest JSON file that is looked into."""


def read(folder: Path) -> Listing | None:
    """Pairs of the JSON files of a folder, or of its folder `annotations`; those called like splits are the splits.

    Raises:
        InputError: a file is COCO's but cannot be used, or there are several and their names say no splits.
    """
    places = [folder, *(child for child in folder.iterdir() if child.is_dir() and child.name.lower() == "annotations")]
    files = [path for place in places for path in sorted(place.glob("[!.]*.json")) if _may_be(path)]
    found = {path: listing for path in files if (listing := read_file(path, folder)) is not None}
    if len(found) < 2:
        return next((say_left_out(listing) for listing in found.values()), None)
    splits = {path: next((SPLITS[word] for word in words(path.stem) if word in SPLITS), None) for path in found}
    if None in splits.values() or len(set(splits.values())) < len(found):
        raise InputError(f"{' and '.join(map(str, found))} both list images and masks; name one with data.masks")
    return say_left_out(merge({str(splits[path]): listing for path, listing in found.items()}, "COCO annotations"))


def read_file(path: Path, folder: Path) -> Listing | None:
    """Pairs that one file lists; None where it is not COCO's or draws no masks.

    Raises:
        InputError: what it draws cannot be used.
    """
    content = read_json(path)
    if not is_coco(content):
        return None
    odd = _odd_key(content)
    if odd is not None:
        raise InputError(f"{path}: has an {odd} that is no number and no text")
    if not any(row.get("segmentation") for row in content["annotations"]):
        return None
    labels = {row["id"]: number for number, row in enumerate(_categories(content), start=1)}
    drawn: dict[Any, list[Shape]] = defaultdict(list)
    for row in content["annotations"]:
        drawn[row.get("image_id")].extend(_shapes(row, labels.get(row.get("category_id"), 1), path))
    listing = Listing(f"COCO annotations, {path.name}", {}, {})
    paths, found, rows = Paths(path.parent, folder), [], []
    for row in content["images"]:
        named = str(row.get("file_name", ""))
        image = paths.find(named, "image")
        if image is None:
            listing.broken.append((path, f"names {named}, which is not there"))
            continue
        above = image.relative_to(folder).parts[:-1] if image.is_relative_to(folder) else ()
        found.append(Found(image, None, None, above, ""))
        rows.append(row)
    stems = [one.path.stem for one in found]
    apart = len(set(stems)) < len(stems)
    names, groups, doubled = name_all(found, lambda one: (None, one.above if apart else ()))
    for index, name in names.items():
        image, row = found[index].path, rows[index]
        size = (row["width"], row["height"]) if _are_sizes(row) else None
        listing.images[name] = image
        listing.masks[name] = MaskSource((path,), shapes=Shapes(tuple(drawn[row.get("id")]), image, path, size))
    listing.doubled.extend(doubled)
    listing.groups.update(groups)
    listing.classes.update(
        {number: str(row.get("name", row["id"])) for number, row in enumerate(_categories(content), start=1)}
    )
    return listing


def boxes_alone(folder: Path) -> Path | None:
    """A file of COCO's annotations that draws boxes and no outlines; no mask can be made of those."""
    for path in sorted(folder.glob("**/[!.]*.json")):
        try:
            content: Any = read_json(path) if _may_be(path) else None
        except (InputError, OSError):
            continue
        if is_coco(content) and any(row.get("bbox") for row in content["annotations"]):
            return None if any(row.get("segmentation") for row in content["annotations"]) else path
    return None


def is_coco(content: Any) -> bool:
    """Whether a JSON value has COCO's lists."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) and all(isinstance(row, dict) for row in content[key])
        for key in ("images", "annotations")
    )


def _odd_key(content: Mapping[str, Any]) -> str | None:
    """A key by which rows are matched and that holds what cannot be matched."""
    categories = content.get("categories")
    rows = [*content["images"], *content["annotations"], *(categories if isinstance(categories, list) else [])]
    keys = ("id", "image_id", "category_id")
    wrong = (key for row in rows if isinstance(row, dict) for key in keys if isinstance(row.get(key), list | dict))
    return next(wrong, None)


def _may_be(path: Path) -> bool:
    """By the file's beginning, so that large files of other kinds are not parsed."""
    if path.stat().st_size > LARGEST:
        return False
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")


def _categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories that masks may be of, by their numbers; Roboflow's heading of all has no masks."""
    listed = [row for row in content.get("categories") or [] if isinstance(row, dict) and "id" in row]
    used = {row.get("category_id") for row in content["annotations"]}
    return sorted((row for row in listed if row["id"] in used), key=lambda row: str(row["id"]).zfill(12))


def _are_sizes(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(key), int) and row[key] > 0 for key in ("width", "height"))


def _shapes(row: Mapping[str, Any], label: int, path: Path) -> list[Shape]:
    drawn = row.get("segmentation")
    if not drawn:
        return []
    try:
        if isinstance(drawn, dict):
            counts = drawn["counts"]
            runs = decompress(counts) if isinstance(counts, str) else tuple(int(count) for count in counts)
            return [Shape(label, runs=runs)]
        return [Shape(label, tuple(pairs_of(polygon) for polygon in drawn))]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: annotation {row.get('id')}: its segmentation cannot be read ({error})") from None
