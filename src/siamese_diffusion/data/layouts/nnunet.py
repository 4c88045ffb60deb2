"""nnU-Net's raw data: `imagesTr/CASE_0000.png`, `labelsTr/CASE.png` and `dataset.json`, which names the labels."""

from pathlib import Path
from typing import Any

from siamese_diffusion.data.decoding import MaskSource
from siamese_diffusion.data.layouts.listing import Listing, dead_links, image_files
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json

FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesVal", "labelsVal", "val"), ("imagesTs", "labelsTs", "test"))
CHANNEL = "_0000"


def read(folder: Path) -> Listing | None:
    """Cases with their labels; test images without labels are left out.

    Raises:
        InputError: a case has several channels.
    """
    if not (folder / "imagesTr").is_dir() or not (folder / "labelsTr").is_dir():
        return None
    cases = image_files(folder / "imagesTr")
    if not cases or not all(path.stem[-5:-4] == "_" and path.stem[-4:].isdigit() for path in cases):
        return None
    listing = Listing("nnU-Net raw data", {}, {}, classes=classes_of(folder / "dataset.json"))
    for images, labels, split in FOLDERS:
        if not (folder / images).is_dir():
            continue
        if not (folder / labels).is_dir():
            listing.notes.append(f"left out, {len(image_files(folder / images))} images without labels: {images}")
            continue
        listing.broken.extend([*dead_links(folder / images), *dead_links(folder / labels)])
        found = _one_channel(image_files(folder / images))
        drawn = {path.stem: MaskSource((path,)) for path in image_files(folder / labels)}
        listing.doubled.extend(path for name, path in found.items() if name in listing.images)
        listing.images.update(found)
        listing.masks.update(drawn)
        listing.splits[split] = sorted(found.keys() & drawn.keys())
    if listing.splits.keys() == {"train"}:
        listing.splits.clear()
    return listing


def _one_channel(files: list[Path]) -> dict[str, Path]:
    for path in files:
        if not path.stem.endswith(CHANNEL):
            raise InputError(
                f"{path}: a second channel of a case; images of one file each are read, so name the channel that is "
                f"meant, data.images='imagesTr/*{CHANNEL}.*' with data.masks='labelsTr/*'"
            )
    return {path.stem.removesuffix(CHANNEL): path for path in files}


def classes_of(path: Path) -> dict[int, str]:
    """Names of the labels: `{"polyp": 1}`, or `{"1": "polyp"}` as before version 2."""
    content: Any = read_json(path) if path.exists() else {}
    labels = content.get("labels", {}) if isinstance(content, dict) else {}
    if not isinstance(labels, dict):
        return {}
    both = [(value, name) if isinstance(value, int) else (name, value) for name, value in labels.items()]
    named = {int(number): str(name) for number, name in both if str(number).isdigit()}
    return {number: name for number, name in sorted(named.items()) if number}
