"""Masks laid on their images, images of every depth and shape, and what is left of lesions at training's resolution."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from test_coding import SIDE, Drawn, Scene, build, checked, kinds, opened, read, scene, white

from siamese_diffusion.data.images import Fit, read_image, resize, square, unsquare
from siamese_diffusion.data.lost import losses
from siamese_diffusion.errors import InputError

WIDE = (48, 80)
"""Height and width of an image that is not square."""


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


TURNS: dict[int, Callable[[Any], Any]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.swapaxes(stored[::-1, ::-1], 0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What makes stored pixels upright."""


@pytest.mark.parametrize("orientation", TURNS)
def test_a_mask_on_the_stored_pixels_is_turned_where_its_size_says_so(tmp_path: Path, orientation: int) -> None:
    turn = TURNS[orientation]
    options = {"exif": exif(orientation)}
    scenes = build(tmp_path / "stored", lambda s: white(s.large), size=WIDE, image_options=options)
    build(tmp_path / "upright", lambda s: white(turn(s.large)), size=WIDE, image_options=options)
    swaps = orientation > 4
    settings = () if swaps else ("data.orientation=stored",)
    for each, pair in zip(scenes, opened(tmp_path / "stored", *settings).pairs(), strict=True):
        image, mask = pair.read()
        assert np.array_equal(image, turn(each.image))
        assert np.array_equal(mask, turn(each.large))
        assert np.array_equal(mask, pair.mask.read())
    for each, mask in zip(scenes, read(tmp_path / "upright"), strict=True):
        assert np.array_equal(mask, turn(each.large))
    report = checked(tmp_path / "stored")
    if swaps:
        assert report.problems == []
        assert any(note.startswith("12 of 12 masks are turned") for note in report.notes)
    else:
        assert kinds(report) == ["orientation"] * 12


def test_square_images_with_an_orientation_are_a_warning_and_a_setting(tmp_path: Path) -> None:
    scenes = build(tmp_path, lambda s: white(s.large), image_options={"exif": exif(6)})
    report = checked(tmp_path)
    assert kinds(report) == ["orientation"] * 12
    assert report.usable
    for each, mask, turned in zip(scenes, read(tmp_path), read(tmp_path, "data.orientation=stored"), strict=True):
        assert np.array_equal(mask, each.large)
        assert np.array_equal(turned, np.rot90(each.large, -1))
    assert checked(tmp_path, "data.orientation=upright").problems == []


def enlarged(each: Scene, factor: float) -> Drawn:
    size = round(SIDE * factor), round(SIDE * factor)
    return Image.fromarray(white(each.large)).resize(size, Image.Resampling.NEAREST)


SIZES: dict[str, tuple[Callable[[Scene], Drawn], Callable[[Scene], Any], str]] = {
    "one larger": (lambda s: np.pad(white(s.large), ((0, 1), (0, 1))), lambda s: s.large, "a pixel or two"),
    "two higher": (lambda s: np.pad(white(s.large), ((0, 2), (0, 0))), lambda s: s.large, "a pixel or two"),
    "one smaller": (
        lambda s: white(s.large)[:-1, :-1],
        lambda s: np.pad(s.large[:-1, :-1], ((0, 1), (0, 1)), mode="edge"),
        "a pixel or two",
    ),
    "half": (lambda s: enlarged(s, 0.5), lambda s: np.kron(s.large[1::2, 1::2], np.ones((2, 2))) > 0, "resized"),
    "double": (lambda s: enlarged(s, 2), lambda s: s.large, "resized"),
    "five quarters, in all": (lambda s: np.kron(s.large, np.ones((5, 5))) > 0, lambda s: s.large, "resized"),
}


@pytest.mark.parametrize("kind", SIZES)
def test_masks_of_another_size_are_laid_on_their_images(tmp_path: Path, kind: str) -> None:
    draw, wanted, words = SIZES[kind]
    scenes = build(tmp_path, draw)
    for each, mask in zip(scenes, read(tmp_path), strict=True):
        assert np.array_equal(mask, wanted(each))
    report = checked(tmp_path)
    assert report.problems == []
    assert len([note for note in report.notes if "12 of 12" in note and words in note]) == 1


