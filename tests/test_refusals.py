"""`check` ends with status 2 wherever `train`, or `segment` on the folder's own splits, would refuse, and nowhere
else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_layouts import RELEASES, build, disc, photograph, save

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.arrays import load_pairs, require_lesions
from siamese_diffusion.data.check import check
from siamese_diffusion.data.decoding import announce
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.splits import own_test_pairs, require_disjoint, validation_list
from siamese_diffusion.errors import InputError

NAMES = [f"{i}x" for i in range(8)]
Spoil = Callable[[Path], object]


def whole(folder: Path, **lists: list[str]) -> Path:
    build(folder, [f"images/{name}.png" for name in NAMES], [f"masks/{name}.png" for name in NAMES])
    if lists:
        (folder / "splits.json").write_text(json.dumps(lists))
    return folder


def refused(path: Path, settings: DataConfig) -> str:
    """What `train` and `segment` say of a folder as they read it; empty where they take it."""
    try:
        folder = DataFolder(path, "--data", settings)
        pairs = folder.pairs(settings.split, settings.limit, settings.limit_seed)
        _, masks = load_pairs(pairs, settings.resolution)
        require_lesions(masks, folder)
        announce(folder.decoding, folder.path)
        others = [*(validation_list(folder) or []), *own_test_pairs(folder)]
        if others:
            load_pairs(others, settings.resolution)
        require_disjoint([*pairs, *(validation_list(folder) or [])], {"test": own_test_pairs(folder)})
    except InputError as error:
        return str(error)
    return ""


def found(path: Path, settings: DataConfig) -> str:
    """What `check` says is fatal; empty where it ends with status 0."""
    try:
        report = check(path, settings)
    except InputError as error:
        return str(error)
    return "; ".join(f"{problem.kind}: {problem.detail}" for problem in report.problems if problem.fatal)


def write(name: str, array: object) -> Spoil:
    return lambda folder: save(folder / name, array)


def blank(value: int, names: list[str] = NAMES) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            save(folder / f"masks/{name}.png", np.full((20, 24), value, np.uint8))

    return spoil


def lists(**named: list[str]) -> Spoil:
    return lambda folder: (folder / "splits.json").write_text(json.dumps(named))


def link(name: str) -> Spoil:
    return lambda folder: (folder / name).symlink_to(folder / "nowhere.png")


def copied(source: str, target: str) -> Spoil:
    return lambda folder: shutil.copyfile(folder / source, folder / target)


def rows(names: list[str]) -> Spoil:
    said = [{"image": f"images/{name}.png", "mask": f"masks/{name}.png"} for name in names]
    return lambda folder: (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))


def both(*parts: Spoil) -> Spoil:
    return lambda folder: [part(folder) for part in parts]


def pages(folder: Path) -> None:
    first, second = (Image.fromarray(disc(i).astype(np.uint8) * 255) for i in (1, 2))
    (folder / "masks/0x.png").unlink()
    first.save(folder / "masks/0x.tif", save_all=True, append_images=[second])


def rim(folder: Path) -> None:
    for name in NAMES:
        save(folder / f"masks/{name}.png", np.where(disc(5), 1, 255 * disc(6)).astype(np.uint8))


def bare(folder: Path) -> None:
    for part in ("images", "masks"):
        shutil.rmtree(folder / part)


def floats(folder: Path) -> None:
    for name in NAMES:
        (folder / f"images/{name}.png").unlink()
        save(folder / f"images/{name}.tif", photograph(1).mean(2).astype(np.float32) - 500)


TORN = b"\x89PNG\r\n"
TRAIN, VAL, TEST = NAMES[:4], NAMES[4:6], NAMES[6:7]
SPLIT = lists(train=TRAIN, val=VAL, test=TEST)
"""The last name is in no list."""

KINDS: dict[str, Spoil] = {
    "nothing": lambda folder: None,
    "a torn image": lambda folder: (folder / "images/0x.png").write_bytes(TORN),
    "a torn mask": lambda folder: (folder / "masks/0x.png").write_bytes(TORN),
    "no mask": lambda folder: (folder / "masks/0x.png").unlink(),
    "no image": lambda folder: (folder / "images/0x.png").unlink(),
    "another size": write("masks/0x.png", np.full((9, 31), 255, np.uint8)),
    "grey": write("masks/0x.png", np.tile(np.linspace(0, 255, 24).astype(np.uint8), (20, 1))),
    "colours": write("masks/0x.png", photograph(3)),
    "a rim": rim,
    "all empty": blank(0),
    "all full": blank(255),
    "some empty": blank(0, NAMES[1:]),
    "a value of its own": blank(77, ["2x"]),
    "a dead link": link("images/more.png"),
    "a dead mask": link("masks/more.png"),
    "a mask of pages": pages,
    "negative": floats,
    "a row without a file": rows([*NAMES, "more"]),
    "a row twice": rows([*NAMES, "0x"]),
    "some rows": rows(NAMES[:3]),
    "a wrong manifest": lambda folder: (folder / "pairs.jsonl").write_text("{"),
    "two folders of masks": lambda folder: shutil.copytree(folder / "masks", folder / "labels"),
    "photographs for masks": lambda folder: [save(folder / f"masks/{name}.png", photograph(2)) for name in NAMES],
    "no pairs": bare,
    "splits": SPLIT,
    "wrong splits": lambda folder: (folder / "splits.json").write_text("[1]"),
    "no list to train": lists(test=NAMES),
    "a name that is not there, to train": lists(train=[*TRAIN, "nobody"]),
    "a name that is not there, to pick": lists(train=TRAIN, val=["nobody"]),
    "a name that is not there, to test": lists(train=TRAIN, test=["nobody"]),
    "a name that is not there, for nothing": lists(train=TRAIN, more=["nobody"]),
    "in train and test": lists(train=TRAIN, test=TRAIN[:1]),
    "in val and test": lists(train=TRAIN, val=VAL, test=VAL[:1]),
    "in train and val": lists(train=TRAIN, val=TRAIN[:1]),
    "in two lists for nothing": lists(train=TRAIN, few=TRAIN[:2], fewer=TRAIN[:1]),
    "a copy in test": both(SPLIT, copied("images/0x.png", "images/6x.png")),
    "a copy in val": both(SPLIT, copied("images/0x.png", "images/4x.png")),
    "a copy in no list": both(SPLIT, copied("images/0x.png", "images/7x.png")),
    "torn, to test": both(SPLIT, lambda folder: (folder / "images/6x.png").write_bytes(TORN)),
    "torn, to pick": both(SPLIT, lambda folder: (folder / "masks/5x.png").write_bytes(TORN)),
    "torn, in no list": both(SPLIT, lambda folder: (folder / "images/7x.png").write_bytes(TORN)),
    "empty where it trains": both(SPLIT, blank(0, TRAIN)),
    "empty where it tests": both(SPLIT, blank(0, TEST)),
}
SETTINGS: dict[str, DataConfig] = {
    "defaults": DataConfig(resolution=32),
    "few": DataConfig(resolution=32, limit=2),
    "many": DataConfig(resolution=32, limit=9),
    "another split": DataConfig(resolution=32, split="val"),
    "all": DataConfig(resolution=32, split=None),
    "void": DataConfig(resolution=32, void=(255,)),
    "alpha": DataConfig(resolution=32, mask_coding="alpha"),
    "small": DataConfig(resolution=32, max_pixels=100),
    "a label": DataConfig(resolution=32, foreground=(7,)),
    "coarse": DataConfig(resolution=16, fit="crop"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_refuses_what_training_refuses(tmp_path: Path, kind: str) -> None:
    KINDS[kind](whole(tmp_path))
    for name, settings in SETTINGS.items():
        one, other = refused(tmp_path, settings), found(tmp_path, settings)
        assert bool(one) == bool(other), f"{name}: training says {one!r}, check {other!r}"


@pytest.mark.parametrize("release", RELEASES)
def test_releases_whole_and_torn(tmp_path: Path, release: str) -> None:
    RELEASES[release](tmp_path)
    settings = SETTINGS["defaults"]
    assert found(tmp_path, settings) == refused(tmp_path, settings) == ""
    random = np.random.default_rng(0)
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif"))
    for place in random.permutation(len(files))[:4].tolist():
        content = files[place].read_bytes()
        files[place].write_bytes(content[: len(content) // 2])
        one, other = refused(tmp_path, settings), found(tmp_path, settings)
        assert bool(one) == bool(other), f"{files[place]}: training says {one!r}, check {other!r}"
        files[place].write_bytes(content)
