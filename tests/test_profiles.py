"""Colour profiles: what bears one is read in sRGB, what bears none is read as before, and masks are never converted."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_coding import build, checked, kinds, opened, white

from siamese_diffusion.data.images import read_image
from siamese_diffusion.data.profiles import is_applied


def srgb() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def exchanged() -> bytes:
    """A profile that is sRGB with red for blue, and does not say sRGB."""
    content = bytearray(srgb())
    count = struct.unpack(">I", content[128:132])[0]
    places = {bytes(content[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    content[red : red + 4], content[blue : blue + 4] = content[blue : blue + 4], content[red : red + 4]
    for encoding in ("utf-16-be", "ascii"):
        old, new = ("sRGB".encode(encoding), "xRGB".encode(encoding))
        content = bytearray(bytes(content).replace(old, new))
    return bytes(content)


def test_a_profile_is_applied_to_images_and_to_no_mask(tmp_path: Path) -> None:
    options: dict[str, Any] = {"icc_profile": exchanged()}
    scenes = build(
        tmp_path, lambda s: np.dstack([white(s.large), *[0 * white(s.large)] * 2]), image_options=options, **options
    )
    for each, pair in zip(scenes, opened(tmp_path, "data.foreground=red").pairs(), strict=True):
        image, mask = pair.read()
        assert np.abs(image.astype(int) - each.image[..., ::-1]).max() <= 2  # red and blue have changed places
        assert np.array_equal(mask, each.large)
    assert np.array_equal(read_image(tmp_path / "images/00.png"), opened(tmp_path).pairs()[0].image.read())
    assert "colours" not in kinds(checked(tmp_path))


@pytest.mark.parametrize("kind", ["none", "sRGB", "damaged", "grey"])
def test_what_has_none_is_read_as_before_and_keeps_its_key(tmp_path: Path, kind: str) -> None:
    grey = exchanged().replace(b"RGB XYZ ", b"GRAYXYZ ")
    profile = {"none": None, "sRGB": srgb(), "damaged": b"\0" * 200, "grey": grey}[kind]
    scenes = build(tmp_path, lambda s: white(s.large), image_options={"icc_profile": profile} if profile else {})
    folder = opened(tmp_path)
    for each, pair in zip(scenes, folder.pairs(), strict=True):
        assert np.array_equal(pair.image.read(), each.image)
    assert folder.decoding.image_key == {}
    assert ("colours" in kinds(checked(tmp_path))) == (kind in ("damaged", "grey"))


def test_a_cache_of_what_was_not_converted_is_not_taken(tmp_path: Path) -> None:
    build(tmp_path, lambda s: white(s.large), image_options={"icc_profile": exchanged()})
    assert opened(tmp_path).decoding.image_key == {"profiles": "applied"}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_every_mode_of_an_image_is_converted(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 200, 200, 200
    pixels[:, 4:] = (200, 200, 200) if mode == "L" else (180, 20, 40)
    image = Image.fromarray(pixels)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=exchanged())
    read = read_image(tmp_path / "a.png").astype(int)
    assert is_applied(exchanged(), mode)
    assert np.abs(read - pixels[..., ::-1]).max() <= 3
    assert not is_applied(exchanged(), "CMYK")


def black_alone() -> bytes:
    """A profile of CMYK, of which only the black ink is seen."""
    corners = b"".join(bytes([0 if i & 1 else 255, 128, 128]) for i in range(16))  # L*, a*, b*, black the last ink
    straight = bytes(range(256))
    unit = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + straight * 4 + corners + straight * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I", 2) + b"desc" + struct.pack(">II", start, len(text))
    tags += b"A2B0" + struct.pack(">II", start + len(text), len(table))
    head = struct.pack(">I4sI4s4s4s", start + len(text) + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    return (head + bytes(12) + b"acsp").ljust(128, b"\0") + tags + text + table


def test_cmyk_with_a_profile(tmp_path: Path) -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[:, :4] = 255, 0, 0, 0
    inks[:, 4:] = 0, 0, 0, 255
    image = Image.fromarray(inks, "CMYK")
    image.save(tmp_path / "with.tif", icc_profile=black_alone())
    image.save(tmp_path / "without.tif")
    assert read_image(tmp_path / "with.tif")[0, [0, 7]].tolist() == [[255, 255, 255], [0, 0, 0]]
    assert read_image(tmp_path / "without.tif")[0, [0, 7]].tolist() == [[0, 255, 255], [0, 0, 0]]
