"""Which files belong together: layouts of public releases and of users' own folders, each rebuilt small, read or
refused."""

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.config import Config, DataConfig, update
from siamese_diffusion.data.check import check
from siamese_diffusion.data.check_text import render
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts.manifest import row_of
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.photographs import posterised
from siamese_diffusion.data.shapes import decompress, fill
from siamese_diffusion.data.splits import sets_for_testing, train_and_validation
from siamese_diffusion.errors import InputError

SIZE = (20, 24)  # (H, W)


def photograph(seed: int) -> NDArray[np.uint8]:
    """Noise around a shade (20, 24, 3)."""
    random = np.random.default_rng(seed)
    return random.normal(random.uniform(90, 160), 18, (*SIZE, 3)).clip(0, 255).astype(np.uint8)


def disc(seed: int, radius: float = 4) -> NDArray[np.bool_]:
    """A disc somewhere (20, 24)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((y - random.uniform(6, 14)) ** 2 + (x - random.uniform(6, 18)) ** 2 < radius**2)


def save(path: Path, array: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def seed_of(path: str) -> int:
    return sum(path.encode())


def build(folder: Path, images: Iterable[str], masks: Iterable[str], nothing: Iterable[str] = ()) -> Path:
    """Write files by their paths: photographs, discs, and masks of the whole view."""
    for path in images:
        save(folder / path, photograph(seed_of(path)))
    for path in masks:
        save(folder / path, disc(seed_of(path)).astype(np.uint8) * 255)
    for path in nothing:
        save(folder / path, np.full(SIZE, 255, np.uint8))
    return folder


def found(folder: Path, split: str | None = None) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Pairs by name: paths of the image and of the masks in the folder."""
    return {
        pair.name: (
            pair.image.path.relative_to(folder).as_posix(),
            tuple(path.relative_to(folder).as_posix() for path in pair.mask.files),
        )
        for pair in DataFolder(folder).pairs(split)
    }


def require_whole(folder: Path, pairs: Iterable[Pair]) -> None:
    """Every mask reads as what its files mark together."""
    for pair in pairs:
        image, mask = pair.read()
        assert image.shape == (*SIZE, 3)
        drawn = [disc(seed_of(path.relative_to(folder).as_posix())) for path in pair.mask.files]
        assert np.array_equal(mask, np.any(drawn, axis=0))


# ---- ten public releases ----------------------------------------------------------------------------------------


def polyps(folder: Path) -> dict[str, Any]:
    sets = ["TrainDataset", "TestDataset/ETIS", "TestDataset/Kvasir"]
    inner = {top: ("image", "mask") if top == "TrainDataset" else ("images", "masks") for top in sets}
    build(
        folder,
        [f"{top}/{inner[top][0]}/{i}.png" for top in sets for i in (1, 2)],
        [f"{top}/{inner[top][1]}/{i}.png" for top in sets for i in (1, 2)],
    )
    return {"names": ["1", "2"], "tests": ["ETIS", "Kvasir"]}


def kvasir(folder: Path) -> dict[str, Any]:
    build(folder, [f"Kvasir-SEG/images/{n}.jpg" for n in "abc"], [f"Kvasir-SEG/masks/{n}.png" for n in "abc"])
    boxes = {"a": {"height": 20, "width": 24, "bbox": [{"label": "polyp", "xmin": 1, "ymin": 1, "xmax": 9, "ymax": 9}]}}
    (folder / "Kvasir-SEG/kavsir_bboxes.json").write_text(json.dumps(boxes))
    return {"names": ["a", "b", "c"]}


def clinic(folder: Path) -> dict[str, Any]:
    build(folder, [f"Original/{i}.tif" for i in (1, 2, 10)], [f"Ground Truth/{i}.tif" for i in (1, 2, 10)])
    return {"names": ["1", "10", "2"]}


def clinic_in_two_formats(folder: Path) -> dict[str, Any]:
    kinds = (("PNG", "png"), ("TIF", "tif"))
    for top, kind in kinds:
        build(
            folder,
            [f"{top}/Original/{i}.{kind}" for i in (1, 2)],
            [f"{top}/Ground Truth/{i}.{kind}" for i in (1, 2)],
        )
    rows = [
        [i, 1 + i // 2, *(f"{top}/{part}/{i}.{kind}" for top, kind in kinds for part in ("Original", "Ground Truth"))]
        for i in (1, 2)
    ]
    heading = ["frame_id", "sequence_id", "png_image_path", "png_mask_path", "tif_image_path", "tif_mask_path"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])
    return {"names": ["1", "2"], "groups": {"1": "1", "2": "2"}, "files": {"PNG"}}


def bkai(folder: Path) -> dict[str, Any]:
    build(folder, ["train/x.jpeg", "train/y.jpeg", "test/z.jpeg"], [])
    for name in "xy":
        save(
            folder / f"train_gt/{name}.jpeg", disc(seed_of(f"train_gt/{name}.jpeg")).astype(np.uint8) * 255, quality=100
        )
    (folder / "sample_submission.csv").write_text("ImageId,EncodedPixels\nx,1 2\n")
    return {"names": ["x", "y"], "notes": r"left out, 1 images.*test \(1\)", "masks": False}


def polypgen(folder: Path) -> dict[str, Any]:
    tops = [f"data_C{c}/{{}}_C{c}" for c in (1, 2)] + ["sequenceData/positive/seq1/{}_seq1"]
    build(
        folder,
        [f"{top.format('images')}/f{i}.jpg" for top in tops for i in (0, 1)]
        + [f"{top.format('bbox_image')}/f{i}.jpg" for top in tops for i in (0, 1)]
        + ["sequenceData/negative/seq9_neg/f0.jpg"],
        [f"{top.format('masks')}/f{i}_mask.png" for top in tops for i in (0, 1)],
    )
    groups = {"data_C1": "data_C1", "data_C2": "data_C2", "sequenceData-positive-seq1": "sequenceData-seq1"}
    names = [f"{group}-f{i}" for group in groups for i in (0, 1)]
    return {
        "names": names,
        "groups": {name: groups[name.rpartition("-")[0]] for name in names},
        "notes": r"left out, 7 images",
    }


