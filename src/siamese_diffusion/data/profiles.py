"""Colour profiles (ICC): an image that bears one which is not sRGB is converted to sRGB when it is read.

Design note: a profile that is damaged, or of another colour space than its image, changes nothing; `check` says so.
Nothing else is converted: what has no profile is taken for sRGB, as screens take it.
"""

from functools import lru_cache
from io import BytesIO
from typing import Literal, NamedTuple

from PIL import Image, ImageCms

Space = Literal["RGB", "L", "CMYK"]

_SPACES: dict[str, tuple[Space, frozenset[str]]] = {
    "RGB": ("RGB", frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})),
    "GRAY": ("L", frozenset({"1", "L", "LA", "La"})),
    "CMYK": ("CMYK", frozenset({"CMYK"})),
}
"""Colour space of a profile: Pillow's mode of what is converted, and the modes of images that it can belong to."""


class Profile(NamedTuple):
    """What a profile says of itself."""

    name: str
    space: str
    """ICC's name of its colour space; empty for a damaged one."""

    @property
    def is_srgb(self) -> bool:
        """By its name: nothing is to be converted."""
        return "srgb" in self.name.lower()


@lru_cache(maxsize=64)
def describe(profile: bytes) -> Profile:
    """What the content of a profile says; a damaged one has no colour space."""
    try:
        opened = ImageCms.getOpenProfile(BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(opened).split())
        return Profile(name or "unnamed", opened.profile.xcolor_space.strip())
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return Profile("damaged", "")


def is_applied(profile: bytes | None, mode: str) -> bool:
    """Whether an image of 8 bits, of Pillow's `mode`, is converted by this profile."""
    return profile is not None and _transform(profile, mode) is not None


def to_srgb(image: Image.Image, profile: bytes | None, mode: str) -> Image.Image:
    """An image without transparency, in sRGB where its profile is applied, else as it is.

    Args:
        image: of 8 bits.
        profile: content of its profile.
        mode: of the image as its file has it.
    """
    found = _transform(profile, mode) if profile is not None else None
    if found is None:
        return image
    space, transform = found
    converted = ImageCms.applyTransform(image.convert(space), transform)
    assert converted is not None
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> tuple[Space, ImageCms.ImageCmsTransform] | None:
    said = describe(profile)
    if said.is_srgb or said.space not in _SPACES:
        return None
    space, modes = _SPACES[said.space]
    if mode not in modes:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.getOpenProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            space,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.NOCACHE,  # one transform serves several threads
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return space, transform
