"""What is wrong with a data folder as a whole, which no pair shows by itself."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts import Listing
from siamese_diffusion.data.looks import Facts, Problem
from siamese_diffusion.data.splits import own_test_pairs, require_disjoint, validation_list
from siamese_diffusion.errors import InputError, printable

MANY = 0.8
"""Share of the masks that says something of the whole set."""
ALIKE = 0.5
"""Share of the masks that are one and the same, above which that is told."""
FEWEST = 4
"""So many equal masks are no chance."""


def unpaired(listing: Listing) -> Iterator[Problem]:
    """Files without a partner, and rows and links that lead nowhere."""
    images, masks = listing.images, listing.masks
    for path, detail in listing.broken:
        yield Problem("manifest", printable(path), detail, fatal=True)
    for path in listing.doubled:
        yield Problem("duplicate name", printable(path), "another file has its base name", fatal=True)
    for name in sorted(images.keys() - masks.keys()):
        yield Problem("unpaired", printable(images[name]), "has no mask", fatal=True)
    for name in sorted(masks.keys() - images.keys()):
        yield Problem("unpaired", printable(masks[name].path), "has no image", fatal=True)


def listed(folder: DataFolder, split: str | None) -> tuple[dict[str, int], list[Problem]]:
    """Pairs of each split, and what is wrong with the lists; `split` is the one that is trained on."""
    file = str(folder.splits_file)
    try:
        lists = folder.lists or {}
    except InputError as error:
        return {}, [Problem("split", file, str(error).partition(": ")[2], fatal=True)]
    listing = folder.require_listing()
    known = listing.images.keys() & listing.masks.keys()
    used = {split, "val", "test"}
    problems = [
        Problem("split", file, f"{part} names {name}, which is not there", fatal=part in used)
        for part, names in lists.items()
        for name in names
        if name not in known
    ]
    where: dict[str, str] = {}
    for part, names in lists.items():
        for name in dict.fromkeys(names):
            if where.setdefault(name, part) != part:
                problems.append(Problem("split", file, f"{name} is in {where[name]} and {part}"))
    return {part: len(names) for part, names in lists.items()}, problems


def files_used(folder: DataFolder, settings: DataConfig) -> set[Path]:
    """Images that `train` or `segment` would read.

    Raises:
        InputError: one of them would be refused before it reads any.
    """
    chosen = folder.pairs(settings.split, settings.limit, settings.limit_seed)
    picked, tests = validation_list(folder) or [], own_test_pairs(folder)
    require_disjoint([*chosen, *picked], {"test": tests})
    return {pair.image.path for pair in (*chosen, *picked, *tests)}


def undecided(decoding: Decoding) -> Problem | None:
    """Why the masks have no meaning that all agree on."""
    try:
        assert decoding.coding
    except InputError as error:
        file, _, detail = str(error).partition(": ")
        return Problem("mask values", file, detail, fatal=True)
    return None


def of_the_set(facts: Sequence[Facts]) -> Iterator[Problem]:
    """What only all masks together show."""
    marked = [fact for fact in facts if fact.shape]
    framed = [fact for fact in marked if fact.framed]
    if len(marked) > 1 and len(framed) >= MANY * len(marked):
        detail = (
            f"{len(framed)} of {len(marked)} masks mark most of the image and its rim; "
            "is the lesion dark? data.invert=true"
        )
        yield Problem("inverted", str(framed[0].mask.path), detail)
    elif len(marked) > 1:
        for fact in framed:
            detail = "marks most of the image and its rim, as most of the others do not; is its lesion dark?"
            yield Problem("inverted alone", printable(fact.mask.path), detail)
    shapes = Counter(fact.shape for fact in marked)
    shape, times = shapes.most_common(1)[0] if shapes else ("", 0)
    if times >= FEWEST and times > ALIKE * len(marked):
        first = next(fact for fact in marked if fact.shape == shape)
        detail = f"{times} of {len(marked)} masks are the same; is it the field of view, and not a lesion?"
        yield Problem("identical masks", str(first.mask.path), detail)
    for fact in facts:
        if fact.flat:
            yield Problem("flat image", str(fact.image), "all its pixels are alike")


def refusal(folder: DataFolder, settings: DataConfig) -> Problem | None:
    """Why `train` or `segment` would not begin to read pairs."""
    try:
        files_used(folder, settings)
    except InputError as error:
        file, _, detail = str(error).partition(": ")
        return Problem("split", file, detail, fatal=True)
    return None


def no_lesions(folder: DataFolder, facts: Sequence[Facts], settings: DataConfig) -> Iterator[Problem]:
    """Nothing is to be learnt from the pairs that `train` would take, which it can begin to read."""
    chosen = {pair.image.path for pair in folder.pairs(settings.split, settings.limit, settings.limit_seed)}
    seen = [fact.held for fact in facts if fact.image in chosen and fact.coverage is not None]
    held = frozenset[int]().union(*seen)
    at = f"at data.resolution = {settings.resolution}"
    for what, none in (("empty", held == {0}), ("full", len(held) == 1 and held != {0})):
        if seen and none:
            detail = f"every mask that training would take is {what} {at}"
            yield Problem("no lesion", str(folder.path), detail, fatal=True)
    for number, name in enumerate(folder.decoding.class_names, 1):
        if seen and held != {0} and number not in held:
            detail = f"no mask that training would take shows {name} {at}; leave it out of data.classes"
            yield Problem("no lesion", str(folder.path), detail, fatal=True)


def lost(facts: Sequence[Facts], lesions: dict[str, Any]) -> Iterator[Problem]:
    """Lesions that training would not see."""
    small = lesions["lost"] - lesions["cut_off"]
    if small:
        first = next(fact for fact in facts if fact.losses.lost > fact.losses.cut_off)
        keeping = lesions["keeping"]
        wanted = (
            f"data.resolution={keeping} is the first that keeps them" if keeping else "none up to 2048 keeps them all"
        )
        detail = (
            f"at data.resolution={lesions['resolution']}, {small} of {lesions['count']} lesions keep less than half "
            f"of their pixels; {wanted}"
        )
        yield Problem("lost lesions", str(first.mask.path), detail)
    if lesions["cut_off"]:
        first = next(fact for fact in facts if fact.losses.cut_off)
        detail = f"data.fit=crop cuts off {lesions['cut_off']} of {lesions['count']} lesions"
        yield Problem("lost lesions", str(first.mask.path), detail)