def isic(year: str) -> Callable[[Path], dict[str, Any]]:
    tops = {
        "2016": [
            ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth", "train"),
            ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth", "test"),
        ],
        "2017": [
            ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "train"),
            ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth", "val"),
            ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth", "test"),
        ],
        "2018": [
            ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "train"),
            ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth", "val"),
            ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", "test"),
        ],
    }[year]
    suffix = "_Segmentation" if year == "2016" else "_segmentation"

    def make(folder: Path) -> dict[str, Any]:
        splits = {}
        for number, (images, masks, split) in enumerate(tops):
            names = [f"ISIC_{number}00{i}" for i in range(2)]
            build(folder, [f"{images}/{n}.jpg" for n in names], [f"{masks}/{n}{suffix}.png" for n in names])
            save(folder / images / f"{names[0]}_superpixels.png", photograph(1))
            (folder / images / "ATTRIBUTION.txt").write_text("x")
            splits[split] = names
        (folder / "ISIC-2017_Training_Part3_GroundTruth.csv").write_text(
            "image_id,melanoma\nISIC_0000,0.0\nISIC_0001,1.0\n"
        )
        return {"names": sorted(name for names in splits.values() for name in names), "splits": splits}

    return make


def busi(folder: Path) -> dict[str, Any]:
    top = "Dataset_BUSI_with_GT"
    kinds = ("benign", "malignant", "normal")
    build(
        folder,
        [f"{top}/{kind}/{kind} ({i}).png" for kind in kinds for i in (1, 2)],
        [f"{top}/{kind}/{kind} ({i})_mask.png" for kind in kinds for i in (1, 2)]
        + [f"{top}/benign/benign (2)_mask_1.png"],
    )
    return {"names": [f"{kind} ({i})" for kind in kinds for i in (1, 2)], "joined": {"benign (2)": 2}}


def drive(folder: Path) -> dict[str, Any]:
    tops = {"training": (21, 22), "test": (1, 2)}
    names = {top: [f"{i:02d}_{top}" for i in numbers] for top, numbers in tops.items()}
    build(
        folder,
        [f"{top}/images/{name}.tif" for top in tops for name in names[top]],
        [f"{top}/1st_manual/{i:02d}_manual1.gif" for top in tops for i in tops[top]]
        + [f"test/2nd_manual/{i:02d}_manual2.gif" for i in tops["test"]],
        [f"{top}/mask/{name}_mask.gif" for top in tops for name in names[top]],
    )
    return {
        "names": sorted(names["training"] + names["test"]),
        "splits": {"train": names["training"], "test": names["test"]},
        "files": {"1st_manual"},
        "notes": "field of view",
    }


def drive_without_tests(folder: Path) -> dict[str, Any]:
    drive(folder)
    for path in [*(folder / "test/1st_manual").iterdir(), *(folder / "test/2nd_manual").iterdir()]:
        path.unlink()
    for name in ("1st_manual", "2nd_manual"):
        (folder / "test" / name).rmdir()
    return {"names": ["21_training", "22_training"], "notes": "left out, 2 images without 1st_manual"}


def nuclei(folder: Path) -> dict[str, Any]:
    ids = ["00ae", "03b9"]
    build(
        folder,
        [f"stage1_train/{n}/images/{n}.png" for n in ids] + ["stage1_test/0f1c/images/0f1c.png"],
        [f"stage1_train/{n}/masks/{k}{n}ff.png" for n in ids for k in range(3)],
    )
    (folder / "stage1_train_labels.csv").write_text("ImageId,EncodedPixels\n00ae,6908 1 7161 8\n03b9,1 2\n")
    return {"names": ids, "joined": dict.fromkeys(ids, 3)}


def nnunet(folder: Path) -> dict[str, Any]:
    build(folder, [f"imagesTr/case{i}_0000.png" for i in (1, 2)] + ["imagesTs/case9_0000.png"], [])
    for i in (1, 2):
        save(folder / f"labelsTr/case{i}.png", disc(seed_of(f"labelsTr/case{i}.png")).astype(np.uint8))
    labels = {"labels": {"background": 0, "polyp": 1}, "channel_names": {"0": "R"}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(labels))
    return {"names": ["case1", "case2"], "classes": {1: "polyp"}, "notes": "left out, 1 images without labels"}


RELEASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "PraNet's Polyps": polyps,
    "Kvasir-SEG": kvasir,
    "CVC-ClinicDB": clinic,
    "CVC-ClinicDB in two formats": clinic_in_two_formats,
    "BKAI-NeoPolyp": bkai,
    "PolypGen": polypgen,
    "ISIC 2016": isic("2016"),
    "ISIC 2017": isic("2017"),
    "ISIC 2018": isic("2018"),
    "BUSI": busi,
    "DRIVE": drive,
    "DRIVE, test without vessels": drive_without_tests,
    "DSB 2018": nuclei,
    "nnU-Net raw": nnunet,
}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_releases_are_read_with_no_setting_but_the_folder(tmp_path: Path, release: str, wrapped: bool) -> None:
    inner = tmp_path / "unpacked" if wrapped else tmp_path
    (tmp_path / "__MACOSX").mkdir()
    inner.mkdir(exist_ok=True)
    expected = RELEASES[release](inner)
    folder = DataFolder(tmp_path)
    pairs = folder.pairs()
    assert [pair.name for pair in pairs] == expected["names"]
    assert folder.lists == expected.get("splits")
    assert list(folder.test_sets) == expected.get("tests", [])
    assert {pair.name: pair.group for pair in pairs if pair.group is not None} == expected.get("groups", {})
    assert {pair.name: len(pair.mask.files) for pair in pairs if len(pair.mask.files) > 1} == expected.get("joined", {})
    if "files" in expected:
        assert {path.parent.name for pair in pairs for path in pair.mask.files} & expected["files"] or {
            path.relative_to(inner).parts[0] for pair in pairs for path in pair.files
        } == expected["files"]
    assert folder.require_listing().classes == expected.get("classes", {})
    assert re.search(expected.get("notes", ""), " ".join(folder.require_listing().notes))
    if expected.get("masks", True):
        require_whole(inner, pairs)
    assert check(tmp_path).as_dict()["usable"]
    images = {image.path for image in folder.images()}
    assert images == {pair.image.path for pair in pairs}


