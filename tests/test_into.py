"""Lesions drawn into existing images: nothing else changes, the mask is right, and no test image is a background."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from PIL import Image
from scipy.ndimage import binary_dilation

from siamese_diffusion.config import Config, DataConfig, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_files
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.placing import BAND, free_places
from siamese_diffusion.diffusion.into import TRIES, Backgrounds, keep_outside
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.sampler import denoise, make_solver
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl
from siamese_diffusion.segmentation.segment import segment

ALL = DataConfig(split=None)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("into") / "phantoms"
    make_phantoms(folder, 8, 32, seed=9)
    return folder


def backgrounds(folder: Path, seed: int = 0, resolution: int = 32) -> Backgrounds:
    return Backgrounds(DataFolder(folder), ALL, resolution, seed)


def disc(size: int = 32, radius: float = 4, centre: tuple[int, int] = (16, 16)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    y, x = np.mgrid[:size, :size]
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)


def test_a_lesion_comes_beside_what_is_there(phantoms: Path) -> None:
    known = {pair.name: pair for pair in DataFolder(phantoms).pairs()}
    found = [backgrounds(phantoms).scene(disc(), f"lesion-{i}", 0) for i in range(12)]
    assert sum(scene is not None for scene in found) >= 6
    for scene in found:
        if scene is None:
            continue
        image, own = known[scene.told["background"]].squared(32)
        np.testing.assert_array_equal(scene.image, image)
        lesion = scene.mask & ~own
        assert 0 < lesion.sum() <= disc().sum()
        assert (own & ~scene.mask).sum() <= 0.02 * own.sum()
        assert not (lesion & ~scene.region).any()
        assert (binary_dilation(lesion, iterations=max(2, round(BAND * 32))) & ~scene.region).sum() == 0
        assert scene.told["background_sha256"] == hash_files([known[scene.told["background"]].image.path])
        drawn = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)
        result = scene.finish(drawn)
        np.testing.assert_array_equal(result[~scene.region], image[~scene.region])
        assert (result[scene.region] != image[scene.region]).any()


def test_a_place_depends_on_seed_source_and_copy_alone(phantoms: Path) -> None:
    def told(seed: int, source: str, copy: int) -> Any:
        scene = backgrounds(phantoms, seed).scene(disc(), source, copy)
        return None if scene is None else (scene.told, scene.transform)

    assert told(0, "a", 0) == told(0, "a", 0)
    assert len({json.dumps(told(*key)) for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))}) == 4


def test_a_lesion_is_not_drawn_into_its_own_image(phantoms: Path) -> None:
    names = [pair.name for pair in DataFolder(phantoms).pairs()]
    for name in names:
        for copy in range(3):
            scene = backgrounds(phantoms).scene(disc(radius=3), name, copy)
            assert scene is None or scene.told["background"] != name


def test_what_fits_nowhere_has_no_place(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backgrounds(phantoms).scene(np.zeros((32, 32), bool), "healthy", 0) is None
    tried: list[Any] = []

    def none(*given: Any) -> list[Any]:
        tried.append(given)
        return []

    monkeypatch.setattr("siamese_diffusion.diffusion.into.free_places", none)
    assert backgrounds(phantoms).scene(disc(radius=6), "big", 0) is None
    areas = [given[1].sum() for given in tried]
    assert len(areas) <= TRIES
    assert areas[-1] < areas[0]  # it was made smaller in vain
    assert areas == sorted(areas, reverse=True)


def test_free_places_keep_to_the_field_of_view() -> None:
    lesion = disc()
    region = binary_dilation(lesion, iterations=2)
    field, taken = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    field[:, :20] = True
    taken[:14, :20] = True
    random = np.random.default_rng(0)
    places = [place for _ in range(40) for place in free_places(random, lesion, region, field, taken)]
    assert places
    for place in places:
        moved = np.roll(region, place, (0, 1))
        assert moved.sum() == region.sum()
        assert field[moved].mean() >= 0.98
        assert (moved & taken).sum() <= 0.02 * lesion.sum()
    assert not list(free_places(random, lesion, np.ones((32, 32), bool), field, taken))


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc"])
def test_latents_outside_the_region_are_put_back_at_every_step(scheduler: str) -> None:
    from diffusers import DDIMScheduler

    schedule = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    region = np.zeros((2, 8, 8), bool)
    region[0, 2:4, 2:4] = True
    region[1, 7, 7] = True
    own = Schedule(schedule.alphas_cumprod, "v_prediction")
    keep, seen = keep_outside(region, clean, noise, own), []

    def predict(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((int(t[0]), latents.clone()))
        return torch.ones_like(latents)

    steps = 6
    found = denoise(predict, noise, schedule, scheduler, steps, keep)
    outside = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    outside[0, 0, 1, 1] = outside[1, 0, 3, 3] = False
    outside = outside.expand_as(clean)
    torch.testing.assert_close(found[outside], clean[outside])
    assert not torch.allclose(found[~outside], clean[~outside])
    solver = make_solver(schedule, scheduler)
    solver.set_timesteps(steps)
    assert [t for t, _ in seen] == solver.timesteps.tolist()
    for t, latents in seen[1:]:
        expected = own.add_noise(clean, noise, torch.full((2,), t))
        torch.testing.assert_close(latents[outside], expected[outside])


def test_sample_into_writes_pairs_that_differ_in_the_band_alone(
    pairs: Path, run: Path, phantoms: Path, tmp_path: Path
) -> None:
    config = update(Config(), "sample", batch_size=3)
    given: dict[str, Any] = {
        "random_masks": "flip-scale-shift",
        "steps": 2,
        "device": "cpu",
        "into": phantoms,
        "per_mask": 2,
    }
    out = tmp_path / "out"
    result = sample(run, pairs, out, **given)
    rows = {Path(row["image"]).stem: row for row in read_jsonl(out / "pairs.jsonl")}
    assert result["pairs"] == len(rows) == 16 - result["left_out"]
    known = {pair.name: pair for pair in DataFolder(phantoms).pairs()}
    made = DataFolder(out).pairs()
    for pair in made:
        row = rows[pair.name]
        image, mask = pair.read()
        before, own = known[row["background"]].squared(32)
        changed = (image != before).any(-1)
        lesion = mask & ~own
        assert lesion.any()
        band = binary_dilation(lesion, np.ones((3, 3)), iterations=4)
        assert not (changed & ~band).any()
        assert row["background_sha256"] == hash_files([known[row["background"]].image.path])
    again = sample(run, pairs, tmp_path / "again", **given)
    assert (tmp_path / "again/pairs.jsonl").read_bytes() == (out / "pairs.jsonl").read_bytes()
    assert again == result | {"out": str(tmp_path / "again")}
    # a killed folder goes on to the same pairs
    victim = made[0].name
    for part in ("images", "masks"):
        (out / part / f"{victim}.png").unlink()
    kept = [line for line in (out / "pairs.jsonl").read_text().splitlines() if f"/{victim}.png" not in line]
    (out / "pairs.jsonl").write_text("".join(line + "\n" for line in kept))
    sample(run, pairs, out, **given, resume=True)
    for pair in DataFolder(tmp_path / "again").pairs():
        assert (out / "images" / pair.image.path.name).read_bytes() == pair.image.path.read_bytes()
    with pytest.raises(InputError, match="other input"):
        sample(run, pairs, out, **given | {"into": pairs}, resume=True)
    with pytest.raises(InputError, match=r"sample\.aspect = source: with --into"):
        sample(run, pairs, tmp_path / "no", **given, config=update(config, "sample", aspect="source"))
    with pytest.raises(InputError, match=r"--into .*are synthetic"):
        sample(run, pairs, tmp_path / "no", **given | {"into": out})
    with pytest.raises(InputError, match=r"--out .*: is the folder of --into"):
        sample(run, pairs, phantoms, **given)


def test_lesions_without_a_place_are_left_out(
    pairs: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = tmp_path / "dark"
    dark.mkdir()
    for i in range(2):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(dark / f"{i}.png")
    given: dict[str, Any] = {"steps": 2, "device": "cpu"}
    with pytest.raises(InputError, match="not one of 8 lesions finds a place"):
        sample(run, pairs, tmp_path / "none", **given, into=dark)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(masks / "healthy.png")
    Image.fromarray(disc().astype(np.uint8) * 255).save(masks / "ill.png")
    clear = tmp_path / "clear"
    clear.mkdir()
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(clear / "0.png")
    result = sample(run, masks, tmp_path / "one", **given, into=clear)
    assert (result["pairs"], result["left_out"]) == (1, 1)
    assert "1 of 2 masks are left out" in " ".join(capsys.readouterr().err.split())
    (pair,) = DataFolder(tmp_path / "one").pairs()
    assert pair.mask.read().sum() == disc().sum()


def test_a_background_is_never_a_test_image(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, test, made = disc_pairs(), disc_pairs(4, name="test", seed=2), disc_pairs(4, name="made", seed=1)
    row = {"image": "images/000.png", "mask": "masks/000.png", "synthetic": True, "background": "000"}
    row["background_sha256"] = hash_files([test / "images/002.png"])
    rows = [
        row,
        *({"image": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png", "synthetic": True} for i in (1, 2, 3)),
    ]
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = update(update(Config(), "data", split=None), "segment", resolution=32, steps=1)
    with pytest.raises(InputError, match=r"000\.png: a lesion was drawn into .*002\.png, which is in test set test"):
        segment(data, tmp_path / "out", [test], [made], config=config, device="cpu")
