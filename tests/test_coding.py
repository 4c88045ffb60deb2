"""What the values of masks mean: every kind that users have, read pixel for pixel or refused with a line that helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siamese_diffusion.config import load_config
from siamese_diffusion.data.check import check
from siamese_diffusion.data.checked import Report
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.decoding import Decoding, MaskSource
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError

SIDE = 64
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 753 + [224, 224, 192]
"""The palette of PASCAL VOC: black, dark red, dark green, olive, and its rim's cream at 255."""

Boolean = NDArray[np.bool_]


class Scene(NamedTuple):
    """One pair: an image, a large lesion, and a small one that lies on it or beside it."""

    number: int
    image: NDArray[np.uint8]  # (H, W, 3)
    large: Boolean  # (H, W)
    small: Boolean

    @property
    def both(self) -> Boolean:
        return self.large | self.small

    @property
    def labels(self) -> NDArray[np.uint8]:
        """1 large, 2 small."""
        return np.where(self.small, 2, self.large).astype(np.uint8)

    def of(self, large: int, small: int) -> NDArray[np.uint8]:
        return np.array([0, large, small], np.uint8)[self.labels]


def scene(number: int, height: int = SIDE, width: int = SIDE) -> Scene:
    random = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    masks = []
    for radius in (0.22, 0.1):
        cy, cx = height * random.uniform(0.35, 0.65), width * random.uniform(0.35, 0.65)
        masks.append((y - cy) ** 2 + (x - cx) ** 2 < (radius * min(height, width)) ** 2)
    image = np.stack([190 - 40 * y / height, 110 + 30 * x / width, 90 + 20 * y / height], -1)
    image = image + random.normal(0, 4, image.shape)
    image[masks[0]] += (25, -45, -40)
    return Scene(number, image.clip(0, 255).astype(np.uint8), *masks)


Drawn = NDArray[Any] | Image.Image


def build(
    folder: Path,
    mask: Callable[[Scene], Drawn],
    suffix: str = "png",
    image: Callable[[Scene], Drawn] | None = None,
    image_suffix: str = "png",
    size: tuple[int, int] = (SIDE, SIDE),
    count: int = 12,
    image_options: dict[str, Any] | None = None,
    **options: Any,
) -> list[Scene]:
    """Write pairs as `mask` and `image` draw them."""
    scenes = [scene(number, *size) for number in range(count)]
    for each in scenes:
        drawn = image(each) if image else each.image
        save(folder / f"images/{each.number:02d}.{image_suffix}", drawn, **(image_options or {}))
        save(folder / f"masks/{each.number:02d}.{suffix}", mask(each), **options)
    return scenes


def save(path: Path, drawn: Drawn, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (drawn if isinstance(drawn, Image.Image) else Image.fromarray(drawn)).save(path, **options)
    return path


def opened(folder: Path, *settings: str) -> DataFolder:
    return DataFolder(folder, settings=load_config(None, list(settings)).data)


def read(folder: Path, *settings: str) -> list[Boolean]:
    return [pair.read()[1] for pair in opened(folder, *settings).pairs()]


def checked(folder: Path, *settings: str) -> Report:
    return check(folder, load_config(None, list(settings)).data)


def kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems]


def white(mask: Boolean) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * 255


def indexed(labels: NDArray[np.uint8], palette: list[int]) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette(palette + [0] * (768 - len(palette)))
    return image


def coloured(
    each: Scene,
    large: tuple[int, ...] = (255, 0, 0),
    small: tuple[int, ...] = (0, 255, 0),
    ground: tuple[int, ...] = (0, 0, 0),
) -> NDArray[np.uint8]:
    return np.array([ground, large, small], np.uint8)[each.labels]


def rimmed(each: Scene, lesion: int = 1, rim: int = 255) -> NDArray[np.uint8]:
    wide = cv2.dilate(white(each.large), np.ones((5, 5), np.uint8)) > 0
    return np.asarray(np.where(each.large, lesion, np.where(wide, rim, 0)), np.uint8)


def by_alpha(mask: Boolean, colour: tuple[int, int, int], opacity: int = 255) -> NDArray[np.uint8]:
    drawn = np.zeros((*mask.shape, 4), np.uint8)
    drawn[mask] = (*colour, opacity)
    return drawn


