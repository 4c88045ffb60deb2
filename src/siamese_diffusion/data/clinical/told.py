"""Whether a folder holds DICOM or NIfTI files, told by their content; nothing here needs the libraries that read
them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from siamese_diffusion.data.layouts.listing import named_as_image, walk

Kind = Literal["DICOM", "NIfTI"]

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
NIFTI_SUFFIXES = (".nii", ".nii.gz")
_MAGIC_AT = 128
"""Bytes before DICOM's magic word."""


def told(folder: Path) -> Kind | None:
    """What kind of clinical files a folder holds, the commoner; None where more of its images are plain files.

    As many plain files as clinical ones may be the masks of these.
    """
    counts = Counter(kind for _, kind in clinical_files(folder))
    if not counts:
        return None
    kind, _ = counts.most_common(1)[0]
    plain = sum(named_as_image(top / name) for top, names in walk(folder) for name in names)
    return kind if counts.total() >= plain else None


def kinds(folder: Path) -> set[Kind]:
    """All kinds of clinical files that a folder holds."""
    return {kind for _, kind in clinical_files(folder)}


def clinical_files(folder: Path) -> Iterator[tuple[Path, Kind]]:
    """The clinical files at and below a folder, in the order of their names."""
    for top, names in walk(folder):
        for name in names:
            if is_nifti(top / name):
                yield top / name, "NIfTI"
            elif is_dicom(top / name):
                yield top / name, "DICOM"


def is_nifti(path: Path) -> bool:
    """By its extension."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """By its magic word where the name has no extension that says otherwise; old files without it by their extension.

    UIDs are names too, so that what follows a dot may be a number.
    """
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    return (not suffix or suffix[1:].isdigit()) and has_magic(path)


def has_magic(path: Path) -> bool:
    """Whether a file says that it is DICOM."""
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def stem(path: Path) -> str:
    """A file's name without the extension of a clinical file; numbers after a dot belong to the name."""
    for suffix in (".nii.gz", ".nii", *DICOM_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.suffix[1:].isdigit() else path.stem
