"""Images and masks named by hand: `data.images` and `data.masks`, patterns of paths in the folder."""

import json
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts import coco
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.pairing import pair_up
from siamese_diffusion.data.layouts.paths import inside
from siamese_diffusion.data.layouts.table import read_table
from siamese_diffusion.data.layouts.tree import Found, scan
from siamese_diffusion.errors import InputError


def read(folder: Path, images: str | None, masks: str | None) -> Listing:
    """Pairs of the files that match.

    Args:
        folder: what the patterns are relative to; `**` goes through folders.
        images: pattern of the images; None: all that are not masks.
        masks: pattern of the masks, or the name of a table or of COCO's annotations; None: all that are not images.

    Raises:
        InputError: a pattern matches nothing, or not one image matches a mask.
    """
    if masks is not None and images is None:
        listed = _listed(folder, masks)
        if listed is not None:
            return listed
    files = {found.path: found for found in scan(folder).files}
    drawn = _matching(folder, files, masks, "data.masks")
    pictures = _matching(folder, files, images, "data.images")
    drawn = [found for found in drawn if masks is not None or found not in pictures]
    kept = set(drawn)
    pictures = [found for found in pictures if found not in kept]
    listing = pair_up(pictures, drawn, "data.images and data.masks")
    if listing is None:
        counts = f"{len(pictures)} images and {len(drawn)} masks"
        raise InputError(
            f"data.images = {images}, data.masks = {masks}: {folder}: no mask of {counts} is called like an image"
        )
    return listing


def _listed(folder: Path, name: str) -> Listing | None:
    """A table or COCO's annotations, called by name."""
    path = folder / name
    if not path.is_file() or path.suffix.lower() not in (".json", ".csv", ".tsv", ".jsonl"):
        return None
    listing = coco.read_file(path, folder) if path.suffix.lower() == ".json" else read_table(path)
    if listing is None:
        raise InputError(f"data.masks = {name}: {path} lists no images with masks")
    return listing


def _matching(folder: Path, files: dict[Path, Found], pattern: str | None, setting: str) -> list[Found]:
    if pattern is None:
        return list(files.values())
    try:
        found = sorted(path for path in folder.glob(pattern) if path in files and inside(path, folder))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise InputError(f"{setting} = {pattern}: not a pattern of paths inside {folder} ({error})") from None
    if not found:
        raise InputError(
            f"{setting} = {pattern}: matches no image file of {folder}; for example {json.dumps('images/*.png')}"
        )
    return [replace(files[path], split=files[path].split) for path in found]
