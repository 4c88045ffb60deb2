"""Folders of which each is a whole: `train/` and `test/` in any layout, or a single one that holds everything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from siamese_diffusion.data.layouts.listing import Listing, named_as_image, walk
from siamese_diffusion.data.layouts.table import merge
from siamese_diffusion.data.layouts.words import meaning

Detect = Callable[[Path], Listing | None]


def splits(folder: Path, detect: Detect) -> Listing | None:
    """Sub-folders that are called like splits and have a layout each; one without masks is left out."""
    children = _children(folder)
    called = {child: said.split for child in children if (said := meaning(child.name)).split and said.role is None}
    if len(set(called.values())) < len(called):
        return None
    found = {child: detect(child) for child in called}
    parts = {str(called[child]): listing for child, listing in found.items() if listing is not None and listing.images}
    if not parts or any(listing.test_sets or listing.splits for listing in parts.values()):
        return None
    layouts = sorted({listing.layout for listing in parts.values()})
    whole = merge(parts, f"{', '.join(layouts)}; a folder a split")
    for child in children:
        if found.get(child) is None and (count := _count(child)):
            whole.notes.append(f"left out, {count} images that no pair needs: {child.name}")
    return whole


def only_child(folder: Path, detect: Detect) -> Listing | None:
    """The one sub-folder that holds everything, as archives unpack."""
    if any(named_as_image(path) for path in folder.iterdir() if path.is_file()):
        return None
    children = [child for child in _children(folder) if any(files for _, files in walk(child))]
    if len(children) != 1:
        return None
    listing = detect(children[0])
    if listing is None:
        return None
    return listing if listing.root is not None else replace(listing, root=children[0])


def _children(folder: Path) -> list[Path]:
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX"
    )


def _count(folder: Path) -> int:
    return sum(named_as_image(top / name) for top, names in walk(folder) for name in names)