@pytest.mark.parametrize("size", [(SIDE, SIDE + 3), (SIDE - 3, SIDE), (40, 60), (49, 49)])
def test_one_mask_of_a_strange_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    build(tmp_path, lambda s: white(scene(0, *size).large) if s.number == 5 else white(s.large))
    with pytest.raises(
        InputError, match=rf"masks/05\.png: is {size[1]} x {size[0]}, but its image .*05\.png is 64 x 64"
    ):
        read(tmp_path)
    assert kinds(checked(tmp_path)) == ["size mismatch"]


def test_a_ratio_that_most_masks_have_is_believed(tmp_path: Path) -> None:
    scenes = build(tmp_path, lambda s: cv2.resize(white(s.large), (49, 49), interpolation=cv2.INTER_NEAREST))
    for each, mask in zip(scenes, read(tmp_path), strict=True):
        assert mask.shape == each.large.shape
        assert (mask ^ each.large).mean() < 0.03
    build(tmp_path / "oblong", lambda s: cv2.resize(white(s.large), (49, 40)))
    with pytest.raises(InputError, match="is 49 x 40"):
        read(tmp_path / "oblong")


def grey(each: Scene) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return each.image[..., 1].astype(np.uint16)


def test_a_series_of_16_bits_has_one_scale(tmp_path: Path) -> None:
    scenes = build(tmp_path, lambda s: white(s.large), image=lambda s: grey(s) * (16 if s.number else 1))
    for each, pair in zip(scenes, opened(tmp_path).pairs(), strict=True):
        values = grey(each).astype(float) * (16 if each.number else 1)
        assert np.array_equal(pair.image.read(), np.repeat(np.round(values * 255 / 4095)[..., None], 3, 2))
    assert any("black at 0, white at 4095" in note for note in checked(tmp_path).notes)


def test_an_image_beyond_the_range_of_the_sample_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_diffusion.data.decoding.spread", lambda items: list(items)[:4])
    build(tmp_path, lambda s: white(s.large), image=lambda s: grey(s) * (200 if s.number == 9 else 16))
    pairs = opened(tmp_path).pairs()
    pairs[3].read()
    with pytest.raises(
        InputError, match=r"images/09\.png: holds values from .* lie within 0 to 4095; data\.image_range=LOW,HIGH"
    ):
        pairs[9].read()
    assert opened(tmp_path, "data.image_range=0,65535").pairs()[9].read()[0].max() > 100


def test_colours_of_16_bits_are_scaled_as_grey_is(tmp_path: Path) -> None:
    scenes = build(tmp_path, lambda s: white(s.large))
    for each in scenes:
        assert cv2.imwrite(
            str(tmp_path / f"images/{each.number:02d}.png"), each.image[..., ::-1].astype(np.uint16) * 16
        )
    for each, pair in zip(scenes, opened(tmp_path).pairs(), strict=True):
        wanted = np.round(each.image.astype(float) * 16 * 255 / 4095)
        assert np.array_equal(pair.image.read(), wanted)
        assert np.array_equal(read_image(pair.image.path), wanted)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_hounsfield_units_need_a_window(tmp_path: Path, kind: Any) -> None:
    def hounsfield(each: Scene) -> np.ndarray[Any, Any]:
        return (each.image[..., 1].astype(np.int32) * 10 - 1000).astype(kind)

    scenes = build(tmp_path, lambda s: white(s.large), image=lambda s: hounsfield(s), image_suffix="tif")
    with pytest.raises(InputError, match=r"\.tif: holds negative values \(from -.*data\.window=LEVEL,WIDTH"):
        opened(tmp_path).pairs()[0].read()
    report = checked(tmp_path)
    assert not report.usable
    assert "NaN" not in str(report.as_dict())
    for each, pair in zip(scenes, opened(tmp_path, "data.window=40,400").pairs(), strict=True):
        wanted = np.round((hounsfield(each).astype(float) + 160).clip(0, 400) * (255 / 400))
        assert np.array_equal(pair.image.read()[..., 0], wanted)
    with pytest.raises(InputError, match=r"is flat: .*data\.window"):
        opened(tmp_path, "data.window=9000,10").pairs()[0].read()
    assert (
        opened(tmp_path, "data.window=40,400").decoding.image_key
        != opened(tmp_path, "data.window=0,400").decoding.image_key
    )