# ---- suffixes, prefixes, extensions, case --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.jpg", "{}_mask.png"),
        ("{}.jpg", "{}-mask.png"),
        ("{}.jpg", "{}_gt.png"),
        ("{}.jpg", "{}_Segmentation.png"),
        ("{}.jpg", "{}_seg0.png"),
        ("{}.jpg", "{} annotation.png"),
        ("{}.jpg", "mask_{}.png"),
        ("{}.tiff", "p{}.tiff"),
        ("img{}.jpg", "gt{}.png"),
        ("image_{}.jpg", "mask_{}.png"),
        ("{}_image.jpg", "{}_label.png"),
        ("case{}_training.tif", "case{}_manual1.gif"),
        ("{}.JPG.jpg", "{}.png"),
        ("{}.jpg", "{}.jpg.png"),
    ],
)
@pytest.mark.parametrize("where", ["images/{}|masks/{}", "scans/{}|GT/{}", "{}|masks/{}", "{}|{}"])
def test_what_all_names_of_a_kind_add_is_taken_off(tmp_path: Path, image: str, mask: str, where: str) -> None:
    first, second = where.split("|")
    numbers = (1, 2, 10, 11, 12, 21)
    images = {i: first.format(image.format(i)) for i in numbers}
    masks = {i: second.format(mask.format(i)) for i in numbers}
    build(tmp_path, images.values(), masks.values())
    assert sorted(found(tmp_path).values()) == sorted((images[i], (masks[i],)) for i in numbers)


def test_a_mask_is_no_other_images_whose_number_it_begins_with(tmp_path: Path) -> None:
    build(tmp_path, [f"images/{i}.png" for i in (1, 2, 3)], [f"masks/{i}_mask.png" for i in (1, 2, 3, 10)])
    with pytest.raises(InputError, match=r"10_mask\.png: has no image"):
        DataFolder(tmp_path).pairs()


def test_several_masks_of_one_image_are_joined(tmp_path: Path) -> None:
    images = [f"images/{n}.png" for n in "abc"]
    masks = [f"masks/{n}.png" for n in "abc"] + ["masks/b_1.png", "masks/b_2.png"]
    pairs = DataFolder(build(tmp_path / "names", images, masks)).pairs()
    assert [len(pair.mask.files) for pair in pairs] == [1, 3, 1]
    require_whole(tmp_path / "names", pairs)
    masks = [f"masks/{n}/{k}.png" for n in "abc" for k in range(3)]
    pairs = DataFolder(build(tmp_path / "folders", images, masks)).pairs()
    assert [(pair.name, len(pair.mask.files)) for pair in pairs] == [("a", 3), ("b", 3), ("c", 3)]
    require_whole(tmp_path / "folders", pairs)


@pytest.mark.parametrize(
    ("masks", "word"),
    [
        (["x/{}_1stHO.png", "x/{}_2ndHO.png"], "1stho.*2ndho"),
        (["x/{}_manual1.png", "x/{}_manual2.png"], "several people"),
        (["x/{}_disc_mask.png", "x/{}_cup_mask.png"], "two kinds"),
    ],
)
def test_two_masks_of_one_image_that_are_no_parts_are_refused(tmp_path: Path, masks: list[str], word: str) -> None:
    build(tmp_path, [f"x/{n}.jpg" for n in "abc"], [mask.format(n) for mask in masks for n in "abc"])
    with pytest.raises(InputError, match=rf"{word}.*data\.masks"):
        DataFolder(tmp_path)


@pytest.mark.parametrize("others", [("masks", "labels"), ("masks1", "masks2"), ("gt_expert1", "gt_expert2")])
def test_two_folders_of_masks_are_refused(tmp_path: Path, others: tuple[str, str]) -> None:
    build(tmp_path, [f"imgs/{n}.png" for n in "abc"], [f"{other}/{n}.png" for other in others for n in "abc"])
    with pytest.raises(InputError, match=r"both hold masks.*data\.masks"):
        DataFolder(tmp_path)
    pattern = DataConfig(images="imgs/*", masks=f"{others[1]}/*.png")
    assert {pair.mask.path.parent.name for pair in DataFolder(tmp_path, settings=pattern).pairs()} == {others[1]}


@pytest.mark.parametrize("extension", ["gif", "webp", "jfif", "jp2", "JPG", "TIF", "bmp"])
def test_extensions(tmp_path: Path, extension: str) -> None:
    formats = {"jfif": "JPEG", "jp2": "JPEG2000"}
    for n in "ab":
        path = tmp_path / f"images/{n}.{extension}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photograph(1)).save(path, formats.get(extension))
        save(tmp_path / f"masks/{n}.png", disc(1).astype(np.uint8) * 255)
    assert [pair.read()[0].shape for pair in DataFolder(tmp_path).pairs()] == [(*SIZE, 3)] * 2


def test_names_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    build(tmp_path, [f"images/{composed}1.png", "images/Case2.PNG", "images/c.png"],
          [f"masks/{apart}1.png", "masks/case2.png", "masks/c.png"])  # fmt: skip
    (tmp_path / "splits.json").write_text(json.dumps({"train": [f"{apart}1", "case2.png"], "test": ["c.jpg"]}))
    folder = DataFolder(tmp_path)
    assert [pair.name for pair in folder.pairs()] == ["Case2", "c", f"{composed}1"]
    assert folder.lists == {"train": [f"{composed}1", "Case2"], "test": ["c"]}
    report = check(tmp_path)
    assert report.problems == []
    assert "2 masks were matched to images whose names differ by case" in render(report)


def test_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DataFolder(build(tmp_path, ["images/a.png", "images/b.png"], ["masks/A.png", "masks/b.png"]))
    folder.pairs()
    folder.pairs()
    folder.images()
    assert capsys.readouterr().err.count("differ by case") == 1


