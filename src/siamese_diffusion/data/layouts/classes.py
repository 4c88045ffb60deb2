"""Masks of which each file is a class, told by a word in its name that the user gives: `a_polyp.png`,
`a_instrument.png`."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.data.layouts.pairing import pair_up
from siamese_diffusion.data.layouts.tree import Found, scan
from siamese_diffusion.data.layouts.words import plain
from siamese_diffusion.errors import InputError

OPTION = "--class-files"


def read(folder: Path, words: Sequence[str]) -> Listing:
    """The pairs of a folder.

    Args:
        folder: of images and masks, in one folder or several.
        words: what masks' names begin or end with, a class each; where classes overlap the later one counts.

    Raises:
        InputError: fewer than two words, one that no file has, a mask with none, or masks that belong to no image.
    """
    said = ",".join(words)
    if len(words) < 2 or len({plain(word) for word in words}) < len(words) or not all(words):
        raise InputError(f"{OPTION} {said}: expected what the files of each class are called, as in polyp,instrument")
    tree = scan(folder)
    images: list[Found] = []
    masks: list[Found] = []
    for found in tree.files:
        number = next((number for number, word in enumerate(words) if _has(found.path.stem, word)), None)
        if number is not None and found.role != "image":
            masks.append(replace(found, role="mask", above=(*found.above, f"{number:03d} class")))
        elif found.role == "mask":
            raise InputError(f"{found.path}: its name has none of {OPTION} {said}")
        elif found.role != "ignored":
            images.append(found)
    lacking = [word for word in words if not any(_has(found.path.stem, word) for found in masks)]
    if lacking:
        raise InputError(f"{OPTION} {said}: {folder}: no mask's name begins or ends with {lacking[0]}")
    listing = pair_up(images, masks, "a class a file")
    if listing is None or listing.masks.keys() - listing.images.keys():
        raise InputError(f"{OPTION} {said}: {folder}: masks are not called like images with a class added")
    listing.classes.clear()
    listing.classes.update(enumerate(words, start=1))
    kept = [note for note in listing.notes if "class" not in note]
    listing.notes[:] = [*kept, f"a mask file a class; where classes overlap the later one counts: {', '.join(words)}"]
    listing.broken.extend(tree.broken)
    return listing


def _has(stem: str, word: str) -> bool:
    """Whether a name begins or ends with a word, and not within another."""
    text, edge = plain(stem), r"[^\W_]"
    return bool(re.search(rf"(^{re.escape(plain(word))}(?!{edge}))|((?<!{edge}){re.escape(plain(word))}$)", text))
