import json
from pathlib import Path

import numpy as np
import pytest
from conftest import DiscPairs
from PIL import Image

from siamese_diffusion.data import copypaste, placing
from siamese_diffusion.data.copypaste import copy_paste, feather, poisson
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.errors import InputError

R = 64


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("copypaste") / "pairs"
    make_phantoms(folder, 10, R, seed=5)
    return DataFolder(folder).pairs()


def paste(pairs: list[Pair], out: Path, **entries: object) -> dict[str, Pair]:
    copy_paste(pairs, out, R, "polyp", **entries)  # type: ignore[arg-type]
    return {pair.name: pair for pair in DataFolder(out).pairs()}


@pytest.mark.parametrize("blend", ["poisson", "feather"])
def test_a_lesion_is_added_and_the_rest_of_the_target_stays(phantoms: list[Pair], tmp_path: Path, blend: str) -> None:
    made = paste(phantoms, tmp_path / "out", blend=blend)
    by_name = {pair.name: pair for pair in phantoms}
    assert made.keys() == by_name.keys()
    pasted = [pair for pair in made.values() if pair.extra["source"] is not None]
    assert len(pasted) >= 8
    for pair in pasted:
        assert pair.extra["target"] == pair.name
        assert pair.extra["source"] in by_name
        assert pair.extra["source"] != pair.name
        assert pair.extra["method"] == "copy-paste"
        assert pair.prompt == "A photo of polyp"
        image, mask = pair.read()
        before, own = by_name[pair.name].read()
        new = mask & ~own
        assert new.sum() >= 16
        assert (own & ~mask).sum() <= 0.02 * own.sum()
        assert np.abs(image[new].astype(int) - before[new]).mean() > 2  # what the mask says is new is new
        width = max(2, round(placing.BAND * R))
        grown = np.pad(new, R)
        near = np.any([np.roll(grown, (y, x), (0, 1)) for y in range(-6, 7) for x in range(-6, 7)], 0)[R:-R, R:-R]
        assert width <= 6
        assert (image[~near] == before[~near]).all()


def test_it_depends_on_seed_and_copy_only(phantoms: list[Pair], tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    paste(phantoms, tmp_path / "a", seed=1, copy=2)
    paste(phantoms, tmp_path / "b", seed=1, copy=2)
    paste(phantoms, tmp_path / "seed", seed=2, copy=2)
    paste(phantoms, tmp_path / "copy", seed=1, copy=3)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    for other in ("seed", "copy"):
        different = contents(tmp_path / other)
        assert sum(first[name] != different[name] for name in first if name.startswith("images/")) >= 8


def test_interrupted_and_resumed_is_the_same_folder(
    phantoms: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paste(phantoms, tmp_path / "whole")
    write, calls = PairWriter.write, []

    def killed(self: PairWriter, name: str, *rest: object) -> None:
        calls.append(name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PairWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        paste(phantoms, tmp_path / "part")
    monkeypatch.setattr(PairWriter, "write", write)
    with pytest.raises(InputError, match="--resume"):
        paste(phantoms, tmp_path / "part")
    assert copy_paste(phantoms, tmp_path / "part", R, "polyp", resume=True)["made"] == len(phantoms) - 3
    for path in (tmp_path / "whole").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "part" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_recipe_none_keeps_the_shape_of_the_lesion(phantoms: list[Pair], tmp_path: Path) -> None:
    areas = {pair.name: int(pair.read()[1].sum()) for pair in phantoms}
    made = paste(phantoms, tmp_path / "out", recipe="none")
    whole = [pair for pair in made.values() if pair.extra["source"] and pair.extra["transform"]["scale"] == 1.0]
    assert whole
    for pair in whole:
        assert not pair.extra["transform"]["flip_horizontal"]
        added = int(pair.read()[1].sum()) - areas[pair.name]
        covered = 0.02 * areas[pair.name]  # of the target's own lesion, at most
        assert added == pytest.approx(areas[pair.extra["source"]], rel=0.05, abs=covered)


def test_lesions_are_pasted_where_there_is_tissue(tmp_path: Path) -> None:
    y, x = np.mgrid[:R, :R]
    for i in range(6):  # only the left half is lit
        centre = (16 + 5 * i, 12)
        mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 25
        image = np.zeros((R, R, 3), np.uint8)
        image[:, : R // 2] = (150, 90, 70)
        image[mask] = (220, 120, 90)
        for part, array in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / "half" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "half" / part / f"{i}.png")
    made = paste(DataFolder(tmp_path / "half").pairs(), tmp_path / "out", recipe="none")
    assert sum(pair.extra["source"] is not None for pair in made.values()) >= 4
    for pair in made.values():
        assert not pair.read()[1][:, R // 2 :].any()


def test_poisson_keeps_contrast_and_takes_the_light_of_the_target() -> None:
    y, x = np.mgrid[:40, :40]
    lesion, region = ((y - 20) ** 2 + (x - 20) ** 2 < radius**2 for radius in (8, 12))
    source = np.full((40, 40, 3), 100.0)
    source[lesion] = 150.0
    bright = poisson(np.full((40, 40, 3), 200, np.uint8), source, region)
    assert (bright[region & ~lesion] == 200).all()
    assert (bright[lesion] == 255).all()  # 216 x 166 / 116 is more than a picture holds
    dim = poisson(np.full((40, 40, 3), 40, np.uint8), source, region)
    assert (dim[lesion] + copypaste.LEAST_LIGHT).mean() / 56 == pytest.approx(166 / 116, rel=0.02)
    target = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    assert (poisson(target, target.astype(float), region) == target).all()  # an image pasted into itself is itself


def test_feather_is_the_source_in_the_lesion_and_the_target_outside() -> None:
    y, x = np.mgrid[:40, :40]
    lesion, region = ((y - 20) ** 2 + (x - 20) ** 2 < radius**2 for radius in (8, 12))
    target = np.full((40, 40, 3), 50, np.uint8)
    blended = feather(target, np.full((40, 40, 3), 250.0), lesion, region)
    assert (blended[lesion] == 250).all()
    assert (blended[~region] == 50).all()
    ring = blended[20, 28:33, 0].astype(int)
    assert (np.diff(ring) < 0).all()  # fades outwards


def test_bad_input(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    pairs = DataFolder(disc_pairs(count=3, resolution=R)).pairs()
    with pytest.raises(InputError, match=r"recipe magic: unknown.*flip-scale-shift"):
        copy_paste(pairs, tmp_path / "out", R, "polyp", recipe="magic")
    with pytest.raises(InputError, match="two pairs"):
        copy_paste(pairs[:1], tmp_path / "out", R, "polyp")
    for pair in pairs:
        Image.fromarray(np.full((R, R), 255, np.uint8)).save(pair.mask.path)
    with pytest.raises(InputError, match="no lesion of this set"):
        copy_paste(pairs, tmp_path / "out", R, "polyp")
    assert not (tmp_path / "out").exists()


def test_a_target_without_room_is_said_to_hold_no_paste(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    pairs = DataFolder(disc_pairs(count=4, resolution=R)).pairs()
    Image.fromarray(np.full((R, R), 255, np.uint8)).save(pairs[0].mask.path)
    made = paste(pairs, tmp_path / "out")
    row = next(json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines())
    assert (row["target"], row["source"], row["transform"]) == (pairs[0].name, None, None)
    assert (made[pairs[0].name].read()[0] == pairs[0].read()[0]).all()
