"""A manifest that names every pair: this package's `pairs.jsonl`, or the authors' `prompt.json`."""

from pathlib import Path

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.tars import base_name, exists
from siamese_diffusion.files import read_jsonl

KINDS = {"pairs.jsonl": ("image", "mask"), "prompt.json": ("target", "source")}
"""Manifests, and their keys of the image and the mask."""


def read(folder: Path) -> Listing | None:
    """A row a pair; a row that names a file which is not there is broken."""
    name = next((name for name in KINDS if (folder / name).exists()), None)
    if name is None:
        return None
    image_key, mask_key = KINDS[name]
    listing = Listing(name, {}, {})
    for number, row in enumerate(read_jsonl(folder / name), start=1):
        wrong = [
            f"line {number} has no {key!r}"
            if not isinstance(row.get(key), str)
            else f"line {number} names {row[key]}, which is not there"
            for key in (image_key, mask_key)
            if not isinstance(row.get(key), str) or not exists(folder / row[key])
        ]
        if not isinstance(row.get("prompt"), str | None):
            wrong.append(f"line {number} has a prompt that is no text")
        if wrong:
            listing.broken.extend((folder / name, detail) for detail in wrong)
            continue
        image = folder / row.pop(image_key)
        pair = base_name(image)
        if pair in listing.images:
            listing.doubled.append(image)
        listing.images[pair], listing.masks[pair] = image, MaskSource((folder / row.pop(mask_key),))
        listing.rows[pair] = row
    return listing
