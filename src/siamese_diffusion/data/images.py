"""Read images and masks of every kind that clinics and challenges hand out, and say what was done with each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.opening import MAX_PIXELS, decoded, load_upright, opened
from siamese_diffusion.data.opening import SUFFIXES as SUFFIXES
from siamese_diffusion.data.profiles import is_applied, to_srgb
from siamese_diffusion.data.tars import read_bytes
from siamese_diffusion.errors import InputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Either = TypeVar("Either", Pixels, Mask)
Fit = Literal["squash", "pad", "crop"]

DEEP = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
"""Pillow's modes of grey with more than 8 bits."""
CLEAR = frozenset({"P", "PA", "LA", "La", "RGBA", "RGBa"})
LOSSY = frozenset({"JPEG", "MPO", "WEBP", "JPEG2000"})
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns the stored pixels of an EXIF orientation upright."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image before the pixels are decoded."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    orientation: int
    """EXIF's, 1 to 8; 1: the pixels are stored upright."""
    mode: str
    format: str
    deep: bool
    """More than 8 bits a channel."""
    pages: int
    profile: bytes | None
    """ICC."""

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the stored pixels."""
        return self.size[::-1] if self.orientation > 4 else self.size

    @property
    def converted(self) -> bool:
        """Whether its profile is applied when it is read as an image."""
        return not self.deep and is_applied(self.profile, self.mode)


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """What a file says of its image; no pixel is decoded.

    Raises:
        InputError: see `open_image`.
    """
    with opened(path, max_pixels) as image:
        return _header(image)


def _header(image: Image.Image) -> Header:
    exif = Image.Image.getexif(image)  # a PNG's own would decode it first
    turned = exif.get(0x0112, 1) if exif else 1
    size = image.size[::-1] if turned in (5, 6, 7, 8) else image.size
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""
    colour16 = image.mode not in DEEP and (";16" in raw)
    several = image.format in ("TIFF", "GIF", "WEBP", "PNG")
    return Header(
        size,
        turned if turned in TURNS else 1,
        image.mode,
        image.format or "",
        image.mode in DEEP or colour16,
        int(getattr(image, "n_frames", 1)) if several else 1,
        image.info.get("icc_profile"),
    )


def open_with_header(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Header, Image.Image | None]:
    """`read_header` and `open_image` of one file that is opened once; no image where it has more than 8 bits.

    Raises:
        InputError: see `open_image`.
    """
    with opened(path, max_pixels) as image:
        header = _header(image)
        if not header.deep and header.pages == 1:  # counting pages may have left another one than the first
            load_upright(image)
            return header, image
    return header, None if header.deep else open_image(path, max_pixels)


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file, or a member of an archive (see `tars`), fully, turned upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, corrupt or truncated, is not an image, or has more pixels than `max_pixels`.
    """
    with decoded(path, max_pixels) as image:
        return image


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """An image as uint8 (H, W, 3) RGB.

    Grey is repeated over the channels and a palette resolved. Alpha is composited on black, the colour outside an
    endoscope's field of view. CIELAB, and what bears another profile, is turned into sRGB. What has more than 8 bits is
    scaled by the smallest range that holds it: 255 (8 bits stored as 16), 4095 (12-bit devices) or 65535. Floating
    point likewise, with the range [0, 1] first; NaN is black. (For images of a folder that range is one for all:
    `Decoding.image`.)

    Raises:
        InputError: see `open_image`.
    """
    deep = deep_values(path, max_pixels=max_pixels)
    if deep is None:
        return to_rgb(open_image(path, max_pixels), managed=True)
    return to_8_bit(deep, 0, usual_range(float(np.nan_to_num(deep).max())))


def to_rgb(image: Image.Image, managed: bool = False) -> Pixels:
    """A decoded image of 8 bits as uint8 (H, W, 3), see `read_image`; `managed`: its profile is applied."""
    profile, mode = image.info.get("icc_profile"), image.mode
    if image.mode in CLEAR:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode == "LAB":
        from PIL import ImageCms

        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.array(ImageCms.applyTransform(image, ImageCms.buildTransform(*spaces, "LAB", "RGB")))
    if managed:
        image = to_srgb(image, profile, mode)
    return np.array(image.convert("RGB"))


