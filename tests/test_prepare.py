"""`prepare`: the folder that it writes gives what the original gives, bit for bit, and is read with no setting."""

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from test_coding import VOC, Drawn, Scene, build, checked, coloured, indexed, rimmed, white
from test_layouts import RELEASES
from test_out import tree
from test_profiles import exchanged

from siamese_diffusion.config import load_config
from siamese_diffusion.data.allotment import allot, group_by, parse_shares
from siamese_diffusion.data.arrays import load_pairs
from siamese_diffusion.data.coding import VOID
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.prepare import in_order, prepare
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl


def written(folder: Path, out: Path, *settings: str, **options: Any) -> dict[str, Any]:
    return prepare(folder, out, load_config(None, list(settings)), **options)


def require_same(folder: Path, out: Path, *settings: str, resolution: int = 32, split: str | None = None) -> None:
    """What training reads of both, with each `data.fit`; of the second with no other setting."""
    for fit in ("squash", "pad", "crop"):
        one = DataFolder(folder, settings=load_config(None, [*settings, f"data.fit={fit}"]).data).pairs(split)
        two = DataFolder(out, settings=load_config(None, [f"data.fit={fit}"]).data).pairs(split)
        assert [pair.name for pair in one] == [pair.name for pair in two]
        assert [pair.prompt for pair in one] == [pair.prompt for pair in two]
        assert [pair.group for pair in one] == [pair.group for pair in two]
        for first, second in zip(load_pairs(one, resolution), load_pairs(two, resolution), strict=True):
            assert np.array_equal(first, second)


def sideways(each: Scene) -> Drawn:
    return each.image[:, ::-1].copy()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def deep(each: Scene) -> Drawn:
    return np.asarray(each.image[..., 1].astype(np.uint16) * 14 + each.number)


def dark(each: Scene) -> Drawn:
    return white(~each.large)