# ---- folders, groups, splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask", "name", "group"),
    [
        ("images/{p}/{i}.png", "masks/{p}/{i}.png", "{p}-{i}", "{p}"),
        ("{p}/images/{i}.png", "{p}/masks/{i}.png", "{p}-{i}", "{p}"),
        ("{p}/{i}.png", "{p}/{i}_mask.png", "{p}-{i}", "{p}"),
        ("data_{p}/images_{p}/{i}.jpg", "data_{p}/masks_{p}/{i}_mask.png", "data_{p}-{i}", "data_{p}"),
        ("images_{p}/{i}.jpg", "masks_{p}/{i}.png", "{p}-{i}", "{p}"),
        ("scans/{p}/left/{i}.jpg", "scans_gt/{p}/left/{i}.png", "{p}-left-{i}", "{p}"),
        ("a/{p}/frames/{i}.jpg", "a/{p}/GT/{i}.png", "{p}-{i}", "{p}"),
        ("images/{p}_{i}.jpg", "masks/{p}_{i}.png", "{p}_{i}", None),
    ],
)
def test_sub_folders_are_groups(tmp_path: Path, image: str, mask: str, name: str, group: str | None) -> None:
    both = [{"p": p, "i": f"{i:03d}"} for p in ("p01", "p02") for i in (1, 2)]
    build(tmp_path, [image.format(**one) for one in both], [mask.format(**one) for one in both])
    pairs = DataFolder(tmp_path).pairs()
    assert [pair.name for pair in pairs] == [name.format(**one) for one in both]
    assert [pair.group for pair in pairs] == [group and group.format(**one) for one in both]
    require_whole(tmp_path, pairs)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{s}/images/{i}.png", "{s}/masks/{i}.png"),
        ("images/{s}/{i}.png", "masks/{s}/{i}.png"),
        ("{s}/{i}.jpg", "{s}_gt/{i}.png"),
        ("{s}_images/{i}.jpg", "{s}_masks/{i}.png"),
        ("{s}/{i}.jpg", "{s}/{i}_mask.png"),
        ("x/{s}/img/{i}.jpg", "x/{s}/ann/{i}.png"),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_sub_folders_are_splits(tmp_path: Path, image: str, mask: str, same: bool) -> None:
    names = {"train": [1, 2, 3], "valid": [1 if same else 4], "testing": [1 if same else 5]}
    for part, numbers in names.items():
        build(tmp_path, [image.format(s=part, i=i) for i in numbers], [mask.format(s=part, i=i) for i in numbers])
    folder = DataFolder(tmp_path)
    expected = {"train": ["1", "2", "3"], "val": ["4"], "test": ["5"]}
    if same:
        expected = {"train": ["train-1", "train-2", "train-3"], "val": ["val-1"], "test": ["test-1"]}
    assert folder.lists == expected
    assert [pair.name for pair in folder.pairs("train")] == expected["train"]
    assert [pair.name for pair in next(iter(sets_for_testing([folder]).values()))] == expected["test"]
    assert check(tmp_path).splits == {"train": 3, "val": 1, "test": 1}
    with pytest.raises(InputError, match=r"data\.split = holdout.*train, val, test"):
        folder.pairs("holdout")


def test_splits_json_rules_over_folders(tmp_path: Path) -> None:
    build(tmp_path, ["train/images/1.png", "test/images/2.png"], ["train/masks/1.png", "test/masks/2.png"])
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["2"], "test": ["1"]}))
    assert [pair.name for pair in DataFolder(tmp_path).pairs("test")] == ["1"]


def test_a_whole_folder_in_a_folder_keeps_its_splits(tmp_path: Path) -> None:
    build(tmp_path / "inner", ["images/1.png", "images/2.png"], ["masks/1.png", "masks/2.png"])
    (tmp_path / "inner/splits.json").write_text(json.dumps({"train": ["1"], "test": ["2"]}))
    assert list(found(tmp_path, "train")) == ["1"]


@pytest.mark.parametrize("top", ["", "masks/", "masks_"])
def test_a_mask_folder_a_structure(tmp_path: Path, top: str) -> None:
    structures = ("heart", "left lung", "right lung")
    build(tmp_path, [f"images/{n}.png" for n in "ab"], [f"{top}{part}/{n}.gif" for part in structures for n in "ab"])
    folder = DataFolder(tmp_path)
    assert folder.require_listing().classes == {1: "heart", 2: "left lung", 3: "right lung"}
    pairs = folder.pairs()
    assert [pair.mask.source.classes for pair in pairs] == [(1, 2, 3)] * 2
    require_whole(tmp_path, pairs)
    assert "the later one counts: heart, left lung, right lung" in render(check(tmp_path))


def test_folders_told_by_what_they_hold(tmp_path: Path) -> None:
    build(tmp_path, [f"A/{i}.png" for i in range(4)], [f"B/{i}.png" for i in range(4)])
    assert found(tmp_path)["2"] == ("A/2.png", ("B/2.png",))
    assert "taken for masks by what they look like" in " ".join(check(tmp_path).notes)


def test_photographs_are_never_masks(tmp_path: Path) -> None:
    build(tmp_path, [f"{top}/{i}.png" for top in ("imgs", "labels") for i in range(4)], [])
    with pytest.raises(InputError, match="looks like a photograph"):
        DataFolder(tmp_path)
    with pytest.raises(InputError, match=r"--masks .*imgs: holds photographs, not masks \(0\.png"):
        DataFolder(tmp_path / "imgs", "--masks").masks()
    flat = build(tmp_path / "flat", [f"{i}.png" for i in range(4)], ["other.png"])
    with pytest.raises(InputError, match="holds photographs, not masks"):
        DataFolder(flat, "--masks").masks()


