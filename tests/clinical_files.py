"""DICOM and NIfTI files for tests, made small."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT, MR, CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
NAME, IDENTITY, BORN = "Mustermann^Erika", "PAT-77-4711", "19640812"
"""What must never be written."""


def uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["test", *map(str, parts)]))


def header(kind: str, key: object, patient: str = IDENTITY, series: object = 0) -> Dataset:
    """The head of a file, with everything that tells whose it is."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = UID(kind)
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = UID(uid(patient, series, key))
    found.PatientName, found.PatientID, found.PatientBirthDate = NAME, patient, BORN
    found.StudyInstanceUID, found.SeriesInstanceUID = uid(patient, "study"), uid(patient, series)
    found.FrameOfReferenceUID = uid(patient, "reference")
    found.Modality = {CT: "CT", MR: "MR", SEG: "SEG"}.get(kind, "OT")
    found.InstitutionName, found.StudyDate = f"Clinic of {NAME}", "20240102"
    return found


def write(path: Path, head: Dataset) -> Dataset:
    path.parent.mkdir(parents=True, exist_ok=True)
    head.save_as(path, enforce_file_format=True)
    return head


def image(
    path: Path, pixels: NDArray[Any], kind: str = CAPTURE, patient: str = IDENTITY, series: object = 0, **more: Any
) -> Dataset:
    """An image (H, W), (H, W, 3), or of several frames (N, H, W) with `NumberOfFrames`."""
    head = header(kind, path, patient, series)
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = int(more.get("NumberOfFrames", 1))
    head.Rows, head.Columns = pixels.shape[:2] if frames == 1 else pixels.shape[1:3]
    head.SamplesPerPixel = 3 if colour else 1
    if colour:
        head.PlanarConfiguration = 0
    head.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    head.BitsAllocated = head.BitsStored = 8 * pixels.dtype.itemsize
    head.HighBit = head.BitsStored - 1
    head.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in more.items():
        setattr(head, name, value)
    head.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    return write(path, head)


def segmentation(
    path: Path,
    marks: Sequence[tuple[Dataset, int, str, NDArray[np.bool_]]],
    patient: str = IDENTITY,
    by_place: bool = False,
    **more: Any,
) -> Dataset:
    """A segmentation object: image and its frame, from 0, segment and mask of each frame."""
    head = header(SEG, path, patient, "segmentation")
    names = sorted({name for _, _, name, _ in marks})
    head.SegmentationType = "BINARY"
    head.SegmentSequence = Items(_segment(number, name) for number, name in enumerate(names, start=1))
    shape = marks[0][3].shape
    head.Rows, head.Columns, head.NumberOfFrames = *shape, len(marks)
    head.SamplesPerPixel, head.PhotometricInterpretation, head.PixelRepresentation = 1, "MONOCHROME2", 0
    head.BitsAllocated = head.BitsStored = 1
    head.HighBit = 0
    for name, value in more.items():
        setattr(head, name, value)
    groups = []
    for marked, frame, name, _ in marks:
        group, item = Dataset(), Dataset()
        item.ReferencedSegmentNumber = names.index(name) + 1
        group.SegmentIdentificationSequence = Items([item])
        if by_place:
            place, turn = Dataset(), Dataset()
            place.ImagePositionPatient, turn.ImageOrientationPatient = (
                marked.ImagePositionPatient,
                marked.ImageOrientationPatient,
            )
            group.PlanePositionSequence, group.PlaneOrientationSequence = Items([place]), Items([turn])
        else:
            source, derivation = Dataset(), Dataset()
            source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = marked.SOPClassUID, marked.SOPInstanceUID
            if frame:
                source.ReferencedFrameNumber = frame + 1
            derivation.SourceImageSequence = Items([source])
            group.DerivationImageSequence = Items([derivation])
        groups.append(group)
    head.PerFrameFunctionalGroupsSequence = Items(groups)
    stack = np.stack([mask for *_, mask in marks])
    if head.BitsAllocated == 1:
        packed = np.packbits(stack.reshape(-1), bitorder="little").tobytes()
    else:
        packed = (stack * np.uint8(more.get("MaximumFractionalValue", 1))).astype(np.uint8).tobytes()
    head.PixelData = packed + b"\0" * (len(packed) % 2)
    return write(path, head)


def _segment(number: int, name: str) -> Dataset:
    found = Dataset()
    found.SegmentNumber, found.SegmentLabel, found.SegmentAlgorithmType = number, name, "MANUAL"
    return found


def structures(
    path: Path,
    contours: Sequence[tuple[str, Dataset | None, Sequence[tuple[float, float, float]], str]],
    external: Sequence[str] = (),
    patient: str = IDENTITY,
) -> Dataset:
    """A structure set: of each contour its structure, the image that it names, its points in mm, and its kind."""
    head = header(RTSTRUCT, path, patient, "structures")
    names = list(dict.fromkeys(name for name, *_ in contours))
    rows: list[list[Dataset]] = [[], [], []]
    for number, name in enumerate(names, start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        roi.ROIName, roi.ReferencedFrameOfReferenceUID = name, head.FrameOfReferenceUID
        observed.RTROIInterpretedType = "EXTERNAL" if name in external else "GTV"
        drawn.ContourSequence = Items(_contour(*rest[1:]) for rest in contours if rest[0] == name)
        for held, row in zip(rows, (roi, drawn, observed), strict=True):
            held.append(row)
    head.StructureSetROISequence, head.ROIContourSequence, head.RTROIObservationsSequence = map(Items, rows)
    return write(path, head)


def _contour(marked: Dataset | None, points: Sequence[tuple[float, float, float]], kind: str) -> Dataset:
    found = Dataset()
    found.ContourGeometricType, found.NumberOfContourPoints = kind, len(points)
    found.ContourData = [f"{value:.6g}" for point in points for value in point]
    if marked is not None:
        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = marked.SOPClassUID, marked.SOPInstanceUID
        found.ContourImageSequence = Items([source])
    return found


def other(path: Path, kind: str, **more: Any) -> Dataset:
    """A file that is no image."""
    head = header(kind, path)
    for name, value in more.items():
        setattr(head, name, value)
    return write(path, head)


__all__ = ["BORN", "CAPTURE", "CT", "IDENTITY", "MR", "NAME", "SEG", "header", "image", "other", "pydicom"]
