"""Two folders side by side, `images/` and `masks/` for example, whose files have the same base names."""

from pathlib import Path

from siamese_diffusion.data.layouts.isic import SUFFIX
from siamese_diffusion.data.layouts.isic import two_folders as isic_folders
from siamese_diffusion.data.layouts.listing import Listing, by_base_name, image_files, one_file_each

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
        return isic_folders(images, masks)
    found, doubled = by_base_name(image_files(images))
    drawn, more = by_base_name(image_files(masks))
    return Listing("images and masks", found, one_file_each(drawn), doubled=doubled + more)
