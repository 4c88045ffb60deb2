"""Frames of DICOM images as 8-bit RGB, by what their headers say: LUTs, rescaling, windows, photometric
interpretation.

The order is that of PS3.3 C.11: modality LUT or rescaling, then VOI LUT or window, then inversion for MONOCHROME1.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.clinical.cases import range_of
from siamese_diffusion.data.images import Pixels, to_8_bit
from siamese_diffusion.errors import refused

if TYPE_CHECKING:
    from pydicom import Dataset

Level = tuple[float, float]

_FAR = 1e12
"""Beyond every window."""


def frames(path: Path, indices: Sequence[int]) -> Iterator[tuple["Dataset", NDArray[Any]]]:
    """Frames (H, W) or (H, W, 3) of a file with what its header says of each, in the order of `indices`.

    Colours are RGB, whatever the file holds.

    Raises:
        InputError: the pixels are damaged, missing, or of a transfer syntax that nothing here decodes.
    """
    from pydicom import Dataset
    from pydicom.pixels.utils import iter_pixels
    from pydicom.tag import Tag

    head = Dataset()
    wanted = [Tag(name) for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")]
    found = iter_pixels(path, ds_out=head, specific_tags=list(wanted), indices=list(indices))
    for place, index in enumerate(indices):
        with refused(f"{path}: its pixels cannot be read"):
            try:
                values = np.asarray(next(found))
            except AttributeError:  # a deflated file, or one without a preamble, which is read as a whole
                if place:
                    raise
                head = _whole(path)
                found = iter_pixels(head, indices=list(indices))
                values = np.asarray(next(found))
        yield _of_frame(head, index), values


def _whole(path: Path) -> "Dataset":
    """A file with its pixels, which may lack what says how it is written."""
    import pydicom

    head = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in head.file_meta:
        head.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return head


def _of_frame(head: "Dataset", index: int) -> "Dataset":
    """The header with what the functional groups of an enhanced image say of one frame."""
    from pydicom import Dataset

    shared = head.get("SharedFunctionalGroupsSequence") or []
    own = head.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*shared[:1], *own[index : index + 1]]
    if not groups:
        return head
    found = Dataset()
    found.update(head)
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                found.update(item)
    return found


def to_picture(head: "Dataset", values: NDArray[Any], settings: DataConfig, levels: Level | None) -> Pixels:
    """A frame as uint8 (H, W, 3).

    Args:
        head: as `frames` gives it.
        values: as `frames` gives them.
        settings: of which a window or range goes before the file's.
        levels: black and white of the series, where the file has no window.
    """
    from pydicom.pixels.processing import apply_color_lut

    kind = str(head.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, head)
        return _narrow(values, int(head.RedPaletteColorLookupTableDescriptor[2]))
    if values.ndim == 3:
        return _narrow(values, int(head.BitsStored))
    shown = _grey(head, values, settings, levels)
    return np.asarray(255 - shown) if kind == "MONOCHROME1" else shown


def _narrow(values: NDArray[Any], bits: int) -> Pixels:
    """Colours of so many bits as uint8 (H, W, 3)."""
    if bits == 16 and values.max(initial=0) <= 255:  # entries of 8 bits in a table of 16
        bits = 8
    return (
        to_8_bit(values[..., :3].astype(np.float32), 0, 2**bits - 1) if bits != 8 else values[..., :3].astype(np.uint8)
    )


def _grey(head: "Dataset", values: NDArray[Any], settings: DataConfig, levels: Level | None) -> Pixels:
    from pydicom.pixels.processing import apply_voi, apply_windowing

    measured = in_units(head, values)
    said = said_levels(settings)
    if said is not None:
        return to_8_bit(measured, *said)
    if head.get("VOILUTSequence"):
        looked = apply_voi(measured.astype(np.int32), head)
        return to_8_bit(looked.astype(np.float32), 0, 2 ** int(head.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    if has_window(head):
        ends = apply_windowing(np.array([-_FAR, _FAR]), head)
        shown = apply_windowing(measured.astype(np.float64), head)
        return to_8_bit(shown.astype(np.float32), float(ends[0]), float(ends[1]))
    if is_narrow(head):
        return to_8_bit(measured, 0, 2 ** int(head.BitsStored) - 1)
    assert levels is not None
    return to_8_bit(measured, *levels)


def said_levels(settings: DataConfig) -> Level | None:
    """Black and white as the settings say them."""
    if settings.window is not None:
        level, width = settings.window
        return level - width / 2, level + width / 2
    return settings.image_range


def in_units(head: "Dataset", values: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values in the units of the modality, Hounsfield units for CT."""
    from pydicom.pixels.processing import apply_modality_lut

    return np.asarray(apply_modality_lut(values, head), np.float32)


def has_window(head: "Dataset") -> bool:
    """Whether the header says which grey values are shown, by a window that can be used."""
    centre, width = head.get("WindowCenter"), head.get("WindowWidth")
    if centre is None or width is None:
        return False
    widths = np.atleast_1d(np.asarray(width, np.float64))
    least = 1.0 if str(head.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR" else 0.0
    return bool(widths.size and widths[0] > least)


def is_narrow(head: "Dataset") -> bool:
    """Whether values are of up to 8 bits, so that they are grey as they are."""
    rescaled = head.get("RescaleSlope", 1) != 1 or head.get("RescaleIntercept", 0) != 0
    return int(head.BitsStored) <= 8 and int(head.PixelRepresentation) == 0 and not rescaled


def needs_levels(head: "Dataset", values: NDArray[Any], settings: DataConfig) -> bool:
    """Whether a frame is grey and neither the settings nor its header say what is shown."""
    if values.ndim == 3 or not str(head.PhotometricInterpretation).startswith("MONOCHROME"):
        return False
    return not (said_levels(settings) or head.get("VOILUTSequence") or has_window(head) or is_narrow(head))


def levels_of(sample: Sequence[tuple["Dataset", NDArray[Any]]], path: Path) -> Level:
    """Black and white of a series, by a sample of its frames.

    Raises:
        InputError: it is CT, which needs a window; or all values are alike.
    """
    parts = []
    for head, values in sample:
        seen = values if head.get("PixelPaddingValue") is None else values[values != head.PixelPaddingValue]
        parts.append(in_units(head, seen.reshape(-1)[:: max(1, seen.size // 200_000)]))
    everything = np.concatenate(parts)
    return range_of(everything, path)
