"""WebDataset shards: `shards/*.tar`, with this package's `shards.json` or without."""

from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing, one_file_each
from siamese_diffusion.data.prepared import read as read_prepared
from siamese_diffusion.data.shards import MANIFEST, find_shards, read_shards


def read(folder: Path) -> Listing | None:
    """Images and masks as paths of members of the archives."""
    if not find_shards(folder) and not (folder / MANIFEST).exists():
        return None
    images, masks, rows, doubled, broken = read_shards(folder)
    prepared = read_prepared(folder)
    listing = Listing("WebDataset shards", images, one_file_each(masks), rows, doubled, broken, prepared=prepared)
    listing.classes.update(prepared.classes if prepared is not None and prepared.labels else {})
    return listing
