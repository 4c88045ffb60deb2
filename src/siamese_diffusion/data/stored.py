"""What mask files store, before anybody says what it means: grey values, indices of a palette, colours, an alpha
channel."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.images import CLEAR, LOSSY, Header, deep_values, open_with_header, to_rgb
from siamese_diffusion.data.opening import MAX_PIXELS
from siamese_diffusion.errors import InputError

Form = Literal["grey", "palette", "colour", "alpha"]
Raw = int | str
"""A stored value, or a colour as '#rrggbb'."""

ALWAYS_LOSSY = frozenset({"JPEG", "MPO"})
LOSSLESS = 4
"""A file of another format that may be lossy or not is not where it holds so few values."""
NEARLY_GREY = 16
"""Largest distance of the channels of a grey pixel: what a lossy format makes of it."""


@dataclass(frozen=True, eq=False)
class Stored:
    """The pixels of one mask file, upright."""

    path: Path
    form: Form
    values: NDArray[Any]
    """(H, W) uint8 or int32; of colours: int32 0xRRGGBB."""
    mode: str
    """Pillow's name of how the file stores them."""
    lossy: bool = False
    palette: Mapping[int, int] = field(default_factory=dict)
    """Of indices: their colours as 0xRRGGBB."""
    fractions: bool = False
    """They were stored with more than 8 bits, as shares of the brightest, and are rounded to 255 times that here."""
    share: bool = False
    """In floating point, so that they are probabilities, which are cut at one half."""
    transparent: bool = False
    """Nothing of it is opaque."""

    @cached_property
    def counts(self) -> dict[int, int]:
        """Pixels of each value."""
        if self.values.dtype == np.uint8:
            histogram = cv2.calcHist([self.values], [0], None, [256], [0, 256])[:, 0]
            return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
        flat = self.values.ravel()  # by runs: clean masks have few of them
        starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        lengths = np.diff(np.append(starts, len(flat)))
        found, where = np.unique(flat[starts], return_inverse=True)
        return dict(zip(found.tolist(), np.bincount(where, lengths).astype(int).tolist(), strict=True))

    def coloured(self) -> "Stored":
        """The same as colours."""
        if self.form == "colour":
            return self
        if self.form == "palette":
            table = np.zeros(256, np.int32)
            table[list(self.palette)] = list(self.palette.values())
            return Stored(self.path, "colour", table[self.values], self.mode, self.lossy)
        grey = self.values.astype(np.int32)
        return Stored(self.path, "colour", grey * 0x010101, self.mode, self.lossy)


def read_stored(path: Path, coding: str = "auto", max_pixels: int = MAX_PIXELS) -> Stored:
    """The pixels of a mask file.

    Args:
        path: the file.
        coding: `data.mask_coding`; "palette" and "labels" want indices of a palette of greys too, "alpha" the alpha
            channel.
        max_pixels: `data.max_pixels`.

    Grey in three channels is grey, and so is a palette of greys. Transparent pixels are 0; where the opaque ones are
    black, what is drawn is the alpha channel.

    Raises:
        InputError: see `images.open_image`; or a mask of several pages, of fractions beyond 1, with colours but nothing
            opaque, or without the palette or the alpha channel that is asked for.
    """
    header, image = open_with_header(path, max_pixels)
    if header.pages > 1:
        raise InputError(f"{path}: holds {header.pages} pages, and a mask is one; save each mask as a file of its own")
    found = _read(path, header, image, coding, max_pixels)
    if found.lossy and header.format not in ALWAYS_LOSSY and len(found.counts) <= LOSSLESS:
        return replace(found, lossy=False)
    return found


def hexadecimal(colour: int) -> str:
    """'#rrggbb' of 0xRRGGBB."""
    return f"#{colour:06x}"


