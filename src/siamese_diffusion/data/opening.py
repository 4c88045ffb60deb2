"""Image files are opened here and nowhere else: told by their content, in the formats that are read, and none too
large.

Design note: Pillow knows forty more formats, and for one of them starts Ghostscript, whatever the file is called. How
many pixels an image has is read before any is decoded, since a megabyte of PNG can hold gigabytes of them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from PIL import Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from siamese_diffusion.data.tars import open_file
from siamese_diffusion.errors import InputError, printable, refused

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"})

_RARE = (TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile, Jpeg2KImagePlugin.Jpeg2KImageFile)
"""Asked for one that is not imported, Pillow would import them all."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", *(kind.format for kind in _RARE))
"""Pillow's names of what is read; a camera's MPO is a JPEG."""
KINDS = "JPEG, PNG, TIFF, BMP, GIF, WebP or JPEG 2000"
"""The same for people."""

MAX_PIXELS = 6000 * 6000
"""Default of `data.max_pixels`. Cameras of clinics have up to 24 million. Reading an image takes up to 16 bytes a
pixel, and 28 where it has 16 bits a channel, so that the largest one takes up to a gigabyte."""

_LARGE = 1 << 24
"""Pixels above which an image is decoded alone: a pool of threads would hold one each."""
_alone = threading.Lock()


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image of a file, or of a member of an archive (see `tars`), whose header has been read; no pixel is decoded.

    Whatever Pillow raises over the file in the block is an `InputError`.

    Raises:
        InputError: the file is missing or damaged, is not an image of `KINDS`, or has more pixels than `max_pixels`.
    """
    what = printable(path)
    if what != str(path):
        raise InputError(f"{what}: its name is not UTF-8; rename it")
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit, which is not to be below the one that was asked for
        Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS)
    try:
        with (
            refused(f"{what}: the image is damaged"),
            open_file(path) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            if image.width * image.height > max_pixels:
                raise _too_large(what, f"{image.width} x {image.height} pixels are more than", max_pixels)
            yield image
    except InputError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise InputError(f"{what}: not an image that can be read ({KINDS})") from None
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise _too_large(what, "has more pixels than", max_pixels) from None
        raise
    except MemoryError:  # of so few pixels: a tile or a palette claims to have more
        raise InputError(f"{what}: the image is damaged, or takes more memory than there is") from None


@contextmanager
def decoded(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image of a file with all its pixels, turned upright by its EXIF orientation; see `opened`."""
    with opened(path, max_pixels) as image:
        load_upright(image)
        yield image


def load_upright(image: Image.Image) -> None:
    """Decode an opened image in place, and turn it upright by its EXIF orientation; a large one, alone."""
    with _alone if image.width * image.height > _LARGE else nullcontext():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels as stored, before any EXIF orientation.

    Raises:
        InputError: see `opened`; a file whose pixels are damaged is not told here.
    """
    with opened(path, max_pixels) as image:
        return image.size


def _too_large(what: str, how: str, max_pixels: int) -> InputError:
    return InputError(f"{what}: {how} data.max_pixels = {max_pixels}; make it smaller, or raise that setting")