SOURCES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "8 bits": ({"mask": lambda s: white(s.large), "image_suffix": "jpg"}, ()),
    "turned by EXIF": (
        {"mask": lambda s: white(s.large), "image_suffix": "jpg", "image_options": {"exif": exif(6)}, "size": (48, 80)},
        ("data.orientation=stored",),
    ),
    "16 bits": ({"mask": lambda s: white(s.large), "image": deep, "image_suffix": "png"}, ()),
    "a window": ({"mask": lambda s: white(s.large), "image": deep, "image_suffix": "tif"}, ("data.window=1500,900",)),
    "palette": ({"mask": lambda s: indexed(s.labels, VOC)}, ()),
    "one label of a palette": ({"mask": lambda s: indexed(s.labels, VOC)}, ("data.foreground=2",)),
    "colours": ({"mask": coloured}, ()),
    "one colour": ({"mask": coloured}, ("data.foreground=red",)),
    "lossy colours": ({"mask": coloured, "suffix": "jpg", "quality": 90, "size": (128, 128)}, ()),
    "void": ({"mask": rimmed}, ("data.void=255",)),
    "inverted": ({"mask": dark}, ("data.invert=true",)),
    "portrait": ({"mask": lambda s: white(s.large), "size": (80, 50)}, ()),
    "landscape, soft masks": (
        {"mask": lambda s: cv2.GaussianBlur(white(s.large), (0, 0), 1.0), "size": (50, 81)},
        (),
    ),
    "a colour profile": ({"mask": lambda s: white(s.large), "image_options": {"icc_profile": exchanged()}}, ()),
    "smaller masks": ({"mask": lambda s: white(s.large)[::2, ::2]}, ()),
    "grey with alpha": ({"mask": lambda s: s.labels, "image": lambda s: np.dstack([s.image, white(s.both)])}, ()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_training_reads_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    options, settings = SOURCES[kind]
    build(tmp_path / "data", **options, count=6)
    written(tmp_path / "data", tmp_path / "out", *settings)
    require_same(tmp_path / "data", tmp_path / "out", *settings)
    for pair in DataFolder(tmp_path / "out").pairs():
        image = Image.open(pair.image.path)
        assert (image.mode, image.format, len(image.getexif())) == ("RGB", "PNG", 0)
    report = checked(tmp_path / "out")
    assert report.usable
    assert {problem.kind for problem in report.problems} <= {"lost lesions", "near images"}


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_prepared(tmp_path: Path, release: str) -> None:
    RELEASES[release](tmp_path / "data")
    prepare(tmp_path / "data", tmp_path / "out")
    one, two = DataFolder(tmp_path / "data"), DataFolder(tmp_path / "out")
    if one.test_sets:
        require_same(tmp_path / "data", tmp_path / "out", split="test")
        assert two.lists is not None
        assert sorted(two.lists) == ["test", "train"]
    else:
        require_same(tmp_path / "data", tmp_path / "out")
        assert two.lists == one.lists
    assert checked(tmp_path / "out", "data.resolution=32").usable
    assert two.require_listing().layout == "pairs.jsonl"


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_and_their_names_are_kept_so_that_one_can_be_chosen_later(tmp_path: Path) -> None:
    scenes = build(tmp_path / "data", lambda s: s.labels)
    result = prepare(tmp_path / "data", tmp_path / "out", labels="1=adenoma, 2=hyperplastic")
    assert result["classes"] == {1: "adenoma", 2: "hyperplastic"}
    assert read_json(tmp_path / "out/dataset.json")["classes"] == {"1": "adenoma", "2": "hyperplastic"}
    wanted = {
        "any": [s.both for s in scenes],
        "hyperplastic": [s.small for s in scenes],
        "2": [s.small for s in scenes],
    }
    for chosen, masks in wanted.items():
        settings = load_config(None, [f"data.foreground={chosen}"]).data
        read = [pair.mask.read() for pair in DataFolder(tmp_path / "out", settings=settings).pairs()]
        assert np.array_equal(read, masks)
    stored = np.asarray(Image.open(tmp_path / "out/masks/00.png"))
    assert np.array_equal(stored, scenes[0].labels)
    with pytest.raises(InputError, match=r"foreground = polyp.*\(adenoma, hyperplastic\)"):
        DataFolder(tmp_path / "out", settings=load_config(None, ["data.foreground=polyp"]).data).pairs()[0].read()


def test_a_label_that_is_chosen_at_once_is_black_and_white(tmp_path: Path) -> None:
    scenes = build(tmp_path / "data", coloured)
    prepare(tmp_path / "data", tmp_path / "out", labels="red=large,#00ff00=small", foreground="small")
    for each, pair in zip(scenes, DataFolder(tmp_path / "out").pairs(), strict=True):
        stored = np.asarray(Image.open(pair.mask.path))
        assert set(np.unique(stored)) == {0, 255}
        assert np.array_equal(stored > 0, each.small)
    assert read_json(tmp_path / "out/dataset.json")["classes"] == {"1": "small"}
    for chosen, fits in (("small", True), ("large", False)):
        folder = DataFolder(tmp_path / "out", settings=load_config(None, [f"data.foreground={chosen}"]).data)
        if fits:
            assert np.array_equal(folder.pairs()[0].mask.read(), scenes[0].small)
        else:
            with pytest.raises(InputError, match=r"data\.foreground = large: the masks of .* hold small"):
                folder.pairs()


def test_colours_keep_their_names(tmp_path: Path) -> None:
    scenes = build(tmp_path / "data", coloured)
    prepare(tmp_path / "data", tmp_path / "out")
    wanted = {"#ff0000": [s.large & ~s.small for s in scenes], "#00ff00": [s.small for s in scenes]}
    for chosen, masks in wanted.items():
        settings = load_config(None, [f"data.foreground=['{chosen}']"]).data
        assert np.array_equal(
            [pair.mask.read() for pair in DataFolder(tmp_path / "out", settings=settings).pairs()], masks
        )


def test_void_stays_apart(tmp_path: Path) -> None:
    build(tmp_path / "data", rimmed)
    written(tmp_path / "data", tmp_path / "out", "data.void=255")
    before = DataFolder(tmp_path / "data", settings=load_config(None, ["data.void=255"]).data).pairs()
    for one, two in zip(before, DataFolder(tmp_path / "out").pairs(), strict=True):
        labels = two.mask.decoding.labels(two.mask.source)
        assert np.array_equal(labels, one.mask.decoding.labels(one.mask.source))
        assert VOID in labels
    assert "void: " in " ".join(checked(tmp_path / "out").notes)


def test_what_was_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "data", dark)
    written(tmp_path / "data", tmp_path / "out", "data.invert=true")
    again = load_config(None, ["data.invert=true", "data.window=1,2", "data.fit=pad"]).data
    one = DataFolder(tmp_path / "out", settings=again).pairs()
    assert "not applied once more: data.invert, data.window" in capsys.readouterr().err
    assert np.array_equal(one[0].mask.read(), DataFolder(tmp_path / "out").pairs()[0].mask.read())
    assert one[0].mask.decoding.settings.fit == "pad"


