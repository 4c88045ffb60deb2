"""Several classes in one mask: how folders are read, kept at a size, varied and written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.config import Config, DataConfig, load_config, update
from siamese_diffusion.data.arrays import map_pairs, require_lesions
from siamese_diffusion.data.check import check
from siamese_diffusion.data.classes import hint_colours, planes, present, prompt_for
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import square
from siamese_diffusion.data.masks import transform_mask
from siamese_diffusion.data.prepare import prepare
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError

CELLS = "nucleus=255,cytoplasm=128"


def cells(folder: Path, count: int = 4, values: tuple[int, int] = (255, 128), void: int | None = None) -> Path:
    """Discs of one value within discs of another."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    y, x = np.mgrid[:40, :40]
    for i in range(count):
        away = np.hypot(x - 18 - i, y - 20)
        mask = np.where(away < 5, values[0], np.where(away < 10 + i, values[1], 0)).astype(np.uint8)
        if void is not None:
            mask[:3] = void
        image = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


def folder_of(path: Path, classes: str, *more: str) -> DataFolder:
    return DataFolder(path, settings=load_config(None, [f"data.classes={classes}", *more]).data)


def test_masks_are_label_maps_in_the_order_of_the_classes(tmp_path: Path) -> None:
    data = cells(tmp_path / "d")
    stored = np.asarray(Image.open(data / "masks" / "0.png"))
    found = folder_of(data, CELLS).pairs()[0].read()[1]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, (stored == 255) + 2 * (stored == 128))
    turned = folder_of(data, "cytoplasm=128,nucleus=255").pairs()[0].read()[1]
    np.testing.assert_array_equal(turned, (stored == 128) + 2 * (stored == 255))


def test_without_classes_everything_marked_is_one(tmp_path: Path) -> None:
    mask = DataFolder(cells(tmp_path / "d")).pairs()[0].read()[1]
    assert mask.dtype == np.bool_
    assert mask.any()


def test_a_label_that_is_no_class_is_background_and_so_is_void(tmp_path: Path) -> None:
    data = cells(tmp_path / "d", values=(2, 1), void=3)
    mask = folder_of(data, "inner=2,outer=1", "data.void=3").pairs()[0].read()[1]
    assert not mask[:3].any()
    assert set(np.unique(mask)) == {0, 1, 2}
    data = cells(tmp_path / "three", values=(2, 1), void=3)
    assert set(np.unique(folder_of(data, "inner=2,rim=3").pairs()[0].read()[1])) == {0, 1, 2}


@pytest.mark.parametrize("values", [(1, 2), (2, 1), (1, 255), (7, 9), (200, 100)])
def test_values_that_are_named_are_no_riddle(tmp_path: Path, values: tuple[int, int]) -> None:
    data = cells(tmp_path / "d", values=values)
    mask = folder_of(data, f"a={values[0]},b={values[1]}").pairs()[0].read()[1]
    stored = np.asarray(Image.open(data / "masks" / "0.png"))
    np.testing.assert_array_equal(mask, (stored == values[0]) + 2 * (stored == values[1]))


def test_colours_are_classes(tmp_path: Path) -> None:
    data = cells(tmp_path / "d")
    for path in (data / "masks").iterdir():
        grey = np.asarray(Image.open(path))
        colours = np.zeros((*grey.shape, 3), np.uint8)
        colours[grey == 255], colours[grey == 128] = (255, 0, 0), (0, 255, 0)
        Image.fromarray(colours).save(path)
    mask = folder_of(data, "red='#ff0000',green=#00ff00".replace("'", "")).pairs()[0].read()[1]
    np.testing.assert_array_equal(mask[20, [18, 26, 0]], [1, 2, 0])