def as_busi(each: Scene) -> Drawn:
    """One of the ways in which re-releases of one set have stored the same masks."""
    grey = white(each.large)
    opaque = np.full_like(grey, 255)
    ways: list[Drawn] = [
        Image.fromarray(each.large),
        np.dstack([grey] * 3),
        np.dstack([grey] * 3 + [opaque]),
        grey,
        each.large.astype(np.uint8),
        indexed(1 - each.large.astype(np.uint8), [255, 255, 255, 0, 0, 0]),
    ]
    return ways[each.number % len(ways)]


def numbered(each: Scene) -> NDArray[np.uint8]:
    """Two-column stripes of a lesion, each with a number of its own."""
    return np.asarray(each.large * (1 + np.indices(each.large.shape)[1] // 2 % 8), np.uint8)


READ: dict[
    str, tuple[Callable[[Scene], Drawn], str, dict[str, Any], tuple[str, ...], Callable[[Scene], Boolean], str]
] = {
    # name: how it is drawn, suffix, options, settings, what is lesion, what `check` says
    "0 and 255": (lambda s: white(s.large), "png", {}, (), lambda s: s.large, "binary, 0 and 255"),
    "0 and 1": (lambda s: s.large.astype(np.uint8), "png", {}, (), lambda s: s.large, "binary, 0 and 1"),
    "one bit": (lambda s: s.large, "png", {}, (), lambda s: s.large, "binary, 0 and 255"),
    "0 and 1, or 255": (
        lambda s: s.large.astype(np.uint8) * (1 if s.number % 2 else 255),
        "png",
        {},
        (),
        lambda s: s.large,
        "binary, 0 and 1 or 255",
    ),
    "stored in six ways": (as_busi, "png", {}, (), lambda s: s.large, "binary, 0 and 1 or 255"),
    "16 bits, 0 and 1": (lambda s: s.large.astype(np.uint16), "png", {}, (), lambda s: s.large, "binary, 0 and 1"),
    "16 bits, white": (
        lambda s: s.large.astype(np.uint16) * 65535,
        "png",
        {},
        (),
        lambda s: s.large,
        "binary, 0 and 255",
    ),
    "floats": (lambda s: s.large.astype(np.float32), "tif", {}, (), lambda s: s.large, "binary, 0 and 1"),
    "probabilities": (
        lambda s: (s.large * 0.5 + 0.3).astype(np.float32),
        "tif",
        {},
        (),
        lambda s: s.large,
        "binary, grey cut at half",
    ),
    "labels 1 and 2": (lambda s: s.labels, "png", {}, (), lambda s: s.both, "labels 1, 2; all are lesion"),
    "label 2": (lambda s: s.of(2, 0), "png", {}, (), lambda s: s.large & ~s.small, "label 2"),
    "label 100": (lambda s: s.of(100, 100), "png", {}, (), lambda s: s.both, "label 100"),
    "label 127": (lambda s: s.of(127, 127), "png", {}, (), lambda s: s.both, "label 127"),
    "labels 128 and 255": (
        lambda s: s.of(128, 255),
        "png",
        {},
        (),
        lambda s: s.both,
        "labels 128, 255; all are lesion",
    ),
    "labels 50 and 100": (lambda s: s.of(50, 100), "bmp", {}, (), lambda s: s.both, "labels 50, 100; all are lesion"),
    "labels of 16 bits": (
        lambda s: s.labels.astype(np.uint16) * 1000,
        "png",
        {},
        (),
        lambda s: s.both,
        "labels 1000, 2000; all are lesion",
    ),
    "numbers of parts": (
        numbered,
        "png",
        {},
        (),
        lambda s: s.large,
        "labels 1, 2, 3, 4, 5, 6, 7, 8; all are lesion",
    ),
    "labels, one chosen": (
        lambda s: s.of(128, 255),
        "png",
        {},
        ("data.foreground=255",),
        lambda s: s.small,
        "labels 128, 255; lesion: 255",
    ),
    "labels without a 0, one chosen": (
        lambda s: s.labels + np.uint8(1),
        "png",
        {},
        ("data.foreground=[2, 3]",),
        lambda s: s.both,
        "labels 1, 2, 3; lesion: 2, 3",
    ),
    "a rim that is void": (rimmed, "png", {}, ("data.void=255",), lambda s: s.large, "binary, 0 and 1; void: 255"),
    "void between 0 and 255": (
        lambda s: rimmed(s, 255, 128),
        "png",
        {},
        ("data.void=[128]",),
        lambda s: s.large,
        "binary, 0 and 255; void: 128",
    ),
    "a palette": (
        lambda s: indexed(s.labels, VOC),
        "png",
        {},
        (),
        lambda s: s.both,
        "palette indices 1 (#800000), 2 (#008000); all are lesion",
    ),
    "a palette, one colour chosen": (
        lambda s: indexed(s.labels, VOC),
        "png",
        {},
        ("data.foreground='#008000'",),
        lambda s: s.small,
        "palette indices 1 (#800000), 2 (#008000); lesion: 2 (#008000)",
    ),
    "a palette with a rim": (
        lambda s: indexed(rimmed(s), VOC),
        "png",
        {},
        ("data.void='#e0e0c0'",),
        lambda s: s.large,
        "palette index 1 (#800000); void: 255 (#e0e0c0)",
    ),
    "a palette of greys": (
        lambda s: indexed(1 - s.large.astype(np.uint8), [255, 255, 255, 0, 0, 0]),
        "png",
        {},
        (),
        lambda s: s.large,
        "binary, 0 and 255",
    ),
    "palettes that differ": (
        lambda s: indexed(
            s.labels, [0, 0, 0, 255, 0, 0, 0, 255, 0] if s.number % 2 else [0, 0, 0, 0, 255, 0, 255, 0, 0]
        ),
        "png",
        {},
        (),
        lambda s: s.both,
        "colours #00ff00, #ff0000; all are lesion",
    ),
    "a palette whose black is last": (
        lambda s: indexed((2 - s.labels).astype(np.uint8), [0, 255, 0, 255, 0, 0, 0, 0, 0]),
        "png",
        {},
        (),
        lambda s: s.both,
        "colours #00ff00, #ff0000; all are lesion",
    ),
    "red and green": (coloured, "png", {}, (), lambda s: s.both, "colours #00ff00, #ff0000; all are lesion"),
    "red or green": (
        lambda s: coloured(s, small=(255, 0, 0)) if s.number % 2 else coloured(s, (0, 255, 0)),
        "png",
        {},
        (),
        lambda s: s.both,
        "colours #00ff00, #ff0000; all are lesion",
    ),
    "red and green, red chosen": (
        coloured,
        "png",
        {},
        ("data.foreground=red",),
        lambda s: s.large & ~s.small,
        "colours #00ff00, #ff0000; lesion: #ff0000",
    ),
    "colours on white, chosen": (
        lambda s: coloured(s, ground=(255, 255, 255)),
        "png",
        {},
        ("data.foreground=[red, '#00ff00']",),
        lambda s: s.both,
        "colours #00ff00, #ff0000; lesion: #00ff00, #ff0000",
    ),
    "yellow void": (
        lambda s: coloured(s, small=(255, 255, 0)),
        "png",
        {},
        ("data.void=yellow",),
        lambda s: s.large & ~s.small,
        "colour #ff0000; void: #ffff00",
    ),
    "black, opaque": (lambda s: by_alpha(s.large, (0, 0, 0)), "png", {}, (), lambda s: s.large, "what is opaque"),
    "white, opaque": (
        lambda s: by_alpha(s.large, (255, 255, 255)),
        "png",
        {},
        (),
        lambda s: s.large,
        "binary, 0 and 255",
    ),
    "a red veil": (lambda s: by_alpha(s.large, (255, 0, 0), 80), "png", {}, (), lambda s: s.large, "colour #ff0000"),
    "alpha asked for": (
        lambda s: np.dstack([white(s.small)] * 3 + [white(s.large)]),
        "png",
        {},
        ("data.mask_coding=alpha",),
        lambda s: s.large,
        "what is opaque",
    ),
    "JPEG, quality 75": (
        lambda s: white(s.large),
        "jpg",
        {"quality": 75},
        (),
        lambda s: s.large,
        "binary, grey cut at half",
    ),
    "JPEG, quality 40": (
        lambda s: white(s.large),
        "jpg",
        {"quality": 40},
        (),
        lambda s: s.large,
        "binary, grey cut at half",
    ),
    "inverted": (
        lambda s: white(~s.large),
        "png",
        {},
        ("data.invert=true",),
        lambda s: s.large,
        "binary, 0 and 255; inverted",
    ),
    "small numbers beside white, taken for labels": (
        rimmed,
        "png",
        {},
        ("data.mask_coding=labels",),
        lambda s: rimmed(s) > 0,
        "labels 1, 255; all are lesion",
    ),
    "a soft map, cut": (
        lambda s: cv2.GaussianBlur(white(s.large), (0, 0), 5),
        "png",
        {},
        ("data.mask_coding=binary",),
        lambda s: cv2.GaussianBlur(white(s.large), (0, 0), 5) > 127,
        "binary, grey cut at half",
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_read_pixel_for_pixel(tmp_path: Path, kind: str) -> None:
    draw, suffix, options, settings, lesion, words = READ[kind]
    scenes = build(tmp_path, draw, suffix, **options)
    for each, mask in zip(scenes, read(tmp_path, *settings), strict=True):
        assert np.array_equal(mask, lesion(each)), each.number
    report = checked(tmp_path, *settings)
    assert report.masks == words
    assert report.usable


REFUSED: dict[str, tuple[Callable[[Scene], Drawn], str, tuple[str, ...], str]] = {
    # name: how it is drawn, suffix, settings, what the line says
    "a rim of 255": (
        rimmed,
        "png",
        (),
        r"masks/00\.png: .*a rim of 255.* Found: 0 \(.* %\), 1 \(.* %\), 255 \(.* %\)\. data\.void=\[255\].*=labels",
    ),
    "a palette with a rim": (lambda s: indexed(rimmed(s), VOC), "png", (), r"a rim of 255.*data\.void=\[255\]"),
    "labels with a rim": (
        lambda s: np.where(s.small, 2, rimmed(s)).astype(np.uint8),
        "png",
        (),
        r"a rim of 255.*data\.void=\[255\]",
    ),
    "a rim in one mask of twelve": (
        lambda s: rimmed(s) if s.number == 7 else white(s.large),
        "png",
        (),
        r"masks/07\.png: .*a rim of 255",
    ),
    "small and bright": (lambda s: s.of(7, 200), "png", (), r"7 \(.*200 \(.*data\.mask_coding=labels"),
    "negative": (
        lambda s: np.where(s.small, -1, s.large).astype(np.int32),
        "tif",
        (),
        r"negative.*-1 \(.*data\.void=\[-1\]",
    ),
    "no background": (lambda s: s.labels + np.uint8(1), "png", (), r"nowhere 0.*data\.foreground"),
    "colours without black": (
        lambda s: coloured(s, ground=(255, 255, 255)),
        "png",
        (),
        r"no black.*#ff0000.*data\.foreground",
    ),
    "a label that is not there": (
        lambda s: s.labels,
        "png",
        ("data.foreground=3",),
        r"data\.foreground = 3: the masks hold 0 \(.*1 \(.*2 \(",
    ),
    "no colour": (
        coloured,
        "png",
        ("data.foreground=reddish",),
        r"data\.foreground = reddish: expected a value, a colour",
    ),
    "labels inverted": (lambda s: s.labels, "png", ("data.invert=true",), r"data\.invert: masks of two values"),
    "photographs": (lambda s: s.image, "png", (), r"masks/00\.png: .*not the colours of drawn masks.*photograph"),
    "photographs in JPEG": (lambda s: s.image, "jpg", (), r"not the colours of drawn masks.*photograph"),
    "grey photographs": (
        lambda s: Image.fromarray(s.image).convert("L"),
        "png",
        (),
        r"neither labels nor dark and bright.*data\.mask_coding=binary",
    ),
    "a soft map": (
        lambda s: cv2.GaussianBlur(white(s.large), (0, 0), 5),
        "png",
        (),
        r"neither labels nor dark and bright.*data\.mask_coding=binary",
    ),
    "three values in JPEG": (lambda s: s.of(128, 255), "jpg", (), r"neither labels nor dark and bright"),
    "0 and 1 in JPEG": (lambda s: s.of(2, 2), "jpg", (), r"a lossy format keeps no labels"),
    "numbers of many parts": (
        lambda s: (s.large * (1 + np.indices(s.large.shape)[1] * 100)).astype(np.uint16),
        "png",
        (),
        r"too many for labels.*data\.mask_coding=labels",
    ),
    "fractions beyond 1": (lambda s: s.large.astype(np.float32) * 1.5, "tif", (), r"fractions from 0 to 1\.5"),
    "transparent, with colours": (
        lambda s: np.dstack([white(s.large)] * 3 + [0 * white(s.large)]),
        "png",
        (),
        r"transparent everywhere, yet has colours",
    ),
    "no alpha channel": (
        lambda s: white(s.large),
        "png",
        ("data.mask_coding=alpha",),
        r"no alpha channel, which data\.mask_coding=alpha asks for",
    ),
    "no palette": (
        lambda s: white(s.large),
        "png",
        ("data.mask_coding=palette",),
        r"no palette, which data\.mask_coding=palette asks for",
    ),
    "no two values": (
        lambda s: s.labels,
        "png",
        ("data.mask_coding=binary",),
        r"no two values.*data\.mask_coding=labels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_a_line_that_helps(tmp_path: Path, kind: str) -> None:
    draw, suffix, settings, line = REFUSED[kind]
    options: dict[str, Any] = {"quality": 90} if suffix == "jpg" else {}
    build(tmp_path, draw, suffix, **options)
    with pytest.raises(InputError, match=line) as refused:
        read(tmp_path, *settings)
    assert "\n" not in str(refused.value)
    report = checked(tmp_path, *settings)
    assert not report.usable
    assert report.pairs == 12


MISFITS: dict[str, tuple[Callable[[Scene], Drawn], Callable[[Scene], Drawn], str, str]] = {
    # name: the others, the odd one, what is wrong with it, and the setting
    "an unknown label": (lambda s: s.labels, lambda s: s.of(1, 3), r"holds 3\b.*to hold 0, 1, 2", "labels"),
    "an unknown colour": (coloured, lambda s: coloured(s, (0, 0, 255)), r"holds #0000ff", "colours"),
    "a photograph": (
        lambda s: white(s.large),
        lambda s: s.image,
        r"is in colours, and the other masks are grey",
        "binary",
    ),
    "a soft map": (
        lambda s: white(s.large),
        lambda s: cv2.GaussianBlur(white(s.large), (0, 0), 5),
        r"no value in common",
        "binary",
    ),
    "another palette": (
        lambda s: indexed(s.labels, VOC),
        lambda s: indexed(s.labels, [0, 0, 0, 0, 0, 255, 0, 128, 0]),
        r"palette has other colours",
        "colours",
    ),
    "a rim": (lambda s: white(s.large), rimmed, r"1 is a value of its own|holds 0, 1, 255", "binary"),
    "opaque": (
        lambda s: by_alpha(s.large, (0, 0, 0)),
        lambda s: np.dstack([0 * white(s.large)] * 3 + [0 * white(s.large) + 255]),
        r"wholly opaque",
        "alpha",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_file_beyond_the_sample_that_does_not_fit_is_named(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, odd, line, setting = MISFITS[kind]
    monkeypatch.setattr("siamese_diffusion.data.decoding.spread", lambda items: list(items)[:5])
    build(tmp_path, lambda s: odd(s) if s.number == 8 else usual(s), count=10)
    pairs = opened(tmp_path).pairs()
    for pair in pairs[:8] + pairs[9:]:
        pair.read()
    with pytest.raises(InputError, match=rf"masks/08\.png: .*{line}.*data\.mask_coding={setting}"):
        pairs[8].read()
    report = checked(tmp_path)
    assert [(problem.file, problem.fatal) for problem in report.problems] == [(str(tmp_path / "masks/08.png"), True)]


def test_healthy_images_fit_every_coding(tmp_path: Path) -> None:
    draws: dict[str, Callable[[Scene], Drawn]] = {
        "binary": lambda s: white(s.large & (s.number > 3)),
        "labels": lambda s: s.labels * np.uint8(s.number > 3),
        "palette": lambda s: indexed(s.labels * np.uint8(s.number > 3), VOC),
        "colours": lambda s: coloured(s) * np.uint8(s.number > 3),
        "alpha": lambda s: by_alpha(s.large & (s.number > 3), (0, 0, 0)),
    }
    for name, draw in draws.items():
        build(tmp_path / name, draw)
        report = checked(tmp_path / name)
        assert report.healthy == 4
        assert report.usable
        masks = read(tmp_path / name)
        assert [bool(mask.any()) for mask in masks] == [False] * 4 + [True] * 8


@pytest.mark.parametrize(("fill", "word"), [(0, "empty"), (255, "full")])
def test_a_set_with_nothing_to_learn_is_refused(tmp_path: Path, fill: int, word: str) -> None:
    build(tmp_path, lambda s: np.full((SIDE, SIDE), fill, np.uint8))
    report = checked(tmp_path)
    assert not report.usable
    assert [problem.detail for problem in report.problems if problem.fatal] == [
        f"every mask that training would take is {word} at data.resolution = 96"
    ]


def test_noise_of_a_lossy_format_is_told_once_and_only_what_matters(tmp_path: Path) -> None:
    build(tmp_path / "discs", lambda s: white(s.large), "jpg", quality=75)
    report = checked(tmp_path / "discs")
    assert report.problems == []
    assert report.notes == ["grey edges (JPEG or interpolation) in 12 of 12 masks: cut at half"]

    scenes = build(tmp_path / "soft", lambda s: cv2.GaussianBlur(white(s.small), (0, 0), 0.9))
    report = checked(tmp_path / "soft")
    assert [(problem.kind, problem.fatal) for problem in report.problems] == [("threshold", False)] * 12
    for each, mask in zip(scenes, read(tmp_path / "soft"), strict=True):
        assert np.array_equal(mask, cv2.GaussianBlur(white(each.small), (0, 0), 0.9) > 127)


def test_colours_of_a_lossy_format(tmp_path: Path) -> None:
    scenes = build(tmp_path, coloured, "jpg", quality=90, size=(128, 128))
    for settings in ((), ("data.foreground=red",)):
        for each, mask in zip(scenes, read(tmp_path, *settings), strict=True):
            wanted = each.large & ~each.small if settings else each.both
            assert (mask & wanted).sum() / (mask | wanted).sum() > 0.95
    assert checked(tmp_path).masks == "colours #00ff00, #fe0000; all are lesion"


def test_void_is_apart_in_label_maps_and_counted(tmp_path: Path) -> None:
    scenes = build(tmp_path, rimmed)
    pairs = opened(tmp_path, "data.void=255").pairs()
    labels = pairs[0].mask.decoding.labels(pairs[0].mask.source)
    assert np.array_equal(labels, np.where(rimmed(scenes[0]) == 255, VOID, rimmed(scenes[0])))
    share = np.mean([(rimmed(each) == 255).mean() for each in scenes])
    assert checked(tmp_path, "data.void=255").notes == [
        f"void: {100 * share:.1f} % of the pixels, in 12 masks; training and scores take it for background"
    ]


def test_inverted_and_identical_masks_are_told(tmp_path: Path) -> None:
    build(tmp_path / "inverted", lambda s: white(~s.large))
    (problem,) = checked(tmp_path / "inverted").problems
    assert (problem.kind, problem.fatal) == ("inverted", False)
    assert "12 of 12 masks" in problem.detail
    assert "data.invert=true" in problem.detail
    build(tmp_path / "view", lambda s: white(scene(0).large))
    (problem,) = checked(tmp_path / "view").problems
    assert (problem.kind, problem.fatal) == ("identical masks", False)
    assert "12 of 12 masks are the same" in problem.detail
    build(tmp_path / "usual", lambda s: white(s.large))
    assert checked(tmp_path / "usual").problems == []


def line(each: Scene, width: int = 2, shift: int = 0) -> Drawn:
    image = Image.new("L", (SIDE, SIDE))
    box = [12 - shift, 10, 45 - shift + each.number, 50]
    ImageDraw.Draw(image).ellipse(box, outline=255, width=width)
    return image


def disc(each: Scene, shift: int = 0) -> Boolean:
    image = Image.new("L", (SIDE, SIDE))
    box = [12 - shift, 10, 45 - shift + each.number, 50]
    ImageDraw.Draw(image).ellipse(box, outline=255, width=2, fill=255)
    return np.asarray(image) > 0


def vessels(each: Scene) -> Boolean:
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.abs(y - 32 - 12 * np.sin(x / 9 + each.number)) < 1.2
    return np.asarray(waves | (np.abs((x + each.number) % 30 - 15) < 1))


@pytest.mark.parametrize("width", [1, 2])
def test_outlines_are_refused_filled_or_kept(tmp_path: Path, width: int) -> None:
    scenes = build(tmp_path, lambda s: line(s, width))
    with pytest.raises(InputError, match=r"outlines.* 12 of 12.*data\.outline=fill.*data\.outline=keep"):
        read(tmp_path)
    assert not checked(tmp_path).usable
    for each, filled, kept in zip(
        scenes, read(tmp_path, "data.outline=fill"), read(tmp_path, "data.outline=keep"), strict=True
    ):
        assert np.array_equal(filled, disc(each))
        assert np.array_equal(kept, np.asarray(line(each, width)) > 0)


def test_outlines_that_the_frame_cuts_are_filled_and_open_ones_refused(tmp_path: Path) -> None:
    scenes = build(tmp_path / "cut", lambda s: line(s, shift=22 if s.number % 2 else 0))
    for each, filled in zip(scenes, read(tmp_path / "cut", "data.outline=fill"), strict=True):
        assert np.array_equal(filled, disc(each, 22 if each.number % 2 else 0))

    def torn(each: Scene) -> Drawn:
        drawn = np.array(line(each))
        drawn[25:35, : SIDE // 2] *= np.uint8(each.number != 4)
        return drawn

    build(tmp_path / "open", torn)
    with pytest.raises(InputError, match=r"masks/04\.png: its outline is not closed"):
        read(tmp_path / "open", "data.outline=fill")


def test_vessels_are_no_outlines(tmp_path: Path) -> None:
    scenes = build(tmp_path, lambda s: white(vessels(s)))
    for each, mask in zip(scenes, read(tmp_path), strict=True):
        assert np.array_equal(mask, vessels(each))


def test_several_masks_of_one_image_are_joined_and_keep_their_labels(tmp_path: Path) -> None:
    each = scene(1)
    files = (save(tmp_path / "a.png", each.of(1, 0)), save(tmp_path / "b.png", each.of(0, 2)))
    source = MaskSource(files)
    labels = Decoding(masks=[source]).labels(source)
    assert np.array_equal(labels, np.where(each.small, 2, each.large))
    other = MaskSource((files[0], save(tmp_path / "c.png", np.zeros((9, 9), np.uint8))))
    with pytest.raises(InputError, match=r"c\.png: has another size than .*a\.png"):
        Decoding(masks=[other]).labels(other)


def test_plain_folders_keep_their_keys_and_others_have_one(tmp_path: Path) -> None:
    plain: dict[str, Callable[[Scene], Drawn]] = {
        "binary": lambda s: white(s.large),
        "mixed": as_busi,
        "bright labels": lambda s: s.of(128, 255),
    }
    for name, draw in plain.items():
        build(tmp_path / name, draw)
        assert opened(tmp_path / name).decoding.key == {}, name
    build(tmp_path / "labels", lambda s: s.labels)
    keys = [
        opened(tmp_path / "labels", *settings).decoding.key
        for settings in ((), ("data.foreground=1",), ("data.mask_coding=labels",), ("data.fit=pad",))
    ]
    assert all(keys)
    assert len({str(key) for key in keys}) == 4
    assert opened(tmp_path / "labels").decoding.image_key == {}


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    build(tmp_path, rimmed)
    folder = opened(tmp_path)
    pairs = folder.pairs()
    assert pairs[0].image.read().shape == (SIDE, SIDE, 3)  # images can be had of masks that are refused
    with pytest.raises(InputError):
        pairs[0].mask.read()
    with pytest.raises(InputError):  # and are refused again, not read by another rule
        pairs[0].mask.read()