def test_folders_of_classes_become_labels(tmp_path: Path) -> None:
    for number in range(4):
        each = build(tmp_path / "scenes", lambda s: white(s.large), count=4)[number]
        for part, mask in (("large", each.large), ("small", each.small)):
            path = tmp_path / f"data/masks/{part}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(white(mask)).save(path)
        (tmp_path / "data/images").mkdir(exist_ok=True)
        Image.fromarray(each.image).save(tmp_path / f"data/images/{number}.png")
    assert prepare(tmp_path / "data", tmp_path / "out")["classes"] == {1: "large", 2: "small"}
    require_same(tmp_path / "data", tmp_path / "out")
    require_same(tmp_path / "data", tmp_path / "out", resolution=64)


@pytest.mark.parametrize("mask", ["{}_polyp.png|{}_instrument.png", "masks/{}-polyp.png|masks/{}-instrument.png"])
@pytest.mark.parametrize("image", ["{}.jpg", "images/{}.png"])
def test_a_class_a_file_in_one_folder(tmp_path: Path, image: str, mask: str) -> None:
    scenes = build(tmp_path / "scenes", lambda s: white(s.large), count=4)
    for each in scenes:
        for path, drawn in zip(
            (image, *mask.split("|")), (each.image, white(each.large), white(each.small)), strict=True
        ):
            place = tmp_path / "data" / path.format(f"a{each.number}")
            place.parent.mkdir(parents=True, exist_ok=True)
            if each.number != 2 or "instrument" not in path:  # not every image has every class
                Image.fromarray(drawn).save(place, quality=100)
    result = prepare(tmp_path / "data", tmp_path / "out", class_files="polyp,instrument")
    assert result["classes"] == {1: "polyp", 2: "instrument"}
    for pair, each in zip(DataFolder(tmp_path / "out").pairs(), scenes, strict=True):
        stored = np.asarray(Image.open(pair.mask.path))
        assert np.array_equal(stored, each.labels if each.number != 2 else each.large)
    for words, line in (("polyp", "expected what the files"), ("polyp,vessel", "ends with vessel|has none of")):
        with pytest.raises(InputError, match=rf"(--class-files {words}.*)?({line})"):
            prepare(tmp_path / "data", tmp_path / "new", class_files=words)


def test_two_kinds_of_masks_are_still_refused_with_what_would_join_them(tmp_path: Path) -> None:
    for each in build(tmp_path / "scenes", lambda s: white(s.large), count=3):
        for name, drawn in (("", each.image), ("_disc_mask", white(each.large)), ("_cup_mask", white(each.small))):
            (tmp_path / "data").mkdir(exist_ok=True)
            Image.fromarray(drawn).save(tmp_path / f"data/a{each.number}{name}.png")
    with pytest.raises(InputError, match=r"two kinds of masks.*--class-files (disc_mask,cup_mask|cup_mask,disc_mask)$"):
        prepare(tmp_path / "data", tmp_path / "out")
    assert prepare(tmp_path / "data", tmp_path / "out", class_files="disc_mask,cup_mask")["classes"] == {
        1: "disc_mask",
        2: "cup_mask",
    }


# ---- groups and splits -----------------------------------------------------------------------------------------------


def patients(folder: Path, count: int = 24, of_each: int = 3) -> list[Scene]:
    scenes = build(folder, lambda s: white(s.large if s.number % 3 else s.small), count=count)
    for kind in ("images", "masks"):
        for each in scenes:
            path = folder / f"{kind}/{each.number:02d}.png"
            path.rename(path.with_name(f"p{each.number // of_each:02d}_{each.number:02d}.png"))
    return scenes


def test_groups_and_splits_are_drawn_by_whole_groups(tmp_path: Path) -> None:
    patients(tmp_path / "data")
    result = prepare(tmp_path / "data", tmp_path / "out", group_by="^(p[0-9]+)_", split="0.5,0.25,0.25", seed=3)
    assert result["groups"] == 8
    assert result["splits"] == {"train": 12, "val": 6, "test": 6}
    rows = read_jsonl(tmp_path / "out/pairs.jsonl")
    where: dict[str, set[str]] = {}
    for row in rows:
        where.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in where.values())
    lists = read_json(tmp_path / "out/splits.json")
    assert {name: sorted(Path(r["image"]).stem for r in rows if r["split"] == name) for name in lists} == lists
    assert checked(tmp_path / "out").splits == result["splits"]
    assert checked(tmp_path / "out").groups == 8
    other = prepare(tmp_path / "data", tmp_path / "other", group_by="^(p[0-9]+)_", split="0.5,0.25,0.25", seed=4)
    assert other["splits"] == result["splits"]
    assert read_json(tmp_path / "other/splits.json") != lists


