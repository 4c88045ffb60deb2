"""What DICOM files are, by their headers: images, segmentations, or something that is left out and counted."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_diffusion.data.clinical.cases import Options
from siamese_diffusion.data.clinical.told import clinical_files
from siamese_diffusion.errors import refused
from siamese_diffusion.progress import track

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = (
    "SOPClassUID SOPInstanceUID PatientID PatientName StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID "
    "InstanceNumber ImagePositionPatient ImageOrientationPatient PixelSpacing NumberOfFrames Rows Columns Modality "
    "BurnedInAnnotation DirectoryRecordSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "MediaStorageSOPClassUID"
)
_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_NO_IMAGES = frozenset({"1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.1.3.10"})
"""Classes with pixels that are no picture: RT Dose; and directories."""


@dataclass(frozen=True)
class Instance:
    """An image file."""

    path: Path
    uid: str
    patient: str
    """The patient's ID; empty where the file does not say it."""
    study: str
    series: str
    reference: str
    """UID of the frame of reference, in which positions of several series are one."""
    number: int
    positions: tuple[tuple[float, ...], ...]
    """Of each frame's first pixel, in millimetres, and how its rows and columns lie: 9 numbers; empty where unknown."""
    size: tuple[int, int]
    """Width and height."""
    frames: int
    spacing: tuple[float, ...] = ()
    """Millimetres from a pixel to the one below it, and to the one beside it; empty where unknown."""

    @property
    def along(self) -> float:
        """Where the first frame lies along the series' normal, in millimetres; 0 where unknown."""
        if not self.positions or len(self.positions[0]) < 9:
            return 0.0
        first = np.array(self.positions[0])
        return float(np.dot(first[:3], np.cross(first[3:6], first[6:9])))


@dataclass
class Headers:
    """All DICOM files of a folder."""

    images: list[Instance] = field(default_factory=list)
    segmentations: list[Path] = field(default_factory=list)
    structures: list[Path] = field(default_factory=list)
    """Structure sets."""
    left: Counter[str] = field(default_factory=Counter)
    """Files that are neither, by what they are."""


def scan(folder: Path, options: Options) -> Headers:
    """Read the headers of a folder's DICOM files.

    Raises:
        InputError: one is damaged.
    """
    import pydicom

    found = Headers()
    files = [path for path, kind in clinical_files(folder) if kind == "DICOM"]
    for path in track(files, "looking at DICOM files"):
        if path.name.upper() == "DICOMDIR":
            found.left["directories (DICOMDIR)"] += 1
            continue
        with options.damaged("damaged files"):
            with refused(f"{path}: not a DICOM file that can be read"):
                head = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS.split())
            _sort(found, path, head, folder)
    return found


def _sort(found: Headers, path: Path, head: "Dataset", folder: Path) -> None:
    with refused(f"{path}: its header is damaged"):
        kind = str(head.get("SOPClassUID", ""))
        if not kind and not head.get("Rows"):
            raise ValueError("it says neither what it is nor its size")
        if kind in _SEGMENTATIONS:
            found.segmentations.append(path)
        elif kind == _STRUCTURES:
            found.structures.append(path)
        elif kind in _NO_IMAGES or not head.get("Rows") or not head.get("Columns"):
            found.left[_called(head)] += 1
        elif str(head.get("BurnedInAnnotation", "")).upper() == "YES":
            found.left["images with a patient's data drawn into the pixels (Burned In Annotation)"] += 1
        else:
            found.images.append(_instance(path, head, folder))


def _called(head: "Dataset") -> str:
    from pydicom.uid import UID

    kind = UID(str(head.get("SOPClassUID", "")))
    return kind.name.removesuffix(" Storage") if kind.name != str(kind) else "objects without pixels"


def _instance(path: Path, head: "Dataset", folder: Path) -> Instance:
    where = path.parent.relative_to(folder).as_posix()
    frames = int(head.get("NumberOfFrames") or 1)
    return Instance(
        path,
        str(head.get("SOPInstanceUID", "") or path),
        str(head.get("PatientID", "") or "").strip(),
        str(head.get("StudyInstanceUID", "")),
        str(head.get("SeriesInstanceUID", "") or where),
        str(head.get("FrameOfReferenceUID", "")),
        int(head.get("InstanceNumber") or 0),
        tuple(place_of(head, index) for index in range(frames)) if _has_place(head) else (),
        (int(head.Columns), int(head.Rows)),
        frames,
        _spacing_of(head),
    )


def _spacing_of(head: "Dataset") -> tuple[float, ...]:
    """Of the pixels of the first frame."""
    spacing = head.get("PixelSpacing")
    for group in groups_of(head, 0):
        for item in (group.get("PixelMeasuresSequence") or [])[:1]:
            spacing = item.get("PixelSpacing") or spacing
    return tuple(float(value) for value in spacing or ())


def _has_place(head: "Dataset") -> bool:
    return bool(head.get("ImagePositionPatient") or head.get("PerFrameFunctionalGroupsSequence"))


def place_of(head: "Dataset", index: int) -> tuple[float, ...]:
    """Position and orientation (9 numbers) of a frame; empty where the header does not say it."""
    position = head.get("ImagePositionPatient")
    turn = head.get("ImageOrientationPatient")
    for group in groups_of(head, index):
        for item in (group.get("PlanePositionSequence") or [])[:1]:
            position = item.get("ImagePositionPatient") or position
        for item in (group.get("PlaneOrientationSequence") or [])[:1]:
            turn = item.get("ImageOrientationPatient") or turn
    if not position or not turn:
        return ()
    return tuple(float(value) for value in (*position, *turn))


def groups_of(head: "Dataset", index: int) -> list[Any]:
    """The functional groups that hold for a frame: those that all share, then its own."""
    shared = head.get("SharedFunctionalGroupsSequence") or []
    own = head.get("PerFrameFunctionalGroupsSequence") or []
    return [*shared[:1], *own[index : index + 1]]