def _read(path: Path, header: Header, image: Image.Image | None, coding: str, max_pixels: int) -> Stored:
    lossy = header.format in LOSSY
    if image is None:
        values = deep_values(path, header, max_pixels)
        assert values is not None
        return _deep(path, values, header.mode)
    if coding == "alpha":
        if not image.has_transparency_data:
            raise InputError(f"{path}: has no alpha channel, which data.mask_coding=alpha asks for")
        return Stored(path, "alpha", np.asarray(image.convert("RGBA"))[..., 3].copy(), image.mode, lossy)
    if image.mode == "1":
        return Stored(path, "grey", np.asarray(image.convert("L")), "1-bit")
    if image.mode == "P":
        indexed = _indexed(path, image, coding in ("palette", "labels"))
        if indexed is not None:
            return replace(indexed, form="grey") if coding == "labels" else indexed
    if coding == "palette":
        raise InputError(f"{path}: has no palette, which data.mask_coding=palette asks for")
    if image.mode in CLEAR:
        return _clear(path, image, lossy)
    if image.mode == "L":
        return Stored(path, "grey", np.asarray(image), "grey", lossy)
    return _grey_or_colour(path, to_rgb(image), image.mode, lossy)


def _deep(path: Path, values: NDArray[np.float32], mode: str) -> Stored:
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise InputError(f"{path}: a mask in colours of 16 bits; save it with 8 bits a channel")
        values = values[..., 0]
    values = np.nan_to_num(values)
    kind = "float" if mode == "F" else "16-bit"
    if not (values == np.round(values)).all():
        if values.min() < 0 or values.max() > 1:
            raise InputError(
                f"{path}: holds fractions from {values.min():g} to {values.max():g}; "
                "a mask holds whole numbers, or shares from 0 to 1"
            )
        return Stored(path, "grey", (values * 255).round().astype(np.uint8), kind, fractions=True, share=True)
    highest = values.max(initial=0)
    if mode != "F" and highest > 4095 and (values > 0.9 * highest).sum() > 0.5 * np.count_nonzero(values):
        reduced = (values.clip(0) * (255 / 65535)).round().astype(np.uint8)  # white, perhaps with grey edges
        if len(np.unique(values)) > 2 or highest == 65535:
            return Stored(path, "grey", reduced, kind, fractions=len(np.unique(values)) > 2)
    whole = values.min() >= 0 and values.max() <= 255
    return Stored(path, "grey", values.astype(np.uint8 if whole else np.int32), kind)


def _indexed(path: Path, image: Image.Image, always: bool) -> Stored | None:
    """Indices of a palette of colours; None where the colours that occur are greys, unless `always`."""
    indices = np.asarray(image)
    table = np.asarray(image.convert("RGB"))
    used, first = np.unique(indices, return_index=True)
    colours = table.reshape(-1, 3)[first].astype(np.int32)
    if not always and (np.ptp(colours, axis=1) == 0).all():
        return None
    packed = (colours[:, 0] << 16) + (colours[:, 1] << 8) + colours[:, 2]
    return Stored(path, "palette", indices, "palette", palette=dict(zip(used.tolist(), packed.tolist(), strict=True)))


def _clear(path: Path, image: Image.Image, lossy: bool) -> Stored:
    """What has an alpha channel, or a palette of greys."""
    mode = "palette" if image.mode == "P" else image.mode
    rgba = np.asarray(image.convert("RGBA"))
    colours, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return _grey_or_colour(path, colours, mode, lossy)
    if not alpha.any():
        if (colours != colours[:1, :1]).any():
            raise InputError(f"{path}: is transparent everywhere, yet has colours; save it without an alpha channel")
        return Stored(path, "grey", np.zeros(alpha.shape, np.uint8), mode, lossy, transparent=True)
    opaque = alpha > alpha.max() // 2
    drawn = colours * opaque[..., None]
    if not drawn.any():
        return Stored(path, "alpha", np.ascontiguousarray(alpha), mode, lossy)
    return _grey_or_colour(path, drawn, mode, lossy)


def _grey_or_colour(path: Path, colours: NDArray[np.uint8], mode: str, lossy: bool) -> Stored:
    red, green, blue = (np.ascontiguousarray(colours[..., channel]) for channel in range(3))
    same = np.array_equal(red, green) and np.array_equal(red, blue)
    if not same and lossy:
        spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
        same = int(spread.max(initial=0)) <= NEARLY_GREY
    if same:
        grey = np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
        return Stored(path, "grey", grey, mode, lossy)
    packed = (red.astype(np.int32) << 16) + (green.astype(np.int32) << 8) + blue
    return Stored(path, "colour", packed, mode, lossy)