def test_images_of_8_bits_that_are_flat_are_told(tmp_path: Path) -> None:
    build(tmp_path, lambda s: white(s.large), image=lambda s: s.image * np.uint8(s.number != 3))
    report = checked(tmp_path)
    assert [(problem.kind, Path(problem.file).name) for problem in report.problems] == [("flat image", "03.png")]


def test_colour_spaces_and_pages(tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")

    def in_lab(each: Scene) -> Drawn:
        return ImageCms.applyTransform(Image.fromarray(each.image), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))  # type: ignore[return-value]

    profile = {name: ImageCms.ImageCmsProfile(found).tobytes() for name, found in (("lab", lab), ("srgb", srgb))}
    more = [Image.fromarray(scene(50).image)]
    cases: dict[str, tuple[Callable[[Scene], Drawn], str, dict[str, Any], list[str]]] = {
        "cmyk": (lambda s: Image.fromarray(s.image).convert("CMYK"), "tif", {}, ["colours"] * 3),
        "strange": (lambda s: s.image, "png", {"icc_profile": profile["lab"]}, ["colours"] * 3),
        "usual": (lambda s: s.image, "png", {"icc_profile": profile["srgb"]}, []),
        "lab": (in_lab, "tif", {}, []),
        "pages": (lambda s: Image.fromarray(s.image), "tif", {"save_all": True, "append_images": more}, ["pages"] * 3),
    }
    for name, (draw, suffix, options, wanted) in cases.items():
        scenes = build(
            tmp_path / name, lambda s: white(s.large), image=draw, image_suffix=suffix, image_options=options, count=3
        )
        report = checked(tmp_path / name)
        assert kinds(report) == wanted, name
        assert report.usable
        for each, pair in zip(scenes, opened(tmp_path / name).pairs(), strict=True):
            assert np.abs(pair.image.read().astype(int) - each.image).mean() < 3, name


def test_a_mask_of_several_pages_is_refused(tmp_path: Path) -> None:
    more = [Image.fromarray(white(scene(1).large))]
    build(tmp_path, lambda s: Image.fromarray(white(s.large)), "tif", save_all=True, append_images=more)
    with pytest.raises(InputError, match=r"00\.tif: holds 2 pages, and a mask is one"):
        read(tmp_path)


FITS: tuple[Fit, ...] = ("squash", "pad", "crop")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (64, 64), (33, 100)])
def test_fit_and_its_undoing(fit: Fit, shape: tuple[int, int]) -> None:
    each = scene(4, *shape)
    image, mask = square(each.image, 32, fit), square(each.large, 32, fit)
    assert image.shape == (32, 32, 3)
    assert mask.shape == (32, 32)
    height, width = shape
    longer, shorter = max(shape), min(shape)
    bars = round(32 * shorter / longer) if fit == "pad" else 32
    shown = image.max(2) > 0
    assert sorted([int(shown.any(0).sum()), int(shown.any(1).sum())]) == [bars, 32]
    if fit == "crop":
        top, left = (height - shorter) // 2, (width - shorter) // 2
        middle = each.image[top : top + shorter, left : left + shorter]
        assert np.array_equal(image, resize(np.ascontiguousarray(middle), (32, 32)))
    if fit == "squash":
        assert np.array_equal(image, resize(each.image, (32, 32)))
    back = unsquare(mask, (width, height), fit)
    assert back.shape == shape
    inside = np.ones(shape, bool)
    if fit == "crop":
        inside[:] = False
        inside[top : top + shorter, left : left + shorter] = True
        assert not back[~inside].any()
    assert ((back ^ each.large) & inside).mean() < 0.05