def test_sets_are_alike_in_size_of_lesion() -> None:
    random = np.random.default_rng(0)
    names = [f"n{i}" for i in range(600)]
    groups = {name: f"g{int(random.integers(80))}" for name in names}
    sizes = {name: 0.0 if random.random() < 0.25 else float(random.gamma(1.0, 0.08)) for name in names}
    for seed in range(5):
        sets = allot(names, groups, sizes, {"train": 0.7, "val": 0.1, "test": 0.2}, seed)
        for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert abs(len(sets[name]) / 600 - share) < 0.03
            drawn = np.array([sizes[one] for one in sets[name]])
            assert abs((drawn == 0).mean() - 0.25) < 0.06
            assert abs(drawn.mean() / np.mean(list(sizes.values())) - 1) < 0.25
        held = [{groups[one] for one in found} for found in sets.values()]
        assert sum(map(len, held)) == len(set.union(*held))


def test_every_set_gets_a_group_however_few_there_are() -> None:
    names = [f"{group}{i}" for group in "abc" for i in range(9)]
    sets = allot(names, {name: name[0] for name in names}, dict.fromkeys(names, 0.1), parse_shares("0.9,0.05,0.05"), 0)
    assert {name: len(held) for name, held in sets.items()} == {"train": 9, "val": 9, "test": 9}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"split": "0.8,0.1,0.2"}, r"--split 0\.8,0\.1,0\.2: the shares sum to 1\.1, not to 1"),
        ({"split": "80,10,10"}, r"--split 80,10,10: expected the shares of train, val and test"),
        ({"split": "a"}, "--split a: expected the shares"),
        ({"split": "1,0,0"}, "puts all pairs into one set"),
        ({"split": "0.8,0.1,0.1", "group_by": "^(p)"}, "3 sets need as many groups, and there are 1"),
        ({"group_by": "^(q.)"}, r"--group-by \^\(q\.\): fits no name; it does not fit p00_00, p00_01, p00_02, \.\.\."),
        ({"group_by": "^(p0[0-6])"}, "fits only 21 of 24 names; it does not fit p07_21, p07_22, p07_23;"),
        ({"group_by": "p.*_"}, r"has no parentheses .*for example '\^"),
        ({"group_by": "(p"}, "not a regular expression"),
        ({"labels": "1"}, "--labels 1: expected VALUE=NAME"),
        ({"labels": "1=a,1=b"}, "--labels 1=a,1=b: expected VALUE=NAME, each once"),
        ({"labels": "7=a"}, "--labels 7=a: the masks hold"),
        ({"foreground": "polyp"}, r"data\.foreground = polyp"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"axis": "coronal"}, "--axis: is for NIfTI, not for plain images"),
        ({"keep_names": True}, "--keep-names: is for DICOM and NIfTI, not for plain images"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    patients(tmp_path / "data")
    with pytest.raises(InputError, match=line) as refused:
        prepare(tmp_path / "data", tmp_path / "out", **options)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_splits_of_the_folder_are_kept_and_no_others_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patients(tmp_path / "data", 6)
    lists = {"train": ["p00_00", "p00_01", "p01_03"], "test": ["p00_02"]}
    (tmp_path / "data/splits.json").write_text(json.dumps(lists))
    with pytest.raises(InputError, match=r"splits of its own \(train 3, test 1\); leave --split out"):
        prepare(tmp_path / "data", tmp_path / "out", split="0.8,0.2")
    prepare(tmp_path / "data", tmp_path / "out", group_by="^(p..)")
    assert read_json(tmp_path / "out/splits.json") == lists
    assert "1 groups have pairs in several splits of the folder, as p00 has" in capsys.readouterr().err
    (tmp_path / "data/splits.json").write_text(json.dumps({"train": ["p00_00"], "test": ["p00_00"]}))
    with pytest.raises(InputError, match=r"splits\.json: p00_00 is in train and in test"):
        prepare(tmp_path / "data", tmp_path / "again")


def test_licence_and_source_are_told(tmp_path: Path) -> None:
    build(tmp_path / "data", lambda s: white(s.large), count=3)
    prepare(tmp_path / "data", tmp_path / "out", licence="CC BY 4.0", source="Ward 5")
    content = read_json(tmp_path / "out/dataset.json")
    assert (content["licence"], content["source"], content["pairs"]) == ("CC BY 4.0", "Ward 5", 3)


# ---- whose the folder is, interruption, archives ---------------------------------------------------------------------


def test_a_killed_call_goes_on_and_leaves_what_an_undisturbed_one_leaves(tmp_path: Path) -> None:
    patients(tmp_path / "data", 60)
    options = ["--group-by", "^(p..)", "--split", "0.8,0.2"]
    command = [sys.executable, "-m", "siamese_diffusion", "prepare", str(tmp_path / "data"), *options, "--out"]
    with subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL) as process:
        manifest = tmp_path / "out/pairs.jsonl"
        while process.poll() is None and not (manifest.exists() and manifest.stat().st_size > 500):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    with manifest.open("a") as file:
        file.write('{"image": "images/p0')  # a line that was cut
    with pytest.raises(InputError, match=r"`prepare` has not finished it; the same command with --resume"):
        DataFolder(tmp_path / "out").pairs()
    with pytest.raises(InputError, match="already holds pairs; add --resume"):
        prepare(tmp_path / "data", tmp_path / "out", group_by="^(p..)", split="0.8,0.2")
    with pytest.raises(InputError, match="from other input"):
        prepare(tmp_path / "data", tmp_path / "out", group_by="^(p.)", split="0.8,0.2", resume=True)
    prepare(tmp_path / "data", tmp_path / "out", group_by="^(p..)", split="0.8,0.2", resume=True)
    prepare(tmp_path / "data", tmp_path / "whole", group_by="^(p..)", split="0.8,0.2")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    prepare(tmp_path / "data", tmp_path / "out", group_by="^(p..)", split="0.8,0.2", resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("out", ["data", "data/new", "data/images/new"])
def test_it_never_writes_into_what_it_reads(tmp_path: Path, out: str) -> None:
    build(tmp_path / "data", lambda s: white(s.large), count=3)
    before = tree(tmp_path / "data")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"--out .*(is the folder of|lies inside)"):
            prepare(tmp_path / "data", tmp_path / out, resume=resume)
    assert tree(tmp_path / "data") == before


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    build(tmp_path / "data", lambda s: white(s.large), count=8)
    path = tmp_path / "data/images/05.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"05\.png: the image is damaged"):
        prepare(tmp_path / "data", tmp_path / "out")
    assert len(read_jsonl(tmp_path / "out/pairs.jsonl")) <= 5
    with pytest.raises(InputError, match="has not finished it"):
        DataFolder(tmp_path / "out")


