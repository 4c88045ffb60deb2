"""Layouts of image-mask folders: one file a layout, each of which turns a folder into the same listing.

Design note: the first layout that knows a folder has it. Manifests come first, since they say in words what the others
would guess.
"""

from collections.abc import Callable
from pathlib import Path

from siamese_diffusion.data.layouts import isic, manifest, parallel, pranet, webdataset
from siamese_diffusion.data.layouts.listing import Listing as Listing

LAYOUTS: dict[str, Callable[[Path], Listing | None]] = {
    "pairs.jsonl, prompt.json": manifest.read,
    "shards/*.tar": webdataset.read,
    "a PraNet release": pranet.read,
    "images/ and masks/": parallel.read,
    "an ISIC release": isic.read,
}
"""What a user would call a layout, and its reader: folder to listing, or None where the folder has another layout."""


def detect(folder: Path) -> Listing | None:
    """The listing of a folder by the first layout that knows it, or None.

    Raises:
        InputError: a manifest cannot be read.
    """
    return next((found for read in LAYOUTS.values() if (found := read(folder)) is not None), None)
