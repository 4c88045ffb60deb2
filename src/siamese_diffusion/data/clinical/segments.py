"""DICOM segmentation objects and structure sets: what they mark on which frame of which image, and with what label."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.clinical.cases import Options
from siamese_diffusion.data.clinical.headers import Instance, groups_of, place_of
from siamese_diffusion.data.clinical.pixels import frames
from siamese_diffusion.data.clinical.structures import Outline, outlines_of, structures_of
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.errors import InputError, refused

if TYPE_CHECKING:
    from pydicom import Dataset

Target = tuple[str, int]
"""UID of an image and the index of a frame in it."""

NEAR = 0.01
"""Millimetres, and shares of a direction, by which the same place may differ in two files."""


class Mark(NamedTuple):
    """A frame of a segmentation."""

    path: Path
    frame: int
    labels: tuple[tuple[int, int], ...]
    """Stored value and label; one value of 1 where the frame is of one segment."""
    most: int
    """Of a frame that holds shares, the value that is the whole; else 1."""


class Drawn(NamedTuple):
    """A structure on a frame."""

    label: int
    outline: Outline


@dataclass
class Marks:
    """All segmentations and structure sets of a folder."""

    of: dict[Target, list[Mark | Drawn]] = field(default_factory=lambda: defaultdict(list))
    classes: dict[int, str] = field(default_factory=dict)
    series: set[str] = field(default_factory=set)
    """Series that are segmented: a frame of theirs without a mark holds no lesion."""


def read_marks(
    paths: Sequence[Path],
    sets: Sequence[Path],
    images: Sequence[Instance],
    options: Options,
    wanted: Collection[str] = (),
) -> Marks:
    """Find the images of all segmentations and structure sets.

    Args:
        paths: of the segmentations.
        sets: of the structure sets.
        images: of the folder.
        options: count what is left out.
        wanted: names that `data.foreground` asks for.

    Raises:
        InputError: one is damaged, marks images that are not there, or has another size than they.
    """
    import pydicom

    heads: list[tuple[Path, Dataset]] = []
    for path in paths:
        with options.damaged("damaged files"), refused(f"{path}: the segmentation cannot be read"):
            heads.append((path, pydicom.dcmread(path, stop_before_pixels=True)))
    outlines: list[tuple[Target, Outline]] = []
    for path in sets:
        with options.damaged("damaged files"), refused(f"{path}: the structure set is damaged"):
            structures = structures_of(pydicom.dcmread(path, force=True), wanted, options.left)
            there = outlines_of(path, structures, images, options.left)
            outlines += [(target, outline) for target, parts in there.items() for outline in parts]
    labels = _labels(heads, [outline.name for _, outline in outlines])
    found = Marks(classes={number: name for name, number in labels.items()})
    for path, head in heads:
        with options.damaged("segmentations of images that are not there, or damaged"):
            _add_segmentation(found, path, head, images, labels)
    series = {image.uid: image.series for image in images}
    for target, outline in outlines:
        found.of[target].append(Drawn(labels[outline.name], outline))
        found.series.add(series[target[0]])
    return found


def _add_segmentation(
    found: Marks, path: Path, head: "Dataset", images: Sequence[Instance], labels: dict[str, int]
) -> None:
    known = {image.uid: image for image in images}
    with refused(f"{path}: the segmentation is damaged"):
        marks = list(_marks_of(path, head, known, images, labels))
    if not marks:
        raise InputError(f"{path}: marks no image of the folder")
    for target, _ in marks:
        image = known[target[0]]
        if image.size != (int(head.Columns), int(head.Rows)):
            sizes = f"{head.Columns} x {head.Rows}, and its image {image.size[0]} x {image.size[1]}"
            raise InputError(f"{path}: is {sizes} pixels")
        if not 0 <= target[1] < image.frames:
            raise InputError(f"{path}: marks frame {target[1] + 1} of an image of {image.frames}")
    for target, mark in marks:
        found.of[target].append(mark)
        found.series.add(known[target[0]].series)


def draw(
    wanted: Sequence[tuple[Sequence[Mark | Drawn], tuple[int, int]]], chosen: Collection[int] | None = None
) -> list[Pixels]:
    """Label maps (H, W) of frames of images, each with its marks and its width and height; each file is read once.

    Where segments overlap the one of the higher label counts, of those `chosen`; None: of all.
    """
    needed: dict[Path, set[int]] = defaultdict(set)
    for marks, _ in wanted:
        for mark in marks:
            if isinstance(mark, Mark):
                needed[mark.path].add(mark.frame)
    read: dict[tuple[Path, int], NDArray[Any]] = {}
    for path, indices in needed.items():
        order = sorted(indices)
        read |= {(path, index): values for index, (_, values) in zip(order, frames(path, order), strict=True)}
    drawn = []
    for marks, (width, height) in wanted:
        labels = np.zeros((height, width), np.uint8)
        areas = [
            area
            for mark in marks
            for area in (
                _areas(mark, read[mark.path, mark.frame])
                if isinstance(mark, Mark)
                else [(mark.label, mark.outline.area(height, width))]
            )
        ]
        for label, area in sorted(areas, key=lambda each: each[0]):
            if chosen is None or label in chosen:
                labels[area] = label
        drawn.append(labels)
    return drawn


def _areas(mark: Mark, values: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Labels of a frame of a segmentation, with the pixels that bear them."""
    if mark.most > 1:
        return [(mark.labels[0][1], 2 * values.astype(np.int64) >= mark.most)]
    return [(label, values == value) for value, label in mark.labels]