@pytest.mark.parametrize("fit", FITS)
def test_folders_are_squared_as_the_setting_says(tmp_path: Path, fit: Fit) -> None:
    scenes = build(tmp_path, lambda s: white(s.large), size=WIDE)
    folder = opened(tmp_path, f"data.fit={fit}")
    for each, pair in zip(scenes, folder.pairs(), strict=True):
        image, mask = pair.squared(32)
        assert np.array_equal(image, square(each.image, 32, fit))
        assert np.array_equal(mask, square(each.large, 32, fit))
        assert np.array_equal(pair.image.squared(32), image)
        assert np.array_equal(pair.mask.squared(32), mask)
    words = {"squash": "squashed to a square", "pad": "padded with black", "crop": "cut to the square in the middle"}
    assert any(
        "12 of 12 images are not square: " + words[fit] in note for note in checked(tmp_path, f"data.fit={fit}").notes
    )


@pytest.mark.parametrize("fit", FITS)
def test_predictions_are_scored_at_native_size_with_the_fit_undone(fit: Fit) -> None:
    from siamese_diffusion.segmentation.inference import at_size

    each = scene(4, *WIDE)
    found = at_size(square(each.large, 64, fit).astype(np.float32), WIDE, fit)
    assert found.shape == WIDE
    wanted = each.large.copy()
    if fit == "crop":
        wanted[:, :16] = wanted[:, -16:] = False
    assert ((found > 0.5) ^ wanted).mean() < 0.02


def test_tiny_lesions_that_the_resolution_loses_are_counted(tmp_path: Path) -> None:
    def spots(each: Scene) -> Drawn:
        mask = np.zeros((512, 512), bool)
        mask[100:300, 100:300] = each.number % 2 == 0
        mask[400:403, 400:403] = True
        return white(mask)

    build(tmp_path, spots, image=lambda s: np.kron(s.image, np.ones((8, 8, 1), np.uint8)), size=(SIDE, SIDE))
    report = checked(tmp_path)
    assert report.lesions == {"count": 18, "lost": 12, "cut_off": 0, "resolution": 96, "keeping": 128}
    (problem,) = (problem for problem in report.problems if problem.kind == "lost lesions")
    assert "12 of 18 lesions" in problem.detail
    assert "data.resolution=128 is the first that keeps them" in problem.detail
    assert not problem.fatal
    kept = checked(tmp_path, "data.resolution=128")
    assert kept.lesions["lost"] == 0
    assert "lost lesions" not in kinds(kept)


def test_thin_vessels_that_the_resolution_loses_are_counted(tmp_path: Path) -> None:
    def vessel(each: Scene) -> Drawn:
        y, x = np.mgrid[:512, :512]
        return white(np.abs(y - 256 - 80 * np.sin(x / 60 + each.number)) < 1.5)

    build(tmp_path, vessel, image=lambda s: np.kron(s.image, np.ones((8, 8, 1), np.uint8)), count=4)
    report = checked(tmp_path)
    assert report.lesions["lost"] == report.lesions["count"] == 4
    assert report.lesions["keeping"] in (128, 160)


def test_lesions_that_crop_cuts_off_are_told_apart() -> None:
    mask = np.zeros((64, 128), bool)
    mask[20:30, 4:14] = mask[20:30, 60:70] = True
    for fit, wanted in (("squash", (2, 0, 0)), ("pad", (2, 0, 0)), ("crop", (2, 1, 1))):
        assert tuple(losses(mask, square(mask, 32, fit), fit)) == wanted  # type: ignore[arg-type]


def test_every_mask_empty_at_the_resolution_is_refused(tmp_path: Path) -> None:
    def dot(each: Scene) -> Drawn:
        return white(np.pad(np.ones((2, 2), bool), 255))

    build(tmp_path, dot, image=lambda s: np.kron(s.image, np.ones((8, 8, 1), np.uint8)))
    report = checked(tmp_path)
    assert not report.usable
    assert "every mask that training would take is empty at data.resolution = 96" in str(report.problems)
