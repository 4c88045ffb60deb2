"""Two folders side by side, `images/` and `masks/` for example, whose files have the same base names."""

from pathlib import Path

from siamese_diffusion.data.layouts.isic import SUFFIX
from siamese_diffusion.data.layouts.isic import two_folders as isic_folders
from siamese_diffusion.data.layouts.listing import (
    Listing,
    by_base_name,
    dead_links,
    image_files,
    named_as_image,
    not_read,
    one_file_each,
    walk,
)

NAMES = (("images", "masks"), ("image", "mask"), ("image", "masks"), ("images", "mask"))
"""Names of the folders of images and of masks, in any case."""


def read(folder: Path) -> Listing | None:
    """Files of the same base name are a pair; masks that ISIC has marked match without its suffix."""
    folders = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    names = next((names for names in NAMES if all(name in folders for name in names)), None)
    if names is None:
        return None
    images, masks = (folders[name] for name in names)
    if any(path.stem.endswith(SUFFIX) for path in image_files(masks)):
        listing = isic_folders(images, masks)
    else:
        found, doubled = by_base_name(image_files(images))
        drawn, more = by_base_name(image_files(masks))
        links = [*dead_links(images), *dead_links(masks)]
        listing = Listing("images and masks", found, one_file_each(drawn), doubled=doubled + more, broken=links)
    listing.notes.extend(note for top in (images, masks) for note in (_deeper(top), not_read(top)) if note)
    return listing


def _deeper(top: Path) -> str | None:
    """A line on images in sub-folders, which are not read where the folder itself holds the pairs."""
    count = sum(named_as_image(where / name) for where, names in walk(top) if where != top for name in names)
    return f"left out, {count} images in sub-folders of {top.name}" if count else None
