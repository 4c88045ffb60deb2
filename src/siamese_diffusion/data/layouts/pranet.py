"""PraNet's release of five polyp sets: `TrainDataset/`, and `TestDataset/NAME/` for each test set."""

from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts import isic, manifest, parallel, webdataset
from siamese_diffusion.data.layouts.listing import Listing
from siamese_diffusion.errors import InputError

TRAIN, TEST = "TrainDataset", "TestDataset"


def read(folder: Path) -> Listing | None:
    """Pairs to train on, and the test sets apart; `TestDataset` itself may be given, which has no other pairs."""
    training = _inner(folder / TRAIN) if (folder / TRAIN).is_dir() else None
    top = folder / TEST if (folder / TEST).is_dir() else folder
    tests = _test_sets(top) if top.name == TEST and _inner(top) is None else {}
    if training is None and not tests:
        return None
    own = training or Listing("PraNet test sets", {}, {})
    return replace(own, test_sets=tests)


def _test_sets(top: Path) -> dict[str, Listing]:
    """Listings of the folders of `TestDataset`, by name.

    Raises:
        InputError: one of them holds no pairs.
    """
    found = {}
    for child in sorted(top.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            listing = _inner(child)
            if listing is None:
                raise InputError(f"{child}: no image-mask pairs; every folder of {TEST} is a test set")
            found[child.name] = listing
    return found


def _inner(folder: Path) -> Listing | None:
    """The pairs of one set, in any layout but this one."""
    readers = (manifest.read, webdataset.read, parallel.read, isic.read)
    return next((found for read in readers if (found := read(folder)) is not None), None)
