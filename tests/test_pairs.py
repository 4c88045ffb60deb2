import json
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decoding import PLAIN, Decoding, MaskSource
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import Mask, read_image, square
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError

GREY = np.tile(np.linspace(0, 255, 12).astype(np.uint8), (8, 1))  # (8, 12)
DISC = GREY > 127
FINDERS = (DataFolder.pairs, DataFolder.images, DataFolder.masks)


def save(path: Path, array: Any = GREY, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def read_mask(path: Path) -> Mask:
    """A mask that comes without a folder."""
    return PLAIN.mask(MaskSource((path,)))


def layout(folder: Path, kind: str) -> Path:
    """Two pairs, a and b, in one of the field's layouts."""
    places = {
        "images and masks": ("images/{}.jpg", "masks/{}.PNG"),
        "image and mask": ("image/{}.png", "mask/{}.png"),
        "other extensions": ("images/{}.TIF", "masks/{}.bmp"),
        "pranet": ("TrainDataset/image/{}.png", "TrainDataset/mask/{}.png"),
        "isic two folders": (
            "ISIC2018_Task1-2_Training_Input/ISIC_{}.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_{}_segmentation.png",
        ),
        "isic images and masks": ("images/ISIC_{}.jpg", "masks/ISIC_{}_segmentation.png"),
        "isic one folder": ("ISIC_{}.jpg", "ISIC_{}_segmentation.png"),
    }
    image, mask = places[kind]
    for name in "ab":
        save(folder / image.format(name))
        save(folder / mask.format(name), DISC)
    (folder / image).parent.joinpath("Thumbs.db").write_bytes(b"x")
    (folder / mask).parent.joinpath(".hidden.png").write_bytes(b"x")
    return folder


LAYOUTS = (
    "images and masks",
    "image and mask",
    "other extensions",
    "pranet",
    "isic two folders",
    "isic images and masks",
    "isic one folder",
)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts(tmp_path: Path, kind: str) -> None:
    pairs = DataFolder(layout(tmp_path, kind)).pairs()
    prefix = "ISIC_" if "isic" in kind else ""
    assert [pair.name for pair in pairs] == [f"{prefix}a", f"{prefix}b"]
    for pair in pairs:
        image, mask = pair.read()
        assert image.shape == (8, 12, 3)
        assert np.array_equal(mask, DISC)
    assert len(DataFolder(tmp_path).images()) == 2
    assert [name for name, _ in DataFolder(tmp_path).masks()] == [pair.name for pair in pairs]


def test_pranet_test_sets(tmp_path: Path) -> None:
    layout(tmp_path, "pranet")
    for name in ("ETIS", "Kvasir"):
        save(tmp_path / f"TestDataset/{name}/images/1.png")
        save(tmp_path / f"TestDataset/{name}/masks/1.png", DISC)
    assert list(DataFolder(tmp_path).test_sets) == ["ETIS", "Kvasir"]
    assert [pair.name for pair in DataFolder(tmp_path).pairs("test")] == ["ETIS-1", "Kvasir-1"]
    assert [pair.name for pair in DataFolder(tmp_path).pairs("train")] == ["a", "b"]
    assert [pair.name for pair in DataFolder(tmp_path / "TestDataset/ETIS").pairs()] == ["1"]
    top = tmp_path / "TestDataset"
    pictures = [ImageFile(top / "ETIS/images/1.png"), ImageFile(top / "Kvasir/images/1.png")]
    assert DataFolder(tmp_path).images("test") == pictures
    assert [image.path.name for image in DataFolder(tmp_path).images("train")] == ["a.png", "b.png"]
    for split in (None, "test"):
        assert [pair.image for pair in DataFolder(top).pairs(split)] == pictures
        assert DataFolder(top).images(split) == pictures
        assert [name for name, _ in DataFolder(top).masks(split)] == ["ETIS-1", "Kvasir-1"]
    for find in FINDERS:
        with pytest.raises(InputError, match="no image-mask pairs"):
            find(DataFolder(top), "train")


def test_a_folder_that_is_only_called_testdataset(tmp_path: Path) -> None:
    folder = layout(tmp_path / "TestDataset", "images and masks")
    assert DataFolder(folder).test_sets == {}
    assert [pair.name for pair in DataFolder(folder).pairs("test")] == ["a", "b"]


@pytest.mark.parametrize("find", FINDERS)
def test_a_broken_manifest_is_never_taken_for_a_plain_folder(tmp_path: Path, find: Any) -> None:
    layout(tmp_path, "image and mask")
    rows = [{"image": f"image/{name}.png", "mask": f"mask/{name}.png"} for name in "abc"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"line 3 names image/c\.png, which is not there, and 1 more.*check"):
        find(DataFolder(tmp_path))
    (tmp_path / "pairs.jsonl").write_text('{"image": "image/a.png"}\n')
    with pytest.raises(InputError, match="line 1 has no 'mask'"):
        find(DataFolder(tmp_path))


def test_the_originals_manifest(tmp_path: Path) -> None:
    save(tmp_path / "any/1.png")
    save(tmp_path / "where/1m.png", DISC)
    row = {"source": "where/1m.png", "target": "any/1.png", "prompt": "A photo of nevus"}
    (tmp_path / "prompt.json").write_text(json.dumps(row) + "\n")
    (pair,) = DataFolder(tmp_path).pairs()
    assert (pair.name, pair.prompt, pair.extra) == ("1", "A photo of nevus", {})
    (tmp_path / "where/1m.png").unlink()
    with pytest.raises(InputError, match=r"line 1 names where/1m\.png"):
        DataFolder(tmp_path).pairs()
    (tmp_path / "prompt.json").write_text("{oops\n{}\n")
    with pytest.raises(InputError, match="line 1 is not valid JSON"):
        DataFolder(tmp_path).pairs()


def test_splits_and_nested_limits(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"images/{i}.png")
        save(tmp_path / f"masks/{i}.png", DISC)
    (tmp_path / "splits.json").write_text(json.dumps({"train": [str(i) for i in range(8)], "test": ["8", "9"]}))
    assert DataFolder(tmp_path).lists == {"train": [str(i) for i in range(8)], "test": ["8", "9"]}
    assert [pair.name for pair in DataFolder(tmp_path).pairs("test")] == ["8", "9"]
    assert len(DataFolder(tmp_path).pairs()) == 10
    drawn = [{pair.name for pair in DataFolder(tmp_path).pairs("train", limit)} for limit in (2, 5, 8)]
    assert drawn[0] < drawn[1] < drawn[2]
    assert "9" not in drawn[2]
    assert {p.name for p in DataFolder(tmp_path).pairs("train", 5, 1)} != drawn[1]
    with pytest.raises(InputError, match=r"data\.split = holdout.*train, test"):
        DataFolder(tmp_path).pairs("holdout")
    with pytest.raises(InputError, match=r"data\.limit = 9: .* 8 pairs in train"):
        DataFolder(tmp_path).pairs("train", 9)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["77"]}))
    with pytest.raises(InputError, match="77"):
        DataFolder(tmp_path).pairs("train")


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda f: (f / "masks/a.PNG").unlink(), r"images/a\.jpg: has no mask"),
        (lambda f: (f / "images/b.jpg").unlink(), r"masks/b\.PNG: has no image"),
        (lambda f: save(f / "images/a.png"), r"images/a\.png: has the base name"),
    ],
)
def test_pairs_that_do_not_match(tmp_path: Path, build: Any, word: str) -> None:
    build(layout(tmp_path, "images and masks"))
    with pytest.raises(InputError, match=f"{word}.*siamese-diffusion check"):
        DataFolder(tmp_path).pairs()


