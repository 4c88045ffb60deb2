"""Layouts of image-mask folders: one file a layout, each of which turns a folder into the same listing.

Design note: the first layout that knows a folder has it. Manifests come first, since they say in words what the others
would guess; a manifest of which the folders say otherwise is refused. `folders` comes last, since it takes almost
anything.
"""

from collections.abc import Callable
from pathlib import Path

from siamese_diffusion.data.layouts import (
    coco,
    drive,
    folders,
    isic,
    labelme,
    manifest,
    nnunet,
    parallel,
    pranet,
    subsets,
    table,
    webdataset,
)
from siamese_diffusion.data.layouts.listing import Listing as Listing
from siamese_diffusion.errors import InputError

Reader = Callable[[Path], Listing | None]


def detect(folder: Path) -> Listing | None:
    """The listing of a folder by the first layout that knows it, or None.

    Raises:
        InputError: a manifest cannot be read, or two layouts read the folder as different pairs.
    """
    for read in CERTAIN.values():
        if (listing := read(folder)) is not None:
            return listing
    named = [listing for read in NAMED.values() if (listing := read(folder)) is not None]
    placed = _placed(folder, complete_only=bool(named))
    found = [*named, *([placed] if placed is not None else [])]
    for other in found[1:]:
        _require_same(folder, found[0], other)
    return found[0] if found else None


def _placed(folder: Path, complete_only: bool) -> Listing | None:
    """The listing by where files lie: the first that pairs them all, else the one that pairs most.

    Args:
        folder: to be read.
        complete_only: a manifest names the pairs already; what the folders say counts where they say it clearly.
    """
    incomplete = []
    for read in PLACED.values():
        try:
            listing = read(folder)
        except InputError:
            if not complete_only:
                raise
            continue
        if listing is not None and _is_complete(listing):
            return listing
        if listing is not None:
            incomplete.append(listing)
    if complete_only:
        return None
    return max(incomplete, key=lambda listing: len(listing.images.keys() & listing.masks.keys()), default=None)


def _is_complete(listing: Listing) -> bool:
    return (
        bool(listing.images or listing.test_sets)
        and listing.images.keys() == listing.masks.keys()
        and not listing.doubled
    )


def _require_same(folder: Path, first: Listing, other: Listing) -> None:
    """Two layouts agree on the mask of every image that both know, and one knows no image that the other does not.

    Raises:
        InputError: they do not.
    """
    one, two = (
        {listing.images[name]: listing.masks.get(name) for name in listing.images} for listing in (first, other)
    )
    apart = [path for path in sorted(one.keys() & two.keys()) if one[path] != two[path]]
    if apart or not (one.keys() <= two.keys() or two.keys() <= one.keys()):
        what = f"{apart[0].name} has another mask" if apart else "each has images that the other lacks"
        raise InputError(
            f"{folder}: can be read in two ways, as {first.layout} and as {other.layout}, and {what}; say which with "
            "data.images and data.masks"
        )


def _splits(folder: Path) -> Listing | None:
    return subsets.splits(folder, detect)


def _only_child(folder: Path) -> Listing | None:
    return subsets.only_child(folder, detect)


CERTAIN: dict[str, Reader] = {
    "pairs.jsonl, prompt.json": manifest.read,
    "shards/*.tar": webdataset.read,
    "a PraNet release": pranet.read,
}
"""Layouts that nothing else is asked about: what a user would call one, and its reader."""
NAMED: dict[str, Reader] = {
    "a CSV of paths": table.read,
    "COCO annotations": coco.read,
    "labelme annotations": labelme.read,
}
"""Files that name the pairs."""
PLACED: dict[str, Reader] = {
    "nnU-Net raw data": nnunet.read,
    "DRIVE": drive.read,
    "images/ and masks/": parallel.read,
    "an ISIC release": isic.read,
    "train/ and test/ of any of these": _splits,
    "one folder that holds all": _only_child,
    "folders or files that are called images and masks": folders.read,
}
"""Layouts by where files lie."""
LAYOUTS: dict[str, Reader] = {**CERTAIN, **NAMED, **PLACED}
