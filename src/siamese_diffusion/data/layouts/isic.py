"""Releases of the ISIC challenges: masks are called like their images, with `_segmentation` added."""

from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing, by_base_name, dead_links, image_files, one_file_each

SUFFIX = "_segmentation"


def read(folder: Path) -> Listing | None:
    """A folder of inputs beside one of ground truth, or all files in one folder."""
    folders = [child for child in folder.iterdir() if child.is_dir()]
    truth = [child for child in folders if any(child.glob(f"*{SUFFIX}.*"))]
    inputs = [child for child in folders if child not in truth and any(child.glob("ISIC_*"))]
    if len(truth) == 1 and len(inputs) == 1:
        return two_folders(inputs[0], truth[0])
    return two_folders(folder, folder) if any(folder.glob(f"*{SUFFIX}.*")) else None


def two_folders(images: Path, masks: Path) -> Listing:
    """Inputs and ground truth, in two folders or in one."""
    marked = [path for path in image_files(masks) if path.stem.endswith(SUFFIX)]
    plain = [path for path in image_files(images) if images != masks or not path.stem.endswith(SUFFIX)]
    found, doubled = by_base_name(plain, SUFFIX)
    drawn, more = by_base_name(marked, SUFFIX)
    links = [link for top in dict.fromkeys((images, masks)) for link in dead_links(top)]
    return Listing("ISIC challenge", found, one_file_each(drawn), doubled=doubled + more, broken=links)