def test_empty_and_absent_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        DataFolder(tmp_path / "absent").pairs()
    with pytest.raises(InputError, match="no image-mask pairs found"):
        DataFolder(tmp_path).pairs()
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="no image-mask pairs"):
        DataFolder(tmp_path).pairs()
    for find in (DataFolder.images, DataFolder.masks):
        with pytest.raises(InputError, match="no image-mask pairs"):
            find(DataFolder(tmp_path))


def test_plain_folders_of_images_and_masks(tmp_path: Path) -> None:
    save(tmp_path / "deep/er/1.png")
    y, x = np.mgrid[:64, :64]
    disc = ((np.hypot(y - 30, x - 34) < 20) * 255).astype(np.uint8)
    save(tmp_path / "2.jpg", disc, quality=95)
    assert [image.path.name for image in DataFolder(tmp_path).images()] == ["2.jpg", "1.png"]
    assert [name for name, _ in DataFolder(tmp_path).masks()] == ["2"]
    for name in range(8):
        save(tmp_path / f"{name}.png" if name != 2 else tmp_path / "8.png", disc)
    drawn = [{name for name, _ in DataFolder(tmp_path).masks(limit=limit)} for limit in (2, 5)]
    assert [len(names) for names in drawn] == [2, 5]
    assert drawn[0] < drawn[1]
    with pytest.raises(InputError, match=r"data\.limit = 10: .* has 9 masks"):
        DataFolder(tmp_path).masks(limit=10)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_is_repeated(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read_image(save(tmp_path / f"x.{suffix}")), np.repeat(GREY[..., None], 3, 2))