def scene(seed: int) -> Image.Image:
    """A picture with light, shapes and noise (96, 120), as a camera gives it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :120]
    light = 120 + 60 * np.sin(x / random.uniform(20, 40)) * np.cos(y / random.uniform(15, 30))
    shapes = 50 * (np.hypot(y - random.uniform(30, 60), x - random.uniform(40, 80)) < 25)
    values = (light + shapes)[..., None] * [1.0, 0.6, 0.5] + random.normal(0, 8, (96, 120, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("colours", [4, 8, 16])
@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_photographs_of_few_colours_are_no_masks(tmp_path: Path, colours: int, mode: str) -> None:
    for i in range(6):
        save(tmp_path / f"few/{i}.png", scene(i).quantize(colours, dither=Image.Dither.NONE).convert(mode))
    with pytest.raises(InputError, match=r"--masks .*few: holds photographs"):
        DataFolder(tmp_path / "few", "--masks").masks()


def vessels(seed: int) -> NDArray[np.uint8]:
    """Thin lines of three kinds that cross each other."""
    random = np.random.default_rng(seed)
    drawn = np.zeros((200, 200), np.uint8)
    for _ in range(30):
        place, turn = random.uniform(0, 200, 2), random.uniform(0, 6.3)
        label, width = random.choice([85, 170, 255]), int(random.integers(1, 4))
        for _ in range(120):
            turn += random.normal(0, 0.1)
            place += [np.sin(turn), np.cos(turn)]
            row, column = np.rint(place).astype(int).clip(0, 199 - width)
            drawn[row : row + width, column : column + width] = label
    return drawn


def crowded(seed: int) -> NDArray[np.uint8]:
    """Many small discs of four kinds that overlap."""
    random = np.random.default_rng(seed)
    drawn = np.zeros((200, 200), np.uint8)
    y, x = np.mgrid[:200, :200]
    for _ in range(50):
        centre, radius = random.uniform(0, 200, 2), random.uniform(2, 9)
        drawn[np.hypot(y - centre[0], x - centre[1]) < radius] = random.integers(1, 5) * 60
    return drawn


def jagged(seed: int) -> NDArray[np.uint8]:
    """A network's mask, cut at one half: black and white, ragged, with specks about."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :200]
    inside = random.normal(0, 12, (200, 200)) + np.hypot(y - 100, x - 100) < 70
    return np.where(inside, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("draw", [vessels, crowded, jagged])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_rough_masks_are_no_photographs(tmp_path: Path, draw: Any, kind: str) -> None:
    for i in range(6):
        save(tmp_path / f"masks/{i}.{kind}", draw(i), **({"quality": 90} if kind == "jpg" else {}))
    assert posterised(sorted((tmp_path / "masks").iterdir())) == []
    if kind == "png":
        assert len(DataFolder(tmp_path / "masks", "--masks").masks()) == 6


def test_masks_of_a_flat_folder_are_its_masks(tmp_path: Path) -> None:
    build(tmp_path, [f"benign ({i}).png" for i in (1, 2)], [f"benign ({i})_mask.png" for i in (1, 2)])
    assert [mask.path.name for _, mask in DataFolder(tmp_path, "--masks").masks()] == [
        "benign (1)_mask.png",
        "benign (2)_mask.png",
    ]


def test_mask_folders_are_never_images(tmp_path: Path) -> None:
    build(
        tmp_path,
        ["c1/images_c1/a.jpg", "c2/images_c2/b.jpg", "c2/images_c2/c.jpg"],
        ["c1/masks_c1/x.png", "c2/masks_c2/y.png"],
    )
    assert [image.path.name for image in DataFolder(tmp_path, "--images").images()] == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(InputError, match="holds masks, not images"):
        DataFolder(build(tmp_path / "masks", [], ["a.png", "b.png"]), "--images").images()


@pytest.mark.parametrize(
    ("images", "masks", "classes", "names"),
    [
        (
            "A. Seg/1. Original Images/{s}/IDRiD_{i}.jpg",
            "A. Seg/2. All Groundtruths/{s}/{k}/IDRiD_{i}_{k}.tif",
            ["EX", "MA"],
            ["IDRiD_1", "IDRiD_2"],
        ),
        ("images/{i}.png", "fold1/masks/{k}/{i}.gif", ["heart", "lungs"], ["1", "2"]),
    ],
)
def test_classes_in_folders_that_images_do_not_have(
    tmp_path: Path, images: str, masks: str, classes: list[str], names: list[str]
) -> None:
    splits = {1: "a. Training Set", 2: "b. Testing Set"}
    build(
        tmp_path,
        [images.format(s=splits[i], i=i) for i in (1, 2)],
        [masks.format(s=splits[i], i=i, k=k) for i in (1, 2) for k in ("heart", "lungs", "MA", "EX") if k in classes],
    )
    folder = DataFolder(tmp_path)
    assert folder.require_listing().classes == dict(enumerate(classes, start=1))
    assert [pair.name for pair in folder.pairs()] == names
    require_whole(tmp_path, folder.pairs())


def test_words_that_are_written_as_one(tmp_path: Path) -> None:
    build(tmp_path, ["train/a.png", "test/b.png"], ["trainannot/a.png", "testannot/b.png"])
    assert DataFolder(tmp_path).lists == {"train": ["a"], "test": ["b"]}


def test_formats_that_are_not_read_are_named_with_their_count(tmp_path: Path) -> None:
    build(tmp_path, ["images/a.png"], ["masks/a.png", "masks/b.png", "masks/c.png"])
    for name in "bc":
        (tmp_path / f"images/{name}.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"b\.png: has no image \(not read, for their formats: 2 \.heic\)"):
        DataFolder(tmp_path).pairs()
    assert "2 .heic" in render(check(tmp_path))


# ---- tables and annotations ----------------------------------------------------------------------------------------


def points(i: int) -> list[list[float]]:
    return [[2.0 + i, 3.0], [12.0 + i, 3.0], [12.0 + i, 9.0], [2.0 + i, 9.0]]


def square(i: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    mask[3:9, 2 + i : 12 + i] = True
    return mask


TABLES: dict[str, tuple[str, str]] = {
    "commas": ("data.csv", "image,mask\na/0.png,b/m0.png\na/1.png,b/m1.png\n"),
    "semicolons, BOM and backslashes": (
        "files.csv",
        "﻿Image Path;Mask Path\r\na\\0.png;b\\m0.png\r\na\\1.png;b\\m1.png\r\n",
    ),
    "tabs": ("data.tsv", "img\tgt\na/0.png\tb/m0.png\na/1.png\tb/m1.png\n"),
    "no heading": ("list.csv", "a/0.png,b/m0.png\na/1.png,b/m1.png\n"),
    "another machine's paths": (
        "t.csv",
        "image,label\n/home/x/set/a/0.png,/home/x/set/b/m0.png\nC:\\d\\a\\1.png,C:\\d\\b\\m1.png\n",
    ),
    "names in another case": ("t.csv", "id,image,mask\n7,A/0.PNG,B/M0.png\n8,a/1.png,b/m1.png\n"),
    "no extensions": ("t.csv", "image,mask,age\na/0,b/m0,30\na/1,b/m1,31\n"),
    "pairs.csv": (
        "pairs.csv",
        "image,mask,patient,caption\na/0.png,b/m0.png,p1,A polyp\na/1.png,b/m1.png,p1,A polyp\n",
    ),
    "the hub's": (
        "metadata.jsonl",
        '﻿{"file_name": "a/0.png", "mask_file_name": "b/m0.png"}\n'
        '{"file_name": "a/1.png", "mask_file_name": "b/m1.png"}\n',
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_paths(tmp_path: Path, kind: str) -> None:
    build(tmp_path, ["a/0.png", "a/1.png"], ["b/m0.png", "b/m1.png"])
    name, text = TABLES[kind]
    if kind == "the hub's":
        text = text.removeprefix("﻿")
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    pairs = DataFolder(tmp_path).pairs()
    assert found(tmp_path) == {"0": ("a/0.png", ("b/m0.png",)), "1": ("a/1.png", ("b/m1.png",))}
    if kind == "pairs.csv":
        assert {(pair.group, pair.prompt) for pair in pairs} == {("p1", "A polyp")}


def test_tables_are_splits(tmp_path: Path) -> None:
    build(tmp_path, ["a/0.png", "a/1.png", "a/2.png"], ["b/0.png", "b/1.png"])
    (tmp_path / "train.csv").write_text("image,mask\na/0.png,b/0.png\n")
    (tmp_path / "test.csv").write_text("image,mask\na/1.png,b/1.png\n")
    assert DataFolder(tmp_path).lists == {"test": ["1"], "train": ["0"]}
    assert "left out, 1 images that are not named: 2.png" in " ".join(DataFolder(tmp_path).require_listing().notes)
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").unlink()
    (tmp_path / "all.csv").write_text("image,mask,split\na/0.png,b/0.png,training\na/1.png,b/1.png,TEST\n")
    assert DataFolder(tmp_path).lists == {"train": ["0"], "test": ["1"]}


def test_a_table_that_names_what_is_not_there(tmp_path: Path) -> None:
    build(tmp_path, ["a/0.png"], ["b/0.png"])
    (tmp_path / "t.csv").write_text("image,mask\na/0.png,b/0.png\na/1.png,b/1.png\n")
    with pytest.raises(InputError, match=r"t\.csv: line 3 names a/1\.png, which is not there, and 1 more"):
        DataFolder(tmp_path).pairs()


def test_a_table_of_classes_is_no_table_of_masks(tmp_path: Path) -> None:
    build(tmp_path, ["images/1.png", "images/0.png"], ["masks/1.png", "masks/0.png"])
    (tmp_path / "t.csv").write_text("image,label\nimages/1.png,1\nimages/0.png,0\n")
    assert DataFolder(tmp_path).require_listing().layout == "images and masks"


def test_a_manifest_says_what_it_leaves_out(tmp_path: Path) -> None:
    build(tmp_path, [f"images/{i}.png" for i in range(4)], [f"masks/{i}.png" for i in range(4)])
    rows = [{"image": f"images\\{i}.png", "mask": f"masks/{i}.PNG"} for i in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(found(tmp_path)) == ["0", "1", "2"]
    notes = " ".join(check(tmp_path).notes)
    assert "left out, 2 images that are not named: 3.png" in notes
    assert "6 names were matched to files that are written otherwise" in notes


def coco(folder: Path, form: str, name: str = "annotations.json", numbers: Iterable[int] = range(3)) -> None:
    rows: list[dict[str, Any]] = []
    for i in numbers:
        runs = runs_of(square(i))
        drawn: Any = {
            "polygon": [[value for point in points(i) for value in point]],
            "runs": {"counts": runs, "size": list(SIZE)},
            "compressed runs": {"counts": compress(runs), "size": list(SIZE)},
        }[form]
        rows.append(
            {"id": i, "image_id": i, "category_id": 7, "segmentation": drawn, "iscrowd": int(form != "polygon")}
        )
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in [*numbers]]
    content = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 7, "name": "polyp"}, {"id": 9, "name": "x"}],
    }
    (folder / name).write_text(json.dumps(content))


def runs_of(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs off and on in turn, down the columns, off first."""
    column = mask.T.ravel()
    ends = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), column.size]
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if column[0] else lengths


def compress(runs: list[int]) -> str:
    """COCO's compressed runs, as its own library writes them."""
    text = ""
    for index, run in enumerate(runs):
        value, more = run - runs[index - 2] if index > 2 else run, True
        while more:
            code, value = value & 31, value >> 5
            more = value != -1 if code & 16 else value != 0
            text += chr((code | 32 * more) + 48)
    return text


@pytest.mark.parametrize("form", ["polygon", "runs", "compressed runs"])
def test_coco(tmp_path: Path, form: str) -> None:
    build(tmp_path, [f"images/{i}.png" for i in range(4)], [])
    coco(tmp_path, form)
    folder = DataFolder(tmp_path)
    pairs = folder.pairs()
    assert [pair.name for pair in pairs] == ["0", "1", "2"]
    for i, pair in enumerate(pairs):
        assert np.array_equal(pair.read()[1], square(i))
    assert folder.require_listing().classes == {1: "polyp"}
    assert "left out, 1 images that are not named: 3.png" in " ".join(check(tmp_path).notes)
    assert check(tmp_path).as_dict()["usable"]


def test_coco_with_boxes_alone_says_what_is_missing(tmp_path: Path) -> None:
    build(tmp_path, [f"{i}.png" for i in range(3)], [])
    coco(tmp_path, "polygon")
    content = json.loads((tmp_path / "annotations.json").read_text())
    for row in content["annotations"]:
        row |= {"segmentation": [], "bbox": [2, 3, 10, 12]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"annotations\.json draws boxes alone, and a mask needs an outline"):
        DataFolder(tmp_path).pairs()


def test_coco_in_splits(tmp_path: Path) -> None:
    for name, numbers in (("train", (0, 1)), ("valid", (2,))):
        build(tmp_path / name, [f"{i}.png" for i in numbers], [])
        coco(tmp_path / name, "polygon", "_annotations.coco.json", numbers)
    assert DataFolder(tmp_path).lists == {"train": ["0", "1"], "val": ["2"]}
    build(tmp_path / "b/train2017", ["0.png", "1.png"], [])
    build(tmp_path / "b/val2017", ["2.png"], [])
    (tmp_path / "b/annotations").mkdir()
    coco(tmp_path / "b/annotations", "polygon", "instances_train2017.json", (0, 1))
    coco(tmp_path / "b/annotations", "polygon", "instances_val2017.json", (2,))
    assert DataFolder(tmp_path / "b").lists == {"train": ["0", "1"], "val": ["2"]}


def test_the_characters_of_compressed_runs() -> None:
    runs = [0, 3, 1000, 5, 1, 70000, 2]
    assert decompress(compress(runs)) == tuple(runs)
    with pytest.raises(ValueError, match="cut short"):
        decompress(compress([1000])[:-1])


def test_polygons_mark_the_pixels_whose_centres_they_hold() -> None:
    assert fill(((0, 0), (4, 0), (4, 4), (0, 4)), 6, 5).sum() == 16
    assert not fill(((1, 1), (2, 2)), 6, 5).any()
    y, x = np.mgrid[:40, :50]
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = tuple((float(25.3 + 14 * np.cos(a)), float(18.2 + 14 * np.sin(a))) for a in angles)
    assert np.array_equal(fill(circle, 40, 50), (y + 0.5 - 18.2) ** 2 + (x + 0.5 - 25.3) ** 2 < 14**2)
    ends = fill(((-5, -5), (60, -5), (60, 60), (-5, 60)), 6, 5)
    assert ends.all()


@pytest.mark.parametrize("where", ["{}", "images/{}", "p1/{}"])
def test_labelme(tmp_path: Path, where: str) -> None:
    for i in range(3):
        image = tmp_path / where.format(f"{i}.png")
        save(image, photograph(i))
        shapes = [{"label": "polyp", "points": points(i), "shape_type": "polygon"}] if i else []
        content = {"imagePath": f"..\\old\\{i}.png", "shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        image.with_suffix(".json").write_text(json.dumps(content))
    pairs = DataFolder(tmp_path).pairs()
    assert [pair.name for pair in pairs] == ["0", "1", "2"]
    assert [pair.read()[1].sum() for pair in pairs] == [0, 60, 60]
    assert np.array_equal(pairs[2].read()[1], square(2))


def test_labelme_shapes(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photograph(0))
    shapes = [
        {"label": "box", "points": [[12, 9], [2, 3]], "shape_type": "rectangle"},
        {"label": "ball", "points": [[16.5, 12.5], [19.5, 12.5]], "shape_type": "circle"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    folder = DataFolder(tmp_path)
    (pair,) = folder.pairs()
    assert folder.require_listing().classes == {1: "ball", 2: "box"}
    assert pair.mask.source.shapes is not None
    labels = pair.mask.source.shapes.labels()
    assert np.array_equal(labels == 2, square(0))
    assert 20 < (labels == 1).sum() < 32
    shapes[0]["shape_type"] = "line"
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    with pytest.raises(InputError, match=r"a\.json: the shape box is a line, which has no area"):
        DataFolder(tmp_path)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_two_ways_to_read_are_refused_and_both_named(tmp_path: Path) -> None:
    build(tmp_path, [f"images/{i}.png" for i in range(3)], [f"masks/{i}.png" for i in range(3)])
    coco(tmp_path, "polygon")
    with pytest.raises(InputError, match=r"two ways, as COCO annotations.* and as images and masks.*data\.masks"):
        DataFolder(tmp_path)
    by_hand = DataFolder(tmp_path, settings=DataConfig(masks="annotations.json")).pairs()
    assert np.array_equal(by_hand[1].read()[1], square(1))
    by_hand = DataFolder(tmp_path, settings=DataConfig(masks="masks/*")).pairs()
    require_whole(tmp_path, by_hand)


def test_patterns(tmp_path: Path) -> None:
    build(
        tmp_path,
        [f"day{d}/cam/{i}.jpg" for d in (1, 2) for i in (1, 2)],
        [f"drawn/day{d}/{i}.png" for d in (1, 2) for i in (1, 2)],
    )
    build(tmp_path, ["day1/cam/junk.jpg"], [])
    settings = DataConfig(images="day*/cam/[0-9]*.jpg", masks="drawn/**/*.png")
    pairs = DataFolder(tmp_path, settings=settings).pairs()
    assert [(pair.name, pair.group) for pair in pairs][:3] == [
        ("day1-1", "day1"),
        ("day1-2", "day1"),
        ("day2-1", "day2"),
    ]
    require_whole(tmp_path, pairs)
    with pytest.raises(InputError, match=r"data\.masks = nothing/\*: matches no image file"):
        DataFolder(tmp_path, settings=DataConfig(masks="nothing/*"))
    with pytest.raises(InputError, match=r"data\.images = /etc/\*: not a pattern of paths inside"):
        DataFolder(tmp_path, settings=DataConfig(images="/etc/*", masks="drawn/**/*"))


def test_nothing_fits(tmp_path: Path) -> None:
    build(tmp_path, ["left/a.png", "left/b.png", "right/c.png", "right/d.png"], [])
    (tmp_path / "right/e.dcm").write_bytes(b"x")
    with pytest.raises(InputError) as error:
        DataFolder(tmp_path, "--data").pairs()
    text = str(error.value)
    assert text.startswith(
        f"--data {tmp_path}: no image-mask pairs found; it holds left/ (2 .png), right/ (2 .png, 1 .dcm)"
    )
    lines = text.splitlines()[1:]
    assert lines == ["image,mask", "left/a.png,right/c.png", "left/b.png,right/d.png"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    assert len(DataFolder(tmp_path).pairs()) == 2


def test_dead_links(tmp_path: Path) -> None:
    build(tmp_path, ["images/a.png"], ["masks/a.png"])
    for top in ("images", "masks"):
        (tmp_path / top / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"images/b\.png: is a link that leads nowhere, and 1 more"):
        DataFolder(tmp_path).pairs()
    assert [problem.kind for problem in check(tmp_path).problems] == ["manifest"] * 2
    with pytest.raises(InputError, match="leads nowhere"):
        DataFolder(tmp_path / "masks").masks()


def test_links_and_circles_are_followed(tmp_path: Path) -> None:
    build(tmp_path / "elsewhere", ["p1/1.png", "p2/1.png"], [])
    build(tmp_path / "data", [], ["masks/p1/1.png", "masks/p2/1.png"])
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/p1/up").symlink_to(tmp_path / "elsewhere")
    assert [pair.name for pair in DataFolder(tmp_path / "data").pairs()] == ["p1-1", "p2-1"]


@pytest.mark.parametrize("path", ["{}/far/x.png", "../far/x.png"])
def test_files_outside_are_refused_unless_allowed(tmp_path: Path, path: str) -> None:
    build(tmp_path, ["far/x.png"], ["data/x.png"])
    row = {"image": path.format(tmp_path), "mask": "x.png"}
    (tmp_path / "data/pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"x\.png: lies outside the folder that names it; data\.outside=true"):
        DataFolder(tmp_path / "data").pairs()
    assert check(tmp_path / "data").as_dict()["usable"] is False
    assert len(DataFolder(tmp_path / "data", settings=DataConfig(outside=True)).pairs()) == 1


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"--train .*data\.zip: is not a folder but an archive; `siamese"):
        DataFolder(tmp_path / "data.zip", "--train")
    with pytest.raises(InputError, match=r"--synthetic .*NEW is not a folder \(it does not exist\)"):
        DataFolder(tmp_path / "NEW", "--synthetic")


@pytest.mark.parametrize("kind", ["joined", "structures", "polygon"])
def test_a_row_gives_any_pair_again(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    build(data, ["images/p1/0.png", "images/p1/1.png", "images/p2/0.png"], [])
    if kind == "joined":
        build(data, [], [f"masks/{p}_mask{k}.png" for p in ("p1/0", "p1/1", "p2/0") for k in ("", "_1")])
    elif kind == "structures":
        build(data, [], [f"masks/{k}/{p}.png" for p in ("p1/0", "p1/1", "p2/0") for k in ("heart", "lung")])
    else:
        for p in ("p1/0", "p1/1", "p2/0"):
            shapes = [{"label": "polyp", "points": points(3)}]
            (data / f"images/{p}.json").write_text(json.dumps({"imagePath": f"{p[-1]}.png", "shapes": shapes}))
    pairs = DataFolder(data).pairs()
    (tmp_path / "again").mkdir()
    (tmp_path / "again/pairs.jsonl").write_text("".join(json.dumps(row_of(pair)) + "\n" for pair in pairs))
    again = DataFolder(tmp_path / "again", settings=DataConfig(outside=True)).pairs()
    assert [(pair.name, pair.group) for pair in pairs] == [("p1-0", "p1"), ("p1-1", "p1"), ("p2-0", "p2")]
    for one, other in zip(pairs, again, strict=True):
        assert (one.name, one.group, one.image.path) == (other.name, other.group, other.image.path)
        assert one.mask.source == other.mask.source
        assert np.array_equal(one.read()[1], other.read()[1])


# ---- validation ------------------------------------------------------------------------------------------------------


def test_validation_holds_out_whole_groups(tmp_path: Path) -> None:
    both = [(p, i) for p in range(6) for i in range(p + 1)]
    build(tmp_path, [f"images/p{p}/{i}.png" for p, i in both], [f"masks/p{p}/{i}.png" for p, i in both])
    folder = DataFolder(tmp_path)
    for seed in range(8):
        train, validation = train_and_validation(folder, folder.pairs(), 0.2, seed)
        assert not {pair.group for pair in train} & {pair.group for pair in validation}
        assert len(train) + len(validation) == 21
        assert 1 <= len(validation) <= 6


def test_validation_never_holds_healthy_images_alone(tmp_path: Path) -> None:
    build(tmp_path, [f"images/{i:02d}.png" for i in range(20)], ["masks/07.png", "masks/13.png"])
    for i in range(20):
        if i not in (7, 13):
            save(tmp_path / f"masks/{i:02d}.png", np.zeros(SIZE, np.uint8))
    folder = DataFolder(tmp_path)
    for seed in range(6):
        _, validation = train_and_validation(folder, folder.pairs(), 0.1, seed)
        assert len(validation) == 2
        assert any(pair.mask.read().any() for pair in validation)


def test_few_pairs_are_refused_unless_a_list_says_which_pick_the_step(tmp_path: Path) -> None:
    folder = DataFolder(build(tmp_path, [f"images/{i}.png" for i in range(3)], [f"masks/{i}.png" for i in range(3)]))
    with pytest.raises(InputError, match=r"3 pairs to train on.*give at least 4, or a split val"):
        train_and_validation(folder, folder.pairs(), 0.1, 0)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["0", "1"], "val": ["2"]}))
    folder = DataFolder(tmp_path)
    train, validation = train_and_validation(folder, folder.pairs("train"), 0.1, 0)
    assert ([pair.name for pair in train], [pair.name for pair in validation]) == (["0", "1"], ["2"])


@pytest.mark.parametrize("grouped", [False, True])
def test_two_lesions_pick_the_step_where_there_are_enough(tmp_path: Path, grouped: bool) -> None:
    """Five of thirty images have a lesion; a share of one in ten would often hold out one of them or none."""
    names = [f"p{i % 10}/{i:02d}" if grouped else f"{i:02d}" for i in range(30)]
    marked = {names[i] for i in (3, 8, 14, 21, 29)}
    build(tmp_path, [f"images/{name}.png" for name in names], [f"masks/{name}.png" for name in marked])
    for name in set(names) - marked:
        save(tmp_path / f"masks/{name}.png", np.zeros(SIZE, np.uint8))
    folder = DataFolder(tmp_path)
    for seed in range(8):
        parts = train_and_validation(folder, folder.pairs(), 0.1, seed)
        lesions = [sum(bool(pair.mask.read().any()) for pair in part) for part in parts]
        assert min(lesions) >= 2
        assert not grouped or not {pair.group for pair in parts[0]} & {pair.group for pair in parts[1]}


def test_patterns_are_for_the_users_folder(tmp_path: Path) -> None:
    """A folder that this package wrote needs none, so the same settings serve real and synthetic pairs."""
    build(tmp_path, ["images/1.png"], ["masks/1.png"])
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "images/1.png", "mask": "masks/1.png"}) + "\n")
    config = update(Config(), "data", images="day/*.png", masks="drawn/*.png")
    assert len(DataFolder(tmp_path, settings=config.data).pairs()) == 1


assert os.sep == "/", "the paths above are written so"


def test_a_name_of_any_length_is_read_at_once() -> None:
    """Cutting a word in two costs its length each time, so a long one is not cut at every place."""
    from siamese_diffusion.data.layouts import words

    cuts: list[int] = []

    class Counted(str):
        def __getitem__(self, which: object) -> str:
            cuts.append(1)
            return super().__getitem__(which)  # type: ignore[index]

    assert words._parts(Counted("x" * 5000)) == ("x" * 5000,)
    assert not cuts
    assert words._parts(Counted("trainannot")) == ("train", "annot")
    assert cuts


def test_a_manifest_of_files_elsewhere_leaves_nothing_out(tmp_path: Path) -> None:
    """A study names the pairs of an arm wherever they lie; that others lie there too is nobody's concern."""
    far, near = tmp_path / "far", tmp_path / "near"
    build(far, [f"images/{i}.png" for i in range(3)], [f"masks/{i}.png" for i in range(3)])
    near.mkdir()
    rows = [{"image": str(far / "images/0.png"), "mask": str(far / "masks/0.png")}]
    (near / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = DataFolder(near, settings=DataConfig(outside=True))
    assert len(folder.pairs()) == 1
    assert not folder.require_listing().notes
    (far / "pairs.jsonl").write_text('{"image": "images/0.png", "mask": "masks/0.png"}\n')
    assert "left out, 4 images" in " ".join(DataFolder(far).require_listing().notes)