def _labels(heads: Sequence[tuple[Path, "Dataset"]], structures: Sequence[str]) -> dict[str, int]:
    """Labels by the names of segments and structures, the same over all files."""
    segments = {_name(segment) for _, head in heads for segment in head.get("SegmentSequence") or []}
    names = sorted(segments | set(structures))
    return {name: number for number, name in enumerate(names, start=1)}


def _name(segment: "Dataset") -> str:
    return str(segment.get("SegmentLabel", "") or "").strip() or f"segment {segment.get('SegmentNumber', 1)}"


def _marks_of(
    path: Path, head: "Dataset", known: dict[str, Instance], images: Sequence[Instance], labels: dict[str, int]
) -> Iterator[tuple[Target, Mark]]:
    named = {int(segment.SegmentNumber): labels[_name(segment)] for segment in head.SegmentSequence}
    kind = str(head.get("SegmentationType", "BINARY")).upper()
    most = int(head.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else 1
    for index in range(int(head.get("NumberOfFrames") or 1)):
        groups = groups_of(head, index)
        if kind == "LABELMAP":
            values = tuple(sorted(named.items()))
        else:
            number = next(
                int(item.ReferencedSegmentNumber)
                for group in reversed(groups)
                for item in group.get("SegmentIdentificationSequence") or []
            )
            values = ((1, named[number]),)
        for target in _targets(head, groups, index, known, images):
            yield target, Mark(path, index, values, most)


def _targets(
    head: "Dataset", groups: Sequence["Dataset"], index: int, known: dict[str, Instance], images: Sequence[Instance]
) -> list[Target]:
    """The frames that one of a segmentation marks: those it names, else those that lie where it lies."""
    sources = [
        source
        for group in groups
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
    ]
    found = []
    for source in sources:
        uid = str(source.get("ReferencedSOPInstanceUID", ""))
        numbers = np.atleast_1d(source.get("ReferencedFrameNumber") or 1)
        found += [(uid, int(number) - 1) for number in numbers if uid in known]
    if sources:
        return found
    place, reference = place_of(head, index), str(head.get("FrameOfReferenceUID", ""))
    return [
        (image.uid, frame)
        for image in images
        if place and reference and image.reference == reference
        for frame, other in enumerate(image.positions)
        if len(other) == len(place) and np.allclose(other, place, atol=NEAR)
    ]
