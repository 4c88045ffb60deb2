"""NIfTI through `prepare`: which file is whose, how slices lie, what is kept, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

nibabel = pytest.importorskip("nibabel")

from siamese_diffusion.config import load_config  # noqa: E402
from siamese_diffusion.data.check import check  # noqa: E402
from siamese_diffusion.data.clinical.unmarked import unmarked  # noqa: E402
from siamese_diffusion.data.folder import DataFolder  # noqa: E402
from siamese_diffusion.data.images import to_8_bit  # noqa: E402
from siamese_diffusion.data.prepare import prepare  # noqa: E402
from siamese_diffusion.errors import InputError  # noqa: E402
from siamese_diffusion.files import read_json  # noqa: E402

SHAPE = (24, 30, 9)
SHIPPED = Path(nibabel.__file__).parent / "tests/data"
RAS = np.diag([1.0, 1.0, 4.0, 1.0])


def volume(seed: int = 0, low: float = 0, high: float = 900) -> NDArray[np.int16]:
    return np.random.default_rng(seed).uniform(low, high, SHAPE).astype(np.int16)


def labels(*planes: int, label: int = 1) -> NDArray[np.uint8]:
    """A box that touches neither centre nor edge, in some slices along the last axis."""
    found = np.zeros(SHAPE, np.uint8)
    for plane in planes or (3, 4):
        found[2:9, 4:15, plane] = label
    return found


def save(path: Path, values: NDArray[Any], affine: NDArray[Any] = RAS, **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = nibabel.Nifti1Image(values, affine)
    for name, value in header.items():
        found.header[name] = value
    nibabel.save(found, path)
    return path


def nnunet(folder: Path, cases: int = 3, channels: int = 1) -> Path:
    for case in range(cases):
        for channel in range(channels):
            save(folder / f"imagesTr/case_{case}_{channel:04d}.nii.gz", volume(10 * channel + case))
        save(folder / f"labelsTr/case_{case}.nii.gz", labels(3, 4 + case))
    names = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(names))
    return folder


def written(folder: Path, out: Path, *settings: str, **options: Any) -> dict[str, Any]:
    return prepare(folder, out, load_config(None, list(settings)), **options)


def numbers(out: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for pair in DataFolder(out).pairs():
        patient, _, slice_ = pair.name.partition("-s")
        found.setdefault(patient, []).append(int(slice_))
    return found


def test_nnunet_raw_data(tmp_path: Path) -> None:
    result = written(nnunet(tmp_path / "data"), tmp_path / "out", "data.window=450,900", lesion_only=True)
    assert result["classes"] == {1: "liver"}
    assert (result["pairs"], result["groups"]) == (6, 3)
    found = numbers(tmp_path / "out")
    assert sorted(map(tuple, found.values())) == [(4, 5), (4, 6), (4, 7)]
    for pair in DataFolder(tmp_path / "out").pairs():
        case = {5: 0, 6: 1, 7: 2}[max(found[pair.name[:4]])]
        plane = int(pair.name[-4:]) - 1
        image, mask = pair.read()
        wanted = np.round(volume(case)[:, :, plane].astype(float) * (255 / 900))[::-1, ::-1].T
        assert np.array_equal(image[..., 0], wanted)  # the front up, the right side on the left
        assert np.array_equal(mask, labels(3, 4 + case)[::-1, ::-1, plane].T > 0)
        assert pair.group == pair.name[:4]
    assert check(tmp_path / "out").usable
    assert read_json(tmp_path / "out/dataset.json")["masks"] == "binary"


@pytest.mark.parametrize(
    ("image", "mask", "groups"),
    [
        ("{c}.nii.gz", "{c}_seg.nii.gz", 2),
        ("{c}.nii", "{c}_mask.nii.gz", 2),
        ("imagesTr/{c}.nii.gz", "labelsTr/{c}.nii.gz", 2),
        ("images/{c}.nii", "masks/{c}.nii", 2),
        ("{c}/ct.nii.gz", "{c}/ct_segmentation.nii.gz", 2),
        ("imagesTr/liver_000{c}.nii.gz", "labelsTr/liver_000{c}.nii.gz", 2),
    ],
)
def test_names_of_volumes_and_their_labels(tmp_path: Path, image: str, mask: str, groups: int) -> None:
    for case in (1, 2):
        name = f"p{case}" if "{c}/" in image else str(case)
        save(tmp_path / "data" / image.format(c=name), volume(case))
        save(tmp_path / "data" / mask.format(c=name), labels(case))
    result = written(tmp_path / "data", tmp_path / "out", lesion_only=True)
    assert (result["pairs"], result["groups"]) == (2, groups)
    assert sorted(number for found in numbers(tmp_path / "out").values() for number in found) == [2, 3]


def test_one_of_several_channels(tmp_path: Path) -> None:
    nnunet(tmp_path / "data", 1, channels=3)
    with pytest.raises(InputError, match=r"imagesTr: cases have channels 0, 1, 2; --channel 0 takes one of them"):
        written(tmp_path / "data", tmp_path / "out")
    settings = "data.window=450,900"
    written(tmp_path / "data", tmp_path / "out", settings, channel=2, lesion_only=True)
    image = DataFolder(tmp_path / "out").pairs()[0].image.read()
    assert np.array_equal(image[..., 0], np.round(volume(20)[::-1, ::-1, 3].astype(float) * (255 / 900)).T)
    with pytest.raises(InputError, match=r"--channel 7: the images have channels 0, 1, 2"):
        written(tmp_path / "data", tmp_path / "new", channel=7)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_slices_lie_the_same_however_the_file_is_turned(
    tmp_path: Path, flip: tuple[int, ...], order: tuple[int, ...]
) -> None:
    values, drawn = volume(), labels(2, 3)
    ways = (("L", "R"), ("P", "A"), ("I", "S"))
    turn = nibabel.orientations.axcodes2ornt("".join(ways[axis][int(flip[axis] > 0)] for axis in order))
    back = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
    for name, array in (("a.nii.gz", values), ("a_seg.nii.gz", drawn)):
        turned = nibabel.Nifti1Image(array, RAS).as_reoriented(back)
        (tmp_path / "data").mkdir(exist_ok=True)
        nibabel.save(turned, tmp_path / "data" / name)
    written(tmp_path / "data", tmp_path / "out", "data.window=450,900", lesion_only=True)
    assert numbers(tmp_path / "out") == {"p001": [3, 4]}
    pair = DataFolder(tmp_path / "out").pairs()[0]
    assert np.array_equal(pair.mask.read(), drawn[::-1, ::-1, 2].T > 0)
    assert np.array_equal(pair.image.read()[..., 0], np.round(values[::-1, ::-1, 2].astype(float) * (255 / 900)).T)


@pytest.mark.parametrize(
    ("spacing", "axis", "shape"),
    [
        ((1, 1, 4), "auto", (30, 24)),
        ((5, 1, 1), "auto", (9, 30)),
        ((1, 3, 1), "auto", (9, 24)),
        ((1, 1, 1), "auto", (30, 24)),
        ((1, 1, 4), "coronal", (9, 24)),
        ((1, 1, 4), "sagittal", (9, 30)),
    ],
)
def test_the_axis(tmp_path: Path, spacing: tuple[float, ...], axis: str, shape: tuple[int, int]) -> None:
    affine = np.diag([*map(float, spacing), 1.0])
    save(tmp_path / "data/a.nii.gz", volume(), affine)
    save(tmp_path / "data/a_seg.nii.gz", labels(2, 3), affine)
    written(tmp_path / "data", tmp_path / "out", axis=axis, lesion_only=True)
    pairs = DataFolder(tmp_path / "out").pairs()
    image, mask = pairs[0].read()
    assert image.shape[:2] == shape
    if shape == (9, 24):
        assert np.array_equal(mask, labels(2, 3)[::-1, 4, ::-1].T > 0)
    if shape == (9, 30):
        assert np.array_equal(mask, labels(2, 3)[2, ::-1, ::-1].T > 0)


def test_which_slices_are_kept(tmp_path: Path) -> None:
    nnunet(tmp_path / "data", 1)
    for name, options, kept in (
        ("a", {"every": 4}, [1, 4, 5, 9]),
        ("b", {"every": 1}, list(range(1, 10))),
        ("c", {"lesion_only": True}, [4, 5]),
    ):
        written(tmp_path / "data", tmp_path / name, **options)
        assert numbers(tmp_path / name) == {"p001": kept}


def test_several_labels_keep_their_names(tmp_path: Path) -> None:
    save(tmp_path / "data/a.nii.gz", volume())
    save(tmp_path / "data/a_seg.nii.gz", labels(2) + labels(5, label=2))
    result = written(tmp_path / "data", tmp_path / "out", lesion_only=True, labels="1=liver,2=tumour")
    assert result["classes"] == {1: "liver", 2: "tumour"}
    tumours = load_config(None, ["data.foreground=tumour"]).data
    assert [pair.mask.read().any() for pair in DataFolder(tmp_path / "out", settings=tumours).pairs()] == [False, True]
    written(tmp_path / "data", tmp_path / "one", lesion_only=True, labels="1=liver,2=tumour", foreground="tumour")
    assert numbers(tmp_path / "one") == {"p001": [6]}
    assert set(np.unique(np.asarray(Image.open(tmp_path / "one/masks/p001-s0006.png")))) == {0, 255}


@pytest.mark.parametrize("value", [1, 7, 255])
def test_one_label_of_any_value(tmp_path: Path, value: int) -> None:
    save(tmp_path / "data/a.nii.gz", volume())
    save(tmp_path / "data/a_seg.nii.gz", labels(label=value).astype(np.float32))
    written(tmp_path / "data", tmp_path / "out", lesion_only=True)
    assert np.array_equal(DataFolder(tmp_path / "out").pairs()[0].mask.read(), labels()[::-1, ::-1, 3].T > 0)


def test_scaled_values_and_windows(tmp_path: Path) -> None:
    stored = volume(high=2000)
    found = nibabel.Nifti1Image(stored, RAS)
    found.header.set_slope_inter(0.5, -500)
    (tmp_path / "data").mkdir()
    nibabel.save(found, tmp_path / "data/a.nii.gz")
    held = np.asanyarray(nibabel.load(tmp_path / "data/a.nii.gz").dataobj)
    save(tmp_path / "data/a_seg.nii.gz", labels())
    with pytest.raises(InputError, match=r"a\.nii\.gz: holds values from -\d+, as CT .*--window LEVEL,WIDTH [^;]*$"):
        written(tmp_path / "data", tmp_path / "out")
    written(tmp_path / "data", tmp_path / "new", window="40,400", lesion_only=True)
    wanted = np.round((held[::-1, ::-1, 3].T.astype(float) + 160).clip(0, 400) * (255 / 400))
    image = DataFolder(tmp_path / "new").pairs()[0].image.read()[..., 0]
    assert np.abs(image - wanted).max() <= 1


def test_without_a_window_the_volumes_own_range(tmp_path: Path) -> None:
    save(tmp_path / "data/a.nii.gz", volume(high=300))
    save(tmp_path / "data/a_seg.nii.gz", labels())
    written(tmp_path / "data", tmp_path / "out", lesion_only=True)
    image = DataFolder(tmp_path / "out").pairs()[0].image.read()
    assert image.min() == 0
    assert image.max() == 255


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "shape": (
        lambda p: save(p, volume()),
        lambda p: save(p, labels()[:, :, :-1]),
        r"a_seg\.nii\.gz: has another shape",
    ),
    "affine": (lambda p: save(p, volume()), lambda p: save(p, labels(), 2 * RAS), r"lies elsewhere .* affines differ"),
    "4-D": (lambda p: save(p, np.stack([volume()] * 3, -1)), None, r"24 x 30 x 9 x 3 values, a series in time"),
    "colours": (
        lambda p: save(p, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        None,
        "holds colours; save them as PNG",
    ),
    "complex": (lambda p: save(p, volume().astype(np.complex64)), None, "not plain numbers"),
    "fractions": (lambda p: save(p, volume()), lambda p: save(p, labels() * 0.5), "labels are whole numbers from 0"),
    "many labels": (
        lambda p: save(p, volume()),
        lambda p: save(p, volume(high=200).astype(np.uint8)),
        "label volumes hold values up to 199",
    ),
    "no NIfTI": (lambda p: p.write_bytes(b"x" * 500), None, "the volume is damaged"),
    "cut": (lambda p: p.write_bytes(save(p, volume()).read_bytes()[:3000]), None, "the volume is damaged"),
    "flat": (lambda p: save(p, volume() * 0 + 7), None, "is flat"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line_that_names_the_file(tmp_path: Path, kind: str) -> None:
    image, mask, line = REFUSED[kind]
    (tmp_path / "data").mkdir()
    image(tmp_path / "data/a.nii.gz")
    (mask or (lambda p: save(p, labels())))(tmp_path / "data/a_seg.nii.gz")
    with pytest.raises(InputError, match=line) as refused:
        written(tmp_path / "data", tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_damaged_volumes_are_left_out_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nnunet(tmp_path / "data")
    path = tmp_path / "data/imagesTr/case_1_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    save(tmp_path / "data/labelsTr/case_2.nii.gz", labels()[:-1])
    with pytest.raises(InputError, match=r"case_2\.nii\.gz: has another shape .*; --skip-damaged leaves such"):
        written(tmp_path / "data", tmp_path / "out")
    assert written(tmp_path / "data", tmp_path / "out", lesion_only=True, skip_damaged=True)["pairs"] == 2
    assert "left out, 2 damaged volumes" in " ".join(capsys.readouterr().err.split())


def test_the_volumes_that_nibabel_ships(tmp_path: Path) -> None:
    anatomy = nibabel.load(SHIPPED / "anatomical.nii")
    drawn = np.zeros(anatomy.shape, np.uint8)
    drawn[5:12, 5:12, 5:9] = 1
    (tmp_path / "data").mkdir()
    (tmp_path / "data/anatomy.nii").write_bytes((SHIPPED / "anatomical.nii").read_bytes())
    nibabel.save(nibabel.Nifti1Image(drawn, anatomy.affine), tmp_path / "data/anatomy_mask.nii")
    result = written(tmp_path / "data", tmp_path / "out", window="3000,9000", lesion_only=True)
    assert result["pairs"] > 3
    image = DataFolder(tmp_path / "out").pairs()[0].image.read()
    assert len(np.unique(image)) > 20
    (tmp_path / "data/anatomy.nii").write_bytes((SHIPPED / "functional.nii").read_bytes())
    with pytest.raises(InputError, match="a series in time"):
        written(tmp_path / "data", tmp_path / "new", window="3000,9000")


def test_images_of_no_labels_are_told_and_splits_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nnunet(tmp_path / "data", 2)
    save(tmp_path / "data/imagesTs/case_9_0000.nii.gz", volume(9))
    assert written(tmp_path / "data", tmp_path / "out", lesion_only=True)["splits"] == {}
    assert "left out, 1 volumes that no pair needs" in " ".join(capsys.readouterr().err.split())
    save(tmp_path / "data/labelsTs/case_9.nii.gz", labels())
    result = written(tmp_path / "data", tmp_path / "new", lesion_only=True)
    assert result["splits"] == {"train": 4, "test": 2}
    folder = DataFolder(tmp_path / "new")
    assert not {pair.group for pair in folder.pairs("train")} & {pair.group for pair in folder.pairs("test")}


def test_patients_over_several_volumes_by_a_pattern(tmp_path: Path) -> None:
    for case in ("anna_1", "anna_2", "berta_1"):
        save(tmp_path / f"data/{case}.nii.gz", volume())
        save(tmp_path / f"data/{case}_seg.nii.gz", labels())
    result = written(tmp_path / "data", tmp_path / "out", group_by="^([a-z]+)_", lesion_only=True, split="0.5,0.5")
    assert result["groups"] == 2
    assert {pair.group for pair in DataFolder(tmp_path / "out").pairs()} == {"p001", "p002"}
    with pytest.raises(InputError, match=r"--group-by z\(.\): fits no name; it does not fit anna_1-s0001"):
        written(tmp_path / "data", tmp_path / "new", group_by="z(.)")


def test_no_name_of_a_file_is_written_or_said(tmp_path: Path) -> None:
    home = tmp_path / "export/Mustermann"
    save(home / "imagesTr/Mustermann_1964_0000.nii.gz", volume(), descrip=b"Mustermann", aux_file=b"PAT-77")
    save(home / "labelsTr/Mustermann_1964.nii.gz", labels())
    command = [
        sys.executable,
        "-m",
        "siamese_diffusion",
        "prepare",
        str(home),
        "--json",
        "--out",
        str(tmp_path / "out"),
    ]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    held = b"".join([result.stdout, result.stderr, *(path.name.encode() + path.read_bytes() for path in files)]).lower()
    assert b"mustermann" not in held
    assert b"pat-77" not in held
    assert b"1964" not in held


def test_other_commands_say_what_to_type(tmp_path: Path) -> None:
    nnunet(tmp_path / "data")
    with pytest.raises(InputError, match=r"data: holds NIfTI files; `siamese-diffusion prepare .*data --out PAIRS`"):
        DataFolder(tmp_path / "data").pairs()
    with pytest.raises(InputError, match=r"a\.nii\.gz is not a folder"):
        DataFolder(save(tmp_path / "a.nii.gz", volume()))


def test_volumes_without_labels_are_images_for_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = volume(1)
    values[..., 0] = 5  # air
    save(tmp_path / "data/Mustermann.nii.gz", values)
    save(tmp_path / "data/other.nii", volume(2))
    save(tmp_path / "data/other_seg.nii", volume(3))  # labels, by its name
    save(tmp_path / "data/lesions-of-it.nii", labels(2, 3))  # labels, by its values
    save(tmp_path / "data/x.nii", labels(2, 3))
    settings = load_config(None, ["data.image_range=0,900"]).data
    found = unmarked(DataFolder(tmp_path / "data"), settings)
    assert found is not None
    images = found.write(tmp_path / "run/slices").images()
    assert len(images) == 2 * SHAPE[2] - 1
    said = " ".join(capsys.readouterr().err.split())
    assert "left out, 1 slices of one value alone" in said
    assert "left out, 3 volumes of labels" in said
    assert not any("Mustermann" in str(path) for path in (tmp_path / "run").rglob("*"))
    shown = {image.read().tobytes() for image in images}
    expected = to_8_bit(values[::-1, ::-1, 4].T.astype(np.float32), 0, 900)
    assert np.ascontiguousarray(expected).tobytes() in shown  # read once, not stretched a second time
    times = [image.path.stat().st_mtime_ns for image in images]
    assert [image.path.stat().st_mtime_ns for image in found.write(tmp_path / "run/slices").images()] == times
    nnunet(tmp_path / "pairs")
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "plain/a.png")
    assert unmarked(DataFolder(tmp_path / "plain"), settings) is None
    save(tmp_path / "flat/a.nii", np.full(SHAPE, 3, np.int16) + np.arange(SHAPE[2], dtype=np.int16) * 9)
    flat = unmarked(DataFolder(tmp_path / "flat"), settings)
    assert flat is not None
    with pytest.raises(InputError, match="no slice of its NIfTI files shows anything"):
        flat.write(tmp_path / "other/slices")