def test_palette_is_resolved(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert read_image(save(tmp_path / "x.png", palette)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    mask = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    assert read_mask(save(tmp_path / "m.png", mask)).tolist() == [[False, True]]


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], np.uint8)
    assert read_image(save(tmp_path / "x.png", rgba)).tolist() == [[[200, 100, 50], [0, 0, 0]]]


def test_mask_drawn_by_alpha(tmp_path: Path) -> None:
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, 1, 3] = 255
    assert read_mask(save(tmp_path / "x.png", rgba)).tolist() == [[False, True]]


@pytest.mark.parametrize(("highest", "scale"), [(4095, 4095), (65535, 65535), (5000, 65535), (900, 4095)])
def test_16_bit(tmp_path: Path, highest: int, scale: int) -> None:
    path = save(tmp_path / "x.png", np.array([[0, highest // 2, highest]], np.uint16))
    expected = np.round(np.array([0, highest // 2, highest]) * 255 / scale)
    assert read_image(path)[0, :, 0].tolist() == expected.tolist()


def test_floating_point_mask(tmp_path: Path) -> None:
    values = np.array([[0.4, 0.7, 0.9, np.nan]], np.float32)
    assert read_mask(save(tmp_path / "x.tif", values)).tolist() == [[False, True, True, False]]


def test_floating_point_tiff(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "x.tif", np.array([[0, 0.5, 1]], np.float32)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "array",
    [
        DISC,
        DISC.astype(np.uint8) * 255,
        DISC.astype(np.uint8),
        DISC.astype(np.uint16) * 65535,
        DISC.astype(np.uint16),
        np.repeat(DISC[..., None].astype(np.uint8) * 255, 3, 2),
    ],
)
def test_masks_of_every_kind(tmp_path: Path, array: Any) -> None:
    assert np.array_equal(read_mask(save(tmp_path / "x.png", array)), DISC)


def test_mask_threshold_is_127(tmp_path: Path) -> None:
    source = MaskSource((save(tmp_path / "x.png", np.array([[127, 128]], np.uint8)),))
    with pytest.raises(InputError, match=r"x\.png: .* nowhere 0.* 127 \(50\.0 %\), 128"):
        PLAIN.mask(source)
    assert Decoding(DataConfig(mask_coding="binary"), masks=[source]).mask(source).tolist() == [[False, True]]


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    assert read_image(save(tmp_path / "x.jpg", GREY, exif=exif)).shape == (12, 8, 3)


@pytest.mark.parametrize("keep", [0, 20, 90])
def test_damaged_files_are_named(tmp_path: Path, keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    path = save(tmp_path / "torn.png", noise)
    path.write_bytes(path.read_bytes()[:keep])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"torn\.png"):
            read(path)


def test_size_mismatch_names_both(tmp_path: Path) -> None:
    layout(tmp_path, "image and mask")
    save(tmp_path / "mask/b.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(InputError, match=r"mask/b\.png: is 6 x 5.*image/b\.png is 12 x 8"):
        DataFolder(tmp_path).pairs()[1].read()


def test_square_keeps_the_lesions_area() -> None:
    mask = np.zeros((90, 120), bool)
    mask[30:60, 40:80] = True
    small = square(mask, 32)
    assert small.shape == (32, 32)
    assert small.dtype == np.bool_
    assert small.mean() == pytest.approx(mask.mean(), abs=0.02)
    assert square(np.zeros((9, 7, 3), np.uint8), 16).shape == (16, 16, 3)


def write(folder: Path, names: list[str], resume: bool = False) -> None:
    with PairWriter(folder, resume) as writer:
        for name in names:
            if name not in writer.done:
                image = np.full((4, 4, 3), ord(name[0]), np.uint8)
                writer.write(name, image, image[..., 0] > 98, "A photo of polyp", {"seed": ord(name[0])})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_written_pairs_are_found_again(tmp_path: Path) -> None:
    write(tmp_path, ["b", "a"])
    first, second = DataFolder(tmp_path).pairs()
    assert (first.name, first.prompt, first.extra) == ("a", "A photo of polyp", {"seed": 97})
    image, mask = second.read()
    assert image[0, 0, 0] == 98
    assert not mask.any()


def test_killed_writer_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "whole", ["a", "b", "c", "d"])
    cut = tmp_path / "cut"
    write(cut, ["c", "a", "d"])
    lines = (cut / "pairs.jsonl").read_text().splitlines(keepends=True)
    (cut / "pairs.jsonl").write_text(lines[1] + lines[0] + lines[2][:20])  # the last line is torn
    (cut / ".pairs.0.begun").write_text("b\n")
    (cut / "images/b.png").write_bytes(b"of another version")
    (cut / "images/a.png").unlink()
    (cut / "masks/.123.b.png").write_bytes(b"half")
    (cut / ".123.pairs.jsonl").write_bytes(b"half")
    with pytest.raises(InputError, match="already holds 2 pairs"):
        PairWriter(cut)
    assert PairWriter(cut, resume=True).done == {"c"}
    write(cut, ["a", "b", "c", "d"], resume=True)
    assert contents(cut) == contents(tmp_path / "whole")


class Killed(BaseException):
    """Nothing of the package catches it, as nothing catches a kill."""


def test_a_writer_may_be_killed_after_any_call_that_changes_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left is known as its own without being the same, and files of the user's are not touched."""
    write(tmp_path / "whole", ["a", "b"])
    left = 0

    def stopping(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return change(*arguments, **keywords)

        return call

    for after in count():
        cut, left = tmp_path / str(after), after
        with monkeypatch.context() as patch, suppress(Killed):
            for owner, name in (
                (Path, "replace"),
                (Path, "write_text"),
                (Path, "unlink"),
                (Image.Image, "save"),
                (os, "fsync"),
            ):
                patch.setattr(owner, name, stopping(getattr(owner, name)))
            write(cut, ["a", "b"])
        listed = (cut / "pairs.jsonl").read_text() if (cut / "pairs.jsonl").exists() else ""
        for path in (cut / "images").glob("[ab].png"):
            if path.name not in listed:
                path.write_bytes(b"as another version of Pillow would write it")
        mine = cut / "images/mine.png"
        begun = mine.parent.is_dir()
        if begun:
            mine.write_bytes(b"mine")
        write(cut, ["a", "b"], resume=True)
        if begun:
            assert mine.read_bytes() == b"mine"
            mine.unlink()
        assert contents(cut) == contents(tmp_path / "whole"), after
        if left >= 0:
            break
    assert after > 20, "ended before it was killed everywhere"


def test_pictures_that_it_did_not_write_are_neither_removed_nor_replaced(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    image = (tmp_path / "images/a.png").read_bytes()
    for name, content in (("images/b.png", b"mine"), ("images/c.png", b"mine"), ("masks/mine.tif", b"mine")):
        (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=r"images/b\.png: is there already, is another picture, and is not in pairs\.jsonl"
    ):
        write(tmp_path, ["a", "b"], resume=True)
    assert before.items() <= contents(tmp_path).items()
    (tmp_path / "pairs.jsonl").write_text("")  # then its own are not known as its own, but the same
    (tmp_path / "images/b.png").unlink()
    write(tmp_path, ["a"], resume=True)
    assert (tmp_path / "images/a.png").read_bytes() == image
    assert (tmp_path / "images/c.png").read_bytes() == b"mine"


@pytest.mark.parametrize("manifest", [None, "x/a.png", "images/a.jpg"])
@pytest.mark.parametrize("resume", [True, False])
def test_nobodys_own_data_is_touched(tmp_path: Path, manifest: str | None, resume: bool) -> None:
    save(tmp_path / (manifest or "images/a.png"))
    save(tmp_path / "images/other.png")
    save(tmp_path / "masks/a.png", DISC)
    if manifest:
        (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": manifest, "mask": "masks/a.png"}) + "\n")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"--out {tmp_path}: holds files that this program did not write"):
        PairWriter(tmp_path, resume)
    assert contents(tmp_path) == before


def test_stopped_before_the_first_pair(tmp_path: Path) -> None:
    PairWriter(tmp_path)
    (tmp_path / "images/.123.a.png").write_bytes(b"half")
    write(tmp_path, ["a"], resume=True)
    assert sorted(contents(tmp_path)) == ["images/a.png", "inputs.json", "masks/a.png", "metadata.jsonl", "pairs.jsonl"]


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match=r"--out .*out: the folder cannot be written"):
        PairWriter(tmp_path / "out")


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with PairWriter(tmp_path) as writer:
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"images/a\.png: no space left on the disk"):
            writer.write("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool), "", {})
    assert not list((tmp_path / "images").iterdir())
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"pairs\.jsonl: no space left on the disk"):
        writer.close()


@pytest.mark.real
def test_kvasir() -> None:
    folder = Path(__file__).parents[2] / "shared/data/kvasir-seg"
    if not folder.exists():
        pytest.skip("the real pairs are not here")
    assert [len(DataFolder(folder).pairs(split)) for split in ("train", "val", "test")] == [800, 100, 100]
    image, mask = DataFolder(folder).pairs()[0].read()
    assert image.shape[:2] == mask.shape
    assert 0 < mask.mean() < 1
