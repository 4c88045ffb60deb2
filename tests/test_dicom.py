"""DICOM through `prepare`: what is shown, which masks are whose, what is left out; and no word of a patient."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("pylibjpeg")

from clinical_files import (  # noqa: E402
    BORN,
    CAPTURE,
    CT,
    IDENTITY,
    MR,
    NAME,
    header,
    image,
    other,
    segmentation,
    structures,
    uid,
    write,
)
from pydicom.pixels.processing import apply_voi_lut, convert_color_space  # noqa: E402
from pydicom.pixels.utils import pixel_array  # noqa: E402

from siamese_diffusion.config import load_config  # noqa: E402
from siamese_diffusion.data.check import check  # noqa: E402
from siamese_diffusion.data.clinical.cases import number_all, pseudonyms  # noqa: E402
from siamese_diffusion.data.clinical.pixels import frames, levels_of, needs_levels, to_picture  # noqa: E402
from siamese_diffusion.data.folder import DataFolder  # noqa: E402
from siamese_diffusion.data.prepare import prepare  # noqa: E402
from siamese_diffusion.diffusion.pretrain import pretrain  # noqa: E402
from siamese_diffusion.errors import InputError  # noqa: E402
from siamese_diffusion.files import read_json  # noqa: E402

SHAPE = (40, 31)
SHIPPED = Path(pydicom.__file__).parent / "data/test_files"


def disc(radius: float, x: int = 15) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray((rows - 20) ** 2 + (columns - x) ** 2 < radius**2)


def grey(seed: int, mask: NDArray[np.bool_] | None = None, kind: Any = np.int16) -> NDArray[Any]:
    values = np.random.default_rng(seed).normal(60, 12, SHAPE).clip(0, 120)
    return np.asarray(values + (0 if mask is None else 60 * mask), kind)


def series(folder: Path, patient: str = IDENTITY, count: int = 9, **more: Any) -> list[Any]:
    """A series of CT with a lesion in slices 3, 4 and 6, counted from 1."""
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "WindowCenter": 100, "WindowWidth": 300}
    return [
        image(
            folder / f"IM{n:04d}",
            grey(n, disc(4 + n) if n in (3, 4, 6) else None),
            **{
                "kind": CT,
                "patient": patient,
                "series": "ct",
                "InstanceNumber": n,
                "ImagePositionPatient": [0, 0, float(n)],
                **place,
                **more,
            },
        )
        for n in range(1, count + 1)
    ]


def segmented(folder: Path, patient: str = IDENTITY, **options: Any) -> list[Any]:
    heads = series(folder / "ct", patient)
    marks = [(heads[n - 1], 0, "tumour", disc(4 + n)) for n in (3, 4, 6)] + [(heads[5], 0, "cyst", disc(3, 27))]
    segmentation(folder / "seg.dcm", marks, patient, **options)
    return heads


def written(folder: Path, out: Path, *settings: str, **options: Any) -> dict[str, Any]:
    return prepare(folder, out, load_config(None, list(settings)), **options)


def shown(path: Path, index: int = 0, *settings: str) -> NDArray[np.uint8]:
    """A frame as it is written."""
    data = load_config(None, list(settings)).data
    head, values = next(frames(path, [index]))
    return to_picture(
        head, values, data, levels_of([(head, values)], path) if needs_levels(head, values, data) else None
    )


# ---- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("examples_rgb_color.dcm", 0),
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),
        ("SC_rgb_small_odd_big_endian.dcm", 0),
        ("SC_rgb_gdcm_KY.dcm", 0),
        ("SC_rgb_jls_lossy_line.dcm", 0),
        ("examples_ybr_color.dcm", 0),
        ("SC_ybr_full_422_uncompressed.dcm", 0),
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", 0),
        ("GDCMJ2K_TextGBR.dcm", 0),
    ],
)
def test_colours_are_rgb_whatever_the_file_holds(name: str, tolerance: int) -> None:
    wanted = pixel_array(SHIPPED / name, index=0)
    found = shown(SHIPPED / name)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= tolerance


def test_ybr_is_no_rgb() -> None:
    raw = pixel_array(SHIPPED / "SC_ybr_full_422_uncompressed.dcm", raw=True)
    wanted = convert_color_space(raw, "YBR_FULL_422", "RGB")
    assert np.array_equal(shown(SHIPPED / "SC_ybr_full_422_uncompressed.dcm"), wanted)
    assert not np.array_equal(raw, wanted)


def test_colours_of_16_bits_and_frames() -> None:
    path = SHIPPED / "SC_rgb_rle_16bit_2frame.dcm"
    for index in (0, 1):
        wanted = np.round(pixel_array(path, index=index).astype(float) * (255 / 65535))
        assert np.array_equal(shown(path, index), wanted)
    assert not np.array_equal(shown(path, 0), shown(path, 1))


def test_a_palette_is_resolved() -> None:
    path = SHIPPED / "examples_palette.dcm"
    head = pydicom.dcmread(path)
    colours = pydicom.pixels.apply_color_lut(head.pixel_array, head)
    assert colours.dtype == np.uint16
    assert np.abs(shown(path).astype(int) - (colours >> 8)).max() <= 1


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "examples_overlay.dcm"]
)
def test_the_windows_of_files(name: str) -> None:
    head = pydicom.dcmread(SHIPPED / name)
    values = apply_voi_lut(head.pixel_array, head, prefer_lut=False)
    low, high = apply_voi_lut(np.array([-1e9, 1e9]), head, prefer_lut=False)
    assert np.abs(shown(SHIPPED / name)[..., 0] - (values - low) * 255 / (high - low)).max() <= 0.51
    assert len(np.unique(shown(SHIPPED / name))) > 20


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "JPEG2000.dcm",
        "JPGExtended.dcm",
        "JPEGLSNearLossless_16.dcm",
        "image_dfl.dcm",
        "MR_small_bigendian.dcm",
    ],
)
def test_compressed_transfer_syntaxes(name: str) -> None:
    found = shown(SHIPPED / name, 0, *(("data.window=40,400",) if name.startswith("693") else ()))
    assert len(np.unique(found)) > 5


def test_rescaling_windows_and_inversion(tmp_path: Path) -> None:
    stored = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    image(tmp_path / "a", stored, CT, RescaleSlope=2, RescaleIntercept=-1024)
    units = stored * 2.0 - 1024
    wanted = np.round((units + 160).clip(0, 400) * (255 / 400))
    assert np.array_equal(shown(tmp_path / "a", 0, "data.window=40,400")[..., 0], wanted)
    image(
        tmp_path / "b", stored, CT, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[40, 9], WindowWidth=[400, 9]
    )
    linear = ((units - 39.5) / 399 + 0.5).clip(0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown(tmp_path / "b")[..., 0] - linear).max() <= 0.51
    image(tmp_path / "c", stored, CAPTURE, PhotometricInterpretation="MONOCHROME1", WindowCenter=600, WindowWidth=800)
    image(tmp_path / "d", stored, CAPTURE, WindowCenter=600, WindowWidth=800)
    assert np.array_equal(shown(tmp_path / "c"), 255 - shown(tmp_path / "d"))
    assert shown(tmp_path / "d")[0, 0, 0] < shown(tmp_path / "d")[-1, -1, 0]
    with pytest.raises(InputError, match=r"holds values from -1024, as CT .* --window LEVEL,WIDTH"):
        shown(tmp_path / "a")


def test_without_a_window_the_range_of_the_whole_series_is_shown(tmp_path: Path) -> None:
    for n, most in enumerate((400, 900)):
        mask = disc(6)
        values = np.linspace(0, most, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint16)
        image(tmp_path / f"data/images/{n}.dcm", values, MR, series="mr", InstanceNumber=n)
        save(tmp_path / f"data/masks/{n}.png", mask)
    written(tmp_path / "data", tmp_path / "out")
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/images").iterdir())]
    assert pictures[0].max() < 130
    assert pictures[1].max() == 255


def test_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    values = grey(1, kind=np.uint8)
    image(tmp_path / "a", values)
    assert np.array_equal(shown(tmp_path / "a"), np.repeat(values[..., None], 3, 2))


def test_enhanced_images_are_shown_frame_by_frame(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    def group(slope: float) -> Dataset:
        found, scale, window = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, 0, "US"
        window.WindowCenter, window.WindowWidth = 100, 200
        found.PixelValueTransformationSequence, found.FrameVOILUTSequence = [scale], [window]
        return found

    stack = np.stack([grey(1), grey(1)])
    image(tmp_path / "a", stack, MR, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[group(1), group(2)])
    assert shown(tmp_path / "a", 1).mean() > 1.4 * shown(tmp_path / "a", 0).mean()


# ---- segmentation objects --------------------------------------------------------------------------------------------


def save(path: Path, mask: NDArray[np.bool_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


@pytest.mark.parametrize("by_place", [False, True])
def test_segments_find_their_images(tmp_path: Path, by_place: bool) -> None:
    segmented(tmp_path / "data", by_place=by_place)
    result = written(tmp_path / "data", tmp_path / "out", every=4)
    assert result["classes"] == {1: "cyst", 2: "tumour"}
    pairs = DataFolder(tmp_path / "out").pairs()
    assert [pair.name for pair in pairs] == [f"p001-s{n:04d}" for n in (1, 3, 4, 5, 6, 9)]
    wanted = {3: disc(7), 4: disc(8), 6: disc(10) | disc(3, 27)}
    for pair in pairs:
        number = int(pair.name[-4:])
        assert np.array_equal(pair.mask.read(), wanted.get(number, np.zeros(SHAPE, bool)))
        assert np.array_equal(pair.image.read(), shown(tmp_path / f"data/ct/IM{number:04d}"))
    chosen = DataFolder(tmp_path / "out", settings=load_config(None, ["data.foreground=cyst"]).data).pairs()
    assert np.array_equal(chosen[4].mask.read(), disc(3, 27))
    assert check(tmp_path / "out").usable


def test_which_slices_are_kept(tmp_path: Path) -> None:
    segmented(tmp_path / "data")
    for name, options, numbers in (
        ("a", {"lesion_only": True}, [3, 4, 6]),
        ("b", {"every": 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("c", {}, [1, 3, 4, 6]),
        ("d", {"foreground": "cyst", "lesion_only": True}, [6]),
    ):
        written(tmp_path / "data", tmp_path / name, **options)
        assert [int(pair.name[-4:]) for pair in DataFolder(tmp_path / name).pairs()] == numbers
    stored = np.asarray(Image.open(tmp_path / "d/masks/p001-s0006.png"))
    assert np.array_equal(stored, disc(3, 27).astype(np.uint8) * 255)
    with pytest.raises(InputError, match=r"data\.foreground = polyp: .*name \(cyst, tumour\)"):
        written(tmp_path / "data", tmp_path / "e", foreground="polyp")
    with pytest.raises(InputError, match="--every 0"):
        written(tmp_path / "data", tmp_path / "e", every=0)
    with pytest.raises(InputError, match="--axis x: expected one of auto, axial"):
        written(tmp_path / "data", tmp_path / "e", axis="x")


def test_frames_of_a_video_are_found_by_their_number(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 200, (5, *SHAPE, 3), np.uint8)
    head = image(tmp_path / "data/clip", stack, NumberOfFrames=5, Rows=SHAPE[0], Columns=SHAPE[1], SamplesPerPixel=3,
                 PhotometricInterpretation="RGB", PlanarConfiguration=0)  # fmt: skip
    segmentation(tmp_path / "data/seg", [(head, 1, "polyp", disc(5)), (head, 3, "polyp", disc(7))])
    written(tmp_path / "data", tmp_path / "out", lesion_only=True)
    pairs = DataFolder(tmp_path / "out").pairs()
    assert [pair.name for pair in pairs] == ["p001-s0002", "p001-s0004"]
    for pair, index, radius in zip(pairs, (1, 3), (5, 7), strict=True):
        assert np.array_equal(pair.image.read(), stack[index])
        assert np.array_equal(pair.mask.read(), disc(radius))
    assert read_json(tmp_path / "out/dataset.json")["masks"] == "binary"


def test_shares_are_cut_at_half_and_label_maps_are_read(tmp_path: Path) -> None:
    heads = series(tmp_path / "a/ct", count=1)
    segmentation(tmp_path / "a/seg", [(heads[0], 0, "x", disc(6))], SegmentationType="FRACTIONAL", BitsAllocated=8,
                 BitsStored=8, HighBit=7, MaximumFractionalValue=200)  # fmt: skip
    written(tmp_path / "a", tmp_path / "out-a")
    assert np.array_equal(DataFolder(tmp_path / "out-a").pairs()[0].mask.read(), disc(6))
    segmentation(tmp_path / "b/seg", [(heads[0], 0, "x", disc(5))], SegmentationType="LABELMAP", BitsAllocated=8,
                 BitsStored=8, HighBit=7)  # fmt: skip
    series(tmp_path / "b/ct", count=1)
    head = pydicom.dcmread(tmp_path / "b/ct/IM0001")
    head.SOPInstanceUID = heads[0].SOPInstanceUID
    write(tmp_path / "b/ct/IM0001", head)
    written(tmp_path / "b", tmp_path / "out-b")
    assert np.array_equal(DataFolder(tmp_path / "out-b").pairs()[0].mask.read(), disc(5))


def test_segmentations_by_another_library(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    heads = [pydicom.dcmread(tmp_path / f"data/ct/IM{n + 1:04d}") for n, _ in enumerate(series(tmp_path / "data/ct"))]
    masks = np.stack([disc(4 + n) if n in (3, 4, 6) else np.zeros(SHAPE, bool) for n in range(1, 10)])
    for head in heads:
        for name in ("PatientSex", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            setattr(head, name, "")
        head.PixelSpacing, head.SliceThickness = [1, 1], 1
    segment = SegmentDescription(1, "lesion", codes.SCT.MorphologicallyAbnormalStructure,
                                 codes.SCT.Tumor, SegmentAlgorithmTypeValues.MANUAL)  # fmt: skip
    found = Segmentation(
        heads, masks, SegmentationTypeValues.BINARY, [segment], uid("s"), 1, uid("i"), 1, "m", "n", "1", "d"
    )
    found.save_as(tmp_path / "data/seg.dcm")
    assert highdicom.__version__
    written(tmp_path / "data", tmp_path / "out", lesion_only=True)
    pairs = DataFolder(tmp_path / "out").pairs()
    assert [int(pair.name[-4:]) for pair in pairs] == [3, 4, 6]
    assert all(np.array_equal(pair.mask.read(), disc(4 + int(pair.name[-4:]))) for pair in pairs)


def test_segmentations_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    heads = segmented(tmp_path / "data")
    small = np.ones((8, 8), bool)
    segmentation(tmp_path / "data/wrong", [(heads[0], 0, "x", small)])
    with pytest.raises(InputError, match=r"wrong: is 8 x 8, and its image 31 x 40 pixels; --skip-damaged"):
        written(tmp_path / "data", tmp_path / "out")
    written(tmp_path / "data", tmp_path / "out", skip_damaged=True)
    segmentation(tmp_path / "alone/seg", [(heads[0], 0, "x", disc(4))])
    image(tmp_path / "alone/other", grey(1), patient="someone else")
    with pytest.raises(InputError, match="marks no image of the folder"):
        written(tmp_path / "alone", tmp_path / "new")


# ---- structure sets --------------------------------------------------------------------------------------------------

SPACED: dict[str, Any] = {"PixelSpacing": [0.5, 2.0], "ImagePositionPatient": [-10, 5, 1]}
"""Pixels 2 mm wide and 0.5 mm high, the first one's centre at x = -10, y = 5."""


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """Corners of a rectangle of pixels, from the outer corner of the first one."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def boxes(*areas: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    drawn = np.zeros(SHAPE, bool)
    for left, top, right, bottom in areas:
        drawn[top:bottom, left:right] ^= True
    return drawn


def structured(folder: Path, drawn: Sequence[Any], **more: Any) -> list[Any]:
    """A series of three slices with a structure set: (name, slice or None, z, corners, kind) of each contour."""
    heads = [
        image(
            folder / f"ct/IM{n}",
            grey(n),
            CT,
            series="ct",
            InstanceNumber=n,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            **{**SPACED, "ImagePositionPatient": [-10, 5, float(n)]},
        )
        for n in (1, 2, 3)
    ]
    rows = [
        (
            name,
            None if n is None else heads[n - 1],
            [(2 * (x - 0.5) - 10, 0.5 * (y - 0.5) + 5, z) for x, y in corners],
            kind,
        )
        for name, n, z, corners, kind in drawn
    ]
    structures(folder / "rs.dcm", rows, **more)
    return heads


@pytest.mark.parametrize("named", [True, False])
def test_contours_are_drawn_on_the_slices_that_they_lie_on(tmp_path: Path, named: bool) -> None:
    closed = "CLOSED_PLANAR"
    structured(
        tmp_path / "data",
        [
            ("tumour", 2 if named else None, 2.0, box(4, 6, 12, 30), closed),
            ("tumour", 2 if named else None, 2.1, box(6, 10, 10, 20), closed),  # a hole
            ("node", 2 if named else None, 2.0, box(20, 2, 25, 8), closed),
            ("node", 3 if named else None, 3.0, box(20, 2, 25, 8), closed),
            ("isocentre", 2 if named else None, 2.0, [(3, 3)], "POINT"),
        ],
    )
    result = written(tmp_path / "data", tmp_path / "out", every=1)
    assert result["classes"] == {1: "node", 2: "tumour"}
    masks = [pair.mask.read() for pair in DataFolder(tmp_path / "out").pairs()]
    node, tumour = boxes((20, 2, 25, 8)), boxes((4, 6, 12, 30), (6, 10, 10, 20))
    assert [np.array_equal(*each) for each in zip(masks, (boxes(), node | tumour, node), strict=True)] == [True] * 3
    stored = np.asarray(Image.open(tmp_path / "out/masks/p001-s0002.png"))
    assert np.array_equal(stored == 2, tumour)
    assert IDENTITY not in "".join(str(path) for path in (tmp_path / "out").rglob("*"))


def test_the_outline_of_the_body_is_no_lesion_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ("BODY", 1, 1.0, box(0, 0, 31, 40), "CLOSED_PLANAR"),
        ("a liver", 1, 1.0, box(5, 5, 20, 30), "CLOSED_PLANAR"),
        ("lesion", 1, 1.0, box(8, 8, 12, 12), "CLOSED_PLANAR"),
    ]
    structured(tmp_path / "data", rows, external=("BODY",))
    written(tmp_path / "data", tmp_path / "any", lesion_only=True)
    assert "1 outlines of the body (EXTERNAL)" in " ".join(capsys.readouterr().err.split())
    assert np.array_equal(DataFolder(tmp_path / "any").pairs()[0].mask.read(), boxes((5, 5, 20, 30)))
    written(tmp_path / "data", tmp_path / "liver", foreground="a liver")  # the lesion in it is no hole
    assert np.array_equal(DataFolder(tmp_path / "liver").pairs()[0].mask.read(), boxes((5, 5, 20, 30)))
    written(tmp_path / "data", tmp_path / "body", foreground="BODY")
    assert DataFolder(tmp_path / "body").pairs()[0].mask.read().all()


def test_structure_sets_that_cannot_be_laid_are_refused(tmp_path: Path) -> None:
    across = [("x", 2, 1.0, box(4, 6, 12, 30), "CLOSED_PLANAR")]  # names slice 2, and lies on slice 1
    structured(tmp_path / "a", across)
    with pytest.raises(InputError, match=r"rs\.dcm: has a contour that lies up to 1\.0 mm off its slice IM2"):
        written(tmp_path / "a", tmp_path / "out")
    structured(tmp_path / "b", [("x", 2, 2.0, box(4, 6, 12, 30), "CLOSED_PLANAR")])
    head = pydicom.dcmread(tmp_path / "b/ct/IM2")
    del head.PixelSpacing
    write(tmp_path / "b/ct/IM2", head)
    with pytest.raises(InputError, match=r"IM2 does not say where it lies and how large its pixels are"):
        written(tmp_path / "b", tmp_path / "out")
    structured(tmp_path / "c", [("x", None, 9.0, box(4, 6, 12, 30), "CLOSED_PLANAR")])
    with pytest.raises(InputError, match="no segmentation object or structure set marks an image of the folder"):
        written(tmp_path / "c", tmp_path / "out")
    head = pydicom.dcmread(tmp_path / "c/rs.dcm")
    head.ROIContourSequence[0].ContourSequence[0].ContourData = [1.0, 2.0]
    write(tmp_path / "c/rs.dcm", head)
    with pytest.raises(InputError, match=r"rs\.dcm: the structure set is damaged \(.*triples.*--skip-damaged"):
        written(tmp_path / "c", tmp_path / "out")
    assert not (tmp_path / "out/images").exists()


def test_masks_beside_images_come_before_a_structure_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structured(tmp_path / "data", [("x", 2, 2.0, box(4, 6, 12, 30), "CLOSED_PLANAR")])
    (tmp_path / "data/ct").rename(tmp_path / "data/images")
    for n in (1, 2, 3):
        save(tmp_path / f"data/masks/IM{n}.png", disc(4 + n))
    written(tmp_path / "data", tmp_path / "out")
    assert "1 structure sets beside masks" in " ".join(capsys.readouterr().err.split())
    assert np.array_equal(DataFolder(tmp_path / "out").pairs()[1].mask.read(), disc(6))


# ---- masks beside images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_dicom", [False, True])
@pytest.mark.parametrize(
    "places", ["images/{p}/{i}|masks/{p}/{i}", "{p}/images/{i}|{p}/masks/{i}", "{p}_{i}|{p}_{i}_mask"]
)
def test_a_parallel_folder_of_masks(tmp_path: Path, as_dicom: bool, places: str) -> None:
    first, second = places.split("|")
    radii = {("a", 1): 4, ("a", 2): 6, ("b", 1): 8}
    for (patient, number), radius in radii.items():
        colour = np.random.default_rng(radius).integers(0, 255, (*SHAPE, 3), np.uint8)
        image(
            tmp_path / f"data/{first.format(p=patient, i=number)}.dcm", colour, patient=f"ID-{patient}", series=number
        )
        place = tmp_path / f"data/{second.format(p=patient, i=number)}"
        if as_dicom:
            image(
                place.with_name(place.name + ".dcm"), disc(radius).astype(np.uint8), patient=f"ID-{patient}", series=9
            )
        else:
            save(place.with_name(place.name + ".png"), disc(radius))
    result = written(tmp_path / "data", tmp_path / "out")
    assert (result["pairs"], result["groups"]) == (3, 2)
    found = {int(pair.mask.read().sum()): pair for pair in DataFolder(tmp_path / "out").pairs()}
    assert sorted(found) == sorted(int(disc(radius).sum()) for radius in radii.values())
    for radius in radii.values():
        wanted = np.random.default_rng(radius).integers(0, 255, (*SHAPE, 3), np.uint8)
        assert np.array_equal(found[int(disc(radius).sum())].image.read(), wanted)


def test_labels_of_mask_files_have_names(tmp_path: Path) -> None:
    for number in (1, 2):
        image(tmp_path / f"data/images/{number}.dcm", grey(number, kind=np.uint8))
        labels = disc(9).astype(np.uint8) + disc(4)
        path = tmp_path / f"data/masks/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(labels).save(path)
    assert written(tmp_path / "data", tmp_path / "out", labels="1=rim,2=core")["classes"] == {1: "rim", 2: "core"}
    with pytest.raises(InputError, match="--labels 5=x: the masks hold 1, 2"):
        written(tmp_path / "data", tmp_path / "new", labels="5=x")


def test_masks_that_fit_no_image_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "data/images/1.dcm", grey(1, kind=np.uint8))
    save(tmp_path / "data/masks/1.png", np.ones((10, 12), bool))
    with pytest.raises(InputError, match=r"masks/1\.png: is 12 x 10, but its image .*1\.dcm is 31 x 40"):
        written(tmp_path / "data", tmp_path / "out")
    image(
        tmp_path / "clip/images/1.dcm", np.stack([grey(1), grey(2)]), NumberOfFrames=2, WindowCenter=50, WindowWidth=90
    )
    save(tmp_path / "clip/masks/1.png", disc(4))
    with pytest.raises(InputError, match=r"is one mask, and its image .* has 2 frames"):
        written(tmp_path / "clip", tmp_path / "new")
    image(tmp_path / "none/1.dcm", grey(1))
    with pytest.raises(InputError, match="holds DICOM files, and no mask is called like an image"):
        written(tmp_path / "none", tmp_path / "new")
    for name in ("out", "new"):
        assert (
            not (tmp_path / name / "dataset.json").exists()
            or not read_json(tmp_path / name / "dataset.json")["complete"]
        )


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmented(tmp_path / "data")
    other(tmp_path / "data/report", "1.2.840.10008.5.1.4.1.1.88.11")
    other(tmp_path / "data/letter.dcm", "1.2.840.10008.5.1.4.1.1.104.1", EncapsulatedDocument=b"%PDF-1.4 x")
    other(tmp_path / "data/state", "1.2.840.10008.5.1.4.1.1.11.1")
    image(tmp_path / "data/ultrasound", grey(1), BurnedInAnnotation="YES")
    image(tmp_path / "data/localizer", grey(2), CT, series="localizer")
    for name in ("rtdose.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "test-SR.dcm"):
        (tmp_path / "data" / name).write_bytes((SHIPPED / name).read_bytes())
    (tmp_path / "data/DICOMDIR").write_bytes((SHIPPED / "dicomdirtests/DICOMDIR").read_bytes())
    (tmp_path / "data/notes.txt").write_text("x")
    assert written(tmp_path / "data", tmp_path / "out", lesion_only=True)["pairs"] == 3
    said = " ".join(capsys.readouterr().err.split())
    for line in (
        "1 Basic Text SR",
        "1 Encapsulated PDF",
        "1 Grayscale Softcopy Presentation State",
        "1 Comprehensive SR",
        "1 RT Dose",
        "1 structure sets of images that are not there",
        "1 12-lead ECG Waveform",
        "1 directories (DICOMDIR)",
        "1 images of series without segmentation",
        "1 images with a patient's data drawn into the pixels",
    ):
        assert f"left out, {line}" in said


def test_damaged_files_are_one_line_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmented(tmp_path / "data")
    path = tmp_path / "data/ct/IM0003"
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(
        InputError, match=r"IM0003: its pixels cannot be read.*; --skip-damaged leaves such files out"
    ) as refused:
        written(tmp_path / "data", tmp_path / "out")
    assert "\n" not in str(refused.value)
    (tmp_path / "data/ct/broken.dcm").write_bytes(b"no DICOM at all, whatever it is called")
    with pytest.raises(InputError, match=r"broken\.dcm: .*; --skip-damaged"):
        written(tmp_path / "data", tmp_path / "new")
    result = written(tmp_path / "data", tmp_path / "new", skip_damaged=True, every=1)
    assert result["pairs"] == 8
    assert "left out, 1 damaged images" in " ".join(capsys.readouterr().err.split())


def test_a_syntax_that_nothing_decodes_is_one_line(tmp_path: Path) -> None:
    head = header(CAPTURE, 1)
    head.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.102")  # MPEG-4
    head.Rows, head.Columns, head.SamplesPerPixel, head.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    head.BitsAllocated = head.BitsStored = 8
    head.HighBit, head.PixelRepresentation = 7, 0
    head.PixelData = pydicom.encaps.encapsulate([b"12345678"])
    head["PixelData"].is_undefined_length = True
    write(tmp_path / "data/images/1.dcm", head)
    save(tmp_path / "data/masks/1.png", np.eye(8, dtype=bool))
    with pytest.raises(InputError, match=r"1\.dcm: its pixels cannot be read .*MPEG-4"):
        written(tmp_path / "data", tmp_path / "out")


# ---- identity --------------------------------------------------------------------------------------------------------


def everything_in(folder: Path) -> bytes:
    """All bytes of a folder: names, contents, and the chunks of PNG files as they are unpacked."""
    found = []
    for path in folder.rglob("*"):
        found.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            found.append(path.read_bytes())
            if path.suffix == ".png":
                found.append(repr(Image.open(path).info).encode())
    return b"\n".join(found)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("by", ["segments", "folders"])
def test_no_word_of_a_patient_is_written_or_said(tmp_path: Path, by: str, zipped: bool) -> None:
    home = tmp_path / "export" / f"{NAME}_{IDENTITY}"
    if by == "segments":
        segmented(home / BORN)
    else:
        for number in (1, 2, 3):
            image(home / f"images/{NAME}/{BORN}-{number}.dcm", grey(number, kind=np.uint8))
            save(home / f"masks/{NAME}/{BORN}-{number}.png", disc(4 + number))
    other(home / "report", "1.2.840.10008.5.1.4.1.1.88.11")
    source = home
    if zipped:
        source = tmp_path / f"{NAME}.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(home.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(home.parent))
    command = [
        sys.executable,
        "-m",
        "siamese_diffusion",
        "prepare",
        str(source),
        "--json",
        "--out",
        str(tmp_path / "out"),
    ]
    result = subprocess.run([*command, "--group-by", "(.)$"], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["pairs"] >= 3
    held = b"\n".join((everything_in(tmp_path / "out"), result.stdout, result.stderr)).lower()
    for word in (NAME, *NAME.split("^"), IDENTITY, BORN, "20240102", "Clinic"):
        assert word.lower().encode() not in held
    assert b"p001-s0001" in held
    groups = {pair.group for pair in DataFolder(tmp_path / "out").pairs()}
    assert all(str(group).startswith("p0") for group in groups)


def test_names_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    segmented(tmp_path / "data")
    written(tmp_path / "data", tmp_path / "out", keep_names=True, lesion_only=True)
    pairs = DataFolder(tmp_path / "out").pairs()
    assert [pair.name for pair in pairs] == ["ct-IM0003", "ct-IM0004", "ct-IM0006"]
    assert {pair.group for pair in pairs} == {"p001"}
    assert IDENTITY.encode() not in everything_in(tmp_path / "out")


def test_pseudonyms_are_stable_and_tell_no_order() -> None:
    names = [f"patient {letter}" for letter in "abcdefghij"]
    assert pseudonyms(names) == pseudonyms(reversed(names))
    assert [pseudonyms(names)[name] for name in names] != sorted(pseudonyms(names).values())
    assert number_all(["x", "y", "x"]) in (
        ["p001-s0001", "p002-s0001", "p001-s0002"],
        ["p002-s0001", "p001-s0001", "p002-s0002"],
    )


def test_patients_are_groups_and_are_never_parted(tmp_path: Path) -> None:
    for number in range(4):
        segmented(tmp_path / f"data/{number}", f"P{number}")
    written(tmp_path / "data", tmp_path / "out", split="0.5,0.25,0.25")
    folder = DataFolder(tmp_path / "out")
    groups = [{pair.group for pair in folder.pairs(split)} for split in ("train", "val", "test")]
    assert [len(held) for held in groups] == [2, 1, 1]
    assert len(set.union(*groups)) == 4
    with pytest.raises(InputError, match="3 sets need as many groups, and there are 1"):
        written(tmp_path / "data/0", tmp_path / "new", split="0.5,0.25,0.25")


# ---- the door, resuming ----------------------------------------------------------------------------------------------


def test_other_commands_say_what_to_type(tmp_path: Path) -> None:
    segmented(tmp_path / "data")
    calls: list[Callable[[DataFolder], Any]] = [DataFolder.pairs, DataFolder.images, DataFolder.masks]
    for call in calls:
        with pytest.raises(
            InputError, match=r"holds DICOM files; `siamese-diffusion prepare .*data --out PAIRS` turns"
        ):
            call(DataFolder(tmp_path / "data"))
    with pytest.raises(InputError, match="holds DICOM files"):
        check(tmp_path / "data")
    save(tmp_path / "more/images/1.png", disc(4))
    save(tmp_path / "more/masks/1.png", disc(4))
    image(tmp_path / "more/extra.dcm", grey(1))
    assert len(DataFolder(tmp_path / "more").pairs()) == 1


def test_options_of_other_files_and_two_kinds_of_files_are_refused(tmp_path: Path) -> None:
    segmented(tmp_path / "data")
    with pytest.raises(InputError, match="--channel: is for NIfTI, not for DICOM files"):
        written(tmp_path / "data", tmp_path / "out", channel=1)
    with pytest.raises(InputError, match="--labels: segmentation objects name their segments"):
        written(tmp_path / "data", tmp_path / "out", labels="1=a")
    with pytest.raises(InputError, match=r"data\.images, data\.masks: are for plain images"):
        written(tmp_path / "data", tmp_path / "out", "data.images='*.dcm'")
    (tmp_path / "data/a.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="holds DICOM and NIfTI files"):
        written(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmented(tmp_path / "data")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pydicom is not installed.*pip install 'siamese-diffusion\[clinical\]'"):
        written(tmp_path / "data", tmp_path / "out")


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_out import tree

    heads = series(tmp_path / "data/ct", count=40)
    segmentation(tmp_path / "data/seg", [(heads[n], 0, "x", disc(5)) for n in (3, 20, 30)])
    written(tmp_path / "data", tmp_path / "whole", every=4)
    path = tmp_path / "data/ct/IM0021"
    content = path.read_bytes()
    path.write_bytes(content[:-700] + bytes(0))
    monkeypatch.setattr("siamese_diffusion.data.prepare.note_files", lambda files: {"files": "the same"})
    with pytest.raises(InputError, match="IM0021"):
        written(tmp_path / "data", tmp_path / "out", every=4)
    path.write_bytes(content)
    (tmp_path / "data/ct/IM0001").write_bytes((tmp_path / "data/ct/IM0001").read_bytes()[:-700])  # it is not read again
    written(tmp_path / "data", tmp_path / "out", every=4, resume=True)
    one, two = tree(tmp_path / "out"), tree(tmp_path / "whole")
    assert {name: one[name] for name in one if name != "inputs.json"} == {n: two[n] for n in two if n != "inputs.json"}


def test_series_without_masks_train_a_backbone(tmp_path: Path, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    heads = series(tmp_path / "data")
    structures(tmp_path / "data/rs.dcm", [("x", heads[0], [(1, 1, 1), (9, 1, 1), (9, 9, 1)], "CLOSED_PLANAR")])
    for i in range(3):  # fewer than the DICOM files: perhaps masks, and no images
        save(tmp_path / f"data/{i}.png", disc(5))
    result = pretrain(tmp_path / "data", tmp_path / "run", tiny, device="cpu")
    assert result["images"] == 9
    assert "1 segmentations and structure sets" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run/cache/slices").exists()
    assert not any(IDENTITY.encode() in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert pretrain(tmp_path / "data", tmp_path / "run", tiny, resume=True, device="cpu") == result