def deep_values(path: Path, header: Header | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32] | None:
    """The values of an image of more than 8 bits, upright, float32 (H, W) or (H, W, 3); None for one of 8 bits.

    Colours are composited on black; NaN stays.

    Raises:
        InputError: see `open_image`.
    """
    header = header or read_header(path, max_pixels)
    if not header.deep:
        return None
    image = open_image(path, max_pixels)  # Pillow has the high bytes of colours alone, but names what is damaged
    if image.mode in DEEP:
        return np.asarray(image, np.float32)
    values = _deep_colours(path).astype(np.float32)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * (values[..., -1:] / np.float32(65535))
    values = values[..., ::-1] if values.shape[2] == 3 else values[..., 0]
    return np.ascontiguousarray(upright(values, header.orientation))


def _deep_colours(path: Path) -> NDArray[np.uint16]:
    """As OpenCV has them: (H, W, channels), blue before red."""
    import cv2

    found = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise InputError(f"{path}: colours of 16 bits that cannot be read; save it as PNG or with 8 bits")
    return np.asarray(found)


def upright(pixels: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Stored pixels (H, W, ...) turned by an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def usual_range(highest: float) -> float:
    """The smallest of the usual ranges that holds a value: up to 1, 255, 4095 or 65535, else the value."""
    return next((bound for bound in (1.0, 255.0, 4095.0, 65535.0) if highest <= bound), highest)


def to_8_bit(values: NDArray[np.float32], low: float, high: float) -> Pixels:
    """Values (H, W) or (H, W, 3), black at `low` and white at `high`, as uint8 (H, W, 3); NaN is black."""
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low).clip(0, high - low) * (255 / (high - low))
    found = scaled.round().astype(np.uint8)
    return np.repeat(found[..., None], 3, axis=2) if found.ndim == 2 else found


def square(pixels: Either, resolution: int, fit: Fit = "squash") -> Either:
    """Resize to (resolution, resolution).

    Images are filtered (Lanczos); masks are averaged and thresholded at one half, so a lesion keeps its area. In a
    label map the label with the largest share of a pixel has it, and background only where it has more than any.

    Args:
        pixels: image (H, W, 3), mask (H, W) or label map uint8 (H, W).
        resolution: side in pixels.
        fit: another aspect ratio is squashed, as the original does; padded evenly on both sides with black, which is
            background; or the square in the middle is cut out.
    """
    height, width = pixels.shape[:2]
    if height == width or fit == "squash":
        return resize(pixels, (resolution, resolution))
    if fit == "crop":
        top, left, side = (height - min(height, width)) // 2, (width - min(height, width)) // 2, min(height, width)
        return resize(np.ascontiguousarray(pixels[top : top + side, left : left + side]), (resolution, resolution))
    rows, columns = padded_box(height, width, resolution)
    square_ = np.zeros((resolution, resolution, *pixels.shape[2:]), pixels.dtype)
    square_[rows, columns] = resize(pixels, (columns.stop - columns.start, rows.stop - rows.start))
    return square_


def unsquare(pixels: Either, size: tuple[int, int], fit: Fit) -> Either:
    """Undo `square`: the part of (R, R) that shows the image, resized to `size` (width, height).

    What `crop` cut away is black, or background.
    """
    width, height = size
    resolution = len(pixels)
    if fit == "squash" or width == height:
        return resize(pixels, size)
    if fit == "pad":
        rows, columns = padded_box(height, width, resolution)
        return resize(np.ascontiguousarray(pixels[rows, columns]), size)
    side = min(size)
    top, left = (height - side) // 2, (width - side) // 2
    whole = np.zeros((height, width, *pixels.shape[2:]), pixels.dtype)
    whole[top : top + side, left : left + side] = resize(pixels, (side, side))
    return whole


def padded_box(height: int, width: int, resolution: int) -> tuple[slice, slice]:
    """Rows and columns of a padded square that hold the image."""
    longer = max(height, width)
    inner = [max(1, round(side * resolution / longer)) for side in (height, width)]
    starts = [(resolution - side) // 2 for side in inner]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, inner, strict=True))
    return rows, columns


def resize(pixels: Either, size: tuple[int, int]) -> Either:
    """Resize to `size` (width, height): images by Lanczos, masks by area and cut at one half, label maps by area."""
    if pixels.shape[:2] == size[::-1]:
        return pixels
    if pixels.dtype == np.bool_:
        return _shares(pixels, size) >= 128  # type: ignore[return-value]
    if pixels.ndim == 2:
        held = [*np.flatnonzero(np.bincount(pixels.ravel()))[::-1]]  # background last: it wins no draw
        shares = np.stack([_shares(pixels == label, size) for label in held])
        return np.asarray(np.array(held, np.uint8)[shares.argmax(0)])
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _shares(mask: NDArray[Any], size: tuple[int, int]) -> Pixels:
    """How much of each pixel of `size` (width, height) a mask covers, 0 to 255."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