def test_a_file_that_lacks_a_class_is_read_as_the_others_are(tmp_path: Path) -> None:
    data = cells(tmp_path / "d")
    for i in range(4):  # no mask of the folder holds a nucleus
        path = data / "masks" / f"{i}.png"
        mask = np.array(Image.open(path))
        mask[mask == 255] = 0
        Image.fromarray(mask).save(path)
    folder = folder_of(data, CELLS)
    pairs = folder.pairs()
    assert set(np.unique(pairs[0].read()[1])) == {0, 2}
    masks = map_pairs(pairs, 32, tmp_path / "cache")[1]
    assert masks.dtype == np.uint8
    with pytest.raises(InputError, match="none of its 4 masks shows nucleus"):
        require_lesions(masks, folder)


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ("nucleus=255", "expected two names or more"),
        ("a=255,a=128", "names a class twice"),
        ("=255,b=128", "expected names"),
        (",".join(f"c{i}={i}" for i in range(1, 40)), "names 39 classes"),
    ],
)
def test_classes_that_cannot_be_meant(classes: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        load_config(None, [f"data.classes={classes}"])


def test_settings_that_do_not_go_together() -> None:
    for other in ("data.foreground=[255]", "data.invert=true"):
        with pytest.raises(InputError, match=r"data\.classes"):
            load_config(None, [f"data.classes={CELLS}", other])
    with pytest.raises(InputError, match=r"class_dropout is for masks of several classes"):
        load_config(None, ["data.class_dropout=0.5"])
    assert load_config(None, ["data.classes={nucleus: 255, cytoplasm: 128}"]).data.classes == tuple(CELLS.split(","))


@pytest.mark.parametrize("classes", ["all", "nucleus,cytoplasm", "nucleus=0,cytoplasm=128", "a=128,b=128"])
def test_names_that_the_folder_does_not_know_are_refused(tmp_path: Path, classes: str) -> None:
    pair = folder_of(cells(tmp_path / "d"), classes).pairs()[0]
    with pytest.raises(InputError, match=r"data\.classes ="):
        pair.read()


def test_a_prepared_folder_knows_its_names(tmp_path: Path) -> None:
    data = cells(tmp_path / "d")
    prepare(data, tmp_path / "p", labels="255=nucleus,128=cytoplasm")
    before = folder_of(data, CELLS).pairs()
    for classes in ("nucleus,cytoplasm", CELLS):  # a stored value no longer counts
        after = folder_of(tmp_path / "p", classes).pairs()
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one.read()[1], other.read()[1])
    every = folder_of(tmp_path / "p", "all")
    assert every.decoding.class_names == ("cytoplasm", "nucleus")
    assert "classes: cytoplasm, nucleus" in every.decoding.describe()
    with pytest.raises(InputError, match="hold cytoplasm, nucleus"):
        folder_of(tmp_path / "p", "nucleus,other").pairs()[0].read()


def test_a_prepared_binary_folder_has_no_classes(tmp_path: Path) -> None:
    prepare(cells(tmp_path / "d"), tmp_path / "p", Config(data=DataConfig(foreground=(255,))))
    with pytest.raises(InputError, match=r"data\.classes = nucleus"):
        folder_of(tmp_path / "p", "nucleus,cytoplasm").pairs()[0].read()


def test_a_label_keeps_its_area_at_another_size() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[8:40, 8:40] = 2
    labels[16:24, 16:24] = 1
    small = square(labels, 16)
    assert [int((small == label).sum()) for label in (1, 2)] == [4, 60]
    np.testing.assert_array_equal(square(labels, 64), labels)
    assert set(np.unique(square(labels, 50))) == {0, 1, 2}  # no label between two others is made up


def test_a_label_map_of_one_class_is_resized_as_a_boolean_mask_is() -> None:
    mask = np.random.default_rng(0).random((57, 41)) > 0.6
    for size in (16, 32, 70):
        np.testing.assert_array_equal(square(mask.astype(np.uint8), size), square(mask, size))


def test_classes_are_varied_together() -> None:
    labels = np.zeros((48, 48), np.uint8)
    labels[16:32, 16:32], labels[20:26, 20:26] = 2, 1
    for seed in range(5):
        moved, told = transform_mask(labels, "flip-scale-shift-rotate", seed, "a", 0)
        union, same = transform_mask(labels != 0, "flip-scale-shift-rotate", seed, "a", 0)
        assert told == same
        assert moved.dtype == np.uint8
        differ = np.mean((moved != 0) != union)
        assert differ < 0.02
        assert set(np.unique(moved)) == {0, 1, 2}
    np.testing.assert_array_equal(transform_mask(labels, "none", 0, "a", 0)[0], labels)


def test_colours_are_apart_and_one_class_is_white() -> None:
    np.testing.assert_array_equal(hint_colours(1), [[0, 0, 0], [1, 1, 1]])
    colours = hint_colours(26)
    away = np.abs(colours[:, None] - colours[None]).max(-1) + np.eye(27)
    assert colours.shape == (27, 3)
    assert away.min() >= 0.5
    np.testing.assert_array_equal(hint_colours(5), colours[:6])  # a class keeps its colour


def test_planes_and_prompts() -> None:
    labels = np.array([[0, 1], [3, 1]], np.uint8)
    np.testing.assert_array_equal(planes(labels, 3).sum((1, 2)), [2, 0, 1])
    assert present(labels, ["a", "b", "c"]) == ["a", "c"]
    assert [prompt_for(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "A photo of a",
        "A photo of a and b",
        "A photo of a, b and c",
    ]


def test_label_maps_are_written_as_they_are(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    with PairWriter(tmp_path / "out") as writer:
        writer.write("a", np.zeros((2, 2, 3), np.uint8), labels, "", {"synthetic": True})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")), labels)


def test_settings_are_kept() -> None:
    config = update(Config(), "data", classes=CELLS)
    assert update(config, "train", steps=5).data.classes == tuple(CELLS.split(","))


def test_check_refuses_what_training_would(tmp_path: Path) -> None:
    data = cells(tmp_path / "d")
    assert check(data, load_config(None, [f"data.classes={CELLS}"]).data).usable
    found = check(data, load_config(None, ["data.classes=nucleus=255,other=7"]).data)
    assert not found.usable
    assert any("shows other" in problem.detail for problem in found.problems)