def test_an_archive_is_unpacked_for_the_while(tmp_path: Path) -> None:
    build(tmp_path / "data", lambda s: white(s.large), count=3)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            archive.write(path, Path("top") / path.relative_to(tmp_path / "data"))
    prepare(tmp_path / "data.zip", tmp_path / "out")
    require_same(tmp_path / "data", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.zip", "out"]
    with pytest.raises(InputError, match=r"data\.zip: is not a folder but an archive; `siamese-diffusion prepare "):
        DataFolder(tmp_path / "data.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../out.png", b"x")
    with pytest.raises(InputError, match="would land outside"):
        prepare(tmp_path / "bad.zip", tmp_path / "bad")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("a/readme.txt", b"x")
    with pytest.raises(InputError, match=r"none\.zip: no image-mask pairs"):
        prepare(tmp_path / "none.zip", tmp_path / "bad")
    shutil.rmtree(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "data", "data.zip", "none.zip"]
    (tmp_path / "no.tar.gz").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"no\.tar\.gz: ") as refused:
        prepare(tmp_path / "no.tar.gz", tmp_path / "bad")
    assert "--archive" not in str(refused.value)


def test_work_is_done_in_order_and_no_more_than_a_few_wait() -> None:
    begun: list[int] = []
    function: Callable[[int], int] = lambda item: begun.append(item) or item  # type: ignore[func-returns-value]  # noqa: E731
    for taken, result in enumerate(in_order(function, range(100), workers=3)):
        assert result == taken
        assert len(begun) <= taken + 2 * 3 + 1


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    build(tmp_path / "data", lambda s: white(s.large), count=3)
    rows = [
        {"image": f"images/0{i}.png", "mask": f"masks/0{i}.png", "name": name} for i, name in enumerate(("a/1", "b"))
    ]
    (tmp_path / "data/pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "data", tmp_path / "out")
    assert [pair.name for pair in DataFolder(tmp_path / "out").pairs()] == ["a-1", "b"]
    rows[1]["name"] = "A:1"
    (tmp_path / "data/pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"would have the file of (A:1|a/1); rename"):
        prepare(tmp_path / "data", tmp_path / "again")


def test_groups_by_name() -> None:
    assert group_by(r"_(\d+)", ["a_1", "b_22_3"]) == {"a_1": "1", "b_22_3": "22"}
