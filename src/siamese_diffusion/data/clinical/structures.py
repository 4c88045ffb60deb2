"""DICOM structure sets (RTSTRUCT): contours in the patient's space, as areas on the frames of images.

A contour lies on the frame that it names, else on the one in whose plane it lies; PS3.3 C.7.6.2.1.1 says where a point
is on it.

Design note: where contours of one structure lie in each other on a slice, the inner one is a hole, as planning systems
mean it: areas are joined by exclusive or. The outline of the body (EXTERNAL) is no lesion, and lies around all others;
it is left out unless `data.foreground` names it.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.data.clinical.headers import Instance
from siamese_diffusion.data.shapes import FAR, Points, fill
from siamese_diffusion.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF = 0.5
"""Millimetres by which a contour's points may lie off the plane of a slice."""

Target = tuple[str, int]


class Outline(NamedTuple):
    """A structure on a frame of an image."""

    name: str
    polygons: tuple[Points, ...]
    """Corners (x, y) in pixels from the outer corner of the first one."""

    def area(self, height: int, width: int) -> NDArray[np.bool_]:
        """Pixels (H, W) that it covers."""
        covered = np.zeros((height, width), bool)
        for points in self.polygons:
            covered ^= fill(points, height, width)
        return covered


class Structure(NamedTuple):
    """A structure of a set."""

    name: str
    contours: tuple["Dataset", ...]


def structures_of(head: "Dataset", wanted: Collection[str], left: Counter[str]) -> list[Structure]:
    """The structures of a set that cover an area; others are counted.

    Args:
        head: of the file.
        wanted: names of structures that are taken though they are the body's outline.
        left: counts what is left out.
    """
    kinds = {
        int(row.ReferencedROINumber): str(row.get("RTROIInterpretedType", "") or "").upper()
        for row in head.get("RTROIObservationsSequence") or []
    }
    rows = head.get("ROIContourSequence") or []
    drawn = {int(row.ReferencedROINumber): row.get("ContourSequence") or [] for row in rows}
    found = []
    for row in head.StructureSetROISequence:
        number = int(row.ROINumber)
        name = str(row.get("ROIName", "") or "").strip() or f"structure {number}"
        contours = drawn.get(number, [])
        closed = tuple(one for one in contours if str(one.get("ContourGeometricType", "")).upper() in AREAS)
        if kinds.get(number) == "EXTERNAL" and name not in wanted:
            left["outlines of the body (EXTERNAL)"] += 1
        elif not closed:
            left["structures that cover no area"] += 1
        else:
            left["contours that cover no area"] += len(contours) - len(closed)
            found.append(Structure(name, closed))
    return found


def outlines_of(
    path: Path, structures: Sequence[Structure], images: Sequence[Instance], left: Counter[str]
) -> dict[Target, list[Outline]]:
    """Where structures lie on frames of images; nothing where they are of images that are not there.

    Raises:
        InputError: contours lie across the slices, or an image does not say where it lies.
        ValueError: a contour is damaged.
    """
    known = {image.uid: image for image in images}
    lost: Counter[str] = Counter()
    polygons: dict[tuple[Target, str], list[Points]] = defaultdict(list)
    for structure in structures:
        for contour in structure.contours:
            corners = _corners(contour)
            for image, frame in _frames(contour, corners, known, images, lost):
                polygons[(image.uid, frame), structure.name].append(_laid(path, corners, image, frame))
    left.update(lost if polygons else {"structure sets of images that are not there": 1})
    found: dict[Target, list[Outline]] = defaultdict(list)
    for (target, name), parts in polygons.items():
        found[target].append(Outline(name, tuple(parts)))
    return found


def _corners(contour: "Dataset") -> NDArray[np.float64]:
    """(N, 3) in millimetres."""
    values = np.array([float(value) for value in contour.ContourData], np.float64)
    if not values.size or values.size % 3 or not (np.abs(values) < FAR).all():
        raise ValueError("a contour's points are not triples of numbers")
    return values.reshape(-1, 3)


def _frames(
    contour: "Dataset",
    corners: NDArray[np.float64],
    known: dict[str, Instance],
    images: Sequence[Instance],
    left: Counter[str],
) -> Iterator[tuple[Instance, int]]:
    """The frames that a contour is on; those that it names may not be there."""
    named = contour.get("ContourImageSequence") or []
    for item in named:
        image = known.get(str(item.get("ReferencedSOPInstanceUID", "")))
        for number in np.atleast_1d(item.get("ReferencedFrameNumber") or 1):
            if image is not None:
                if not 0 < int(number) <= image.frames:
                    raise ValueError(f"a contour lies on frame {number} of an image of {image.frames}")
                yield image, int(number) - 1
    if named:
        return
    near = [
        (distance, image, frame)
        for image in images
        for frame, place in enumerate(image.positions)
        if len(place) == 9 and (distance := float(np.abs(_across(corners, place)).max())) <= OFF
    ]
    if not near:
        left["contours that lie on no slice"] += 1
        return
    series = {image.series: (image, frame) for _, image, frame in sorted(near, key=lambda one: -one[0])}
    yield from series.values()  # of each series the nearest slice


def _across(corners: NDArray[np.float64], place: tuple[float, ...]) -> NDArray[np.float64]:
    """Millimetres (N,) by which points lie off a plane."""
    return np.asarray((corners - place[:3]) @ np.cross(place[3:6], place[6:9]))


def _laid(path: Path, corners: NDArray[np.float64], image: Instance, frame: int) -> Points:
    """A contour's corners in pixels of a frame."""
    place = image.positions[frame] if frame < len(image.positions) else ()
    if len(place) != 9 or len(image.spacing) != 2 or not all(0 < value < FAR for value in image.spacing):
        raise InputError(f"{path}: {image.path.name} does not say where it lies and how large its pixels are")
    off = float(np.abs(_across(corners, place)).max())
    if off > OFF:
        raise InputError(
            f"{path}: has a contour that lies up to {off:.1f} mm off its slice {image.path.name}; only contours in the "
            "plane of a slice are read"
        )
    down, across = image.spacing
    x = (corners - place[:3]) @ np.array(place[3:6]) / across + 0.5
    y = (corners - place[:3]) @ np.array(place[6:9]) / down + 0.5
    return tuple(zip(x.tolist(), y.tolist(), strict=True))
