"""DRIVE, vessels of the retina: `training/images`, `training/1st_manual`; `training/mask` is the camera's field of
view."""

import re
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.pairing import pair_up
from siamese_diffusion.data.layouts.tree import Found, scan
from siamese_diffusion.errors import InputError

FIRST, SECOND, VIEW = "1st_manual", "2nd_manual", "mask"


def read(folder: Path) -> Listing | None:
    """The first observer's vessels; images without them are left out.

    Raises:
        InputError: only fields of view are there.
    """
    if not any((top / FIRST).is_dir() for top in (folder, *folder.glob("*"))):
        _refuse_views(folder)
        return None
    files = scan(folder).files
    manual = [_drawn(found) for found in files if found.path.parent.name == FIRST]
    images = [found for found in files if found.path.parent.name == "images"]
    listing = pair_up(images, manual, "DRIVE")
    if listing is None:
        return None
    listing.notes.append(f"masks are {FIRST}; {VIEW} is the field of view and is not read")
    if any(found.path.parent.name == SECOND for found in files):
        listing.notes.append(f"{SECOND} is another observer and is not read")
    left = len(images) - len(listing.images)
    if left:
        listing.notes.append(f"left out, {left} images without {FIRST}")
    return listing


def _drawn(found: Found) -> Found:
    return replace(found, above=tuple(part for part in found.above if part != FIRST), rest="")


def _refuse_views(folder: Path) -> None:
    views = sorted(path for path in (folder / VIEW).glob("*") if re.fullmatch(r"\d+_(training|test)_mask", path.stem))
    if views and (folder / "images").is_dir():
        raise InputError(
            f"{views[0]}: DRIVE's field of view, not its vessels; put its {FIRST} beside it, or name the masks with "
            "data.masks"
        )
