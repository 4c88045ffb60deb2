import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import Mask, Pixels
from siamese_diffusion.data.phantom import AREA, make_phantoms, phantom
from siamese_diffusion.errors import InputError


def test_phantom_depends_on_seed_and_index_only() -> None:
    image, mask = phantom(3, 5, 64)
    phantom(0, 0, 64)
    again, same_mask = phantom(3, 5, 64)
    assert image.dtype == np.uint8
    assert image.shape == (64, 64, 3)
    assert mask.dtype == np.bool_
    assert mask.shape == (64, 64)
    assert np.array_equal(image, again)
    assert np.array_equal(mask, same_mask)
    for seed, index in ((3, 6), (4, 5), (5, 3)):
        other, other_mask = phantom(seed, index, 64)
        assert not np.array_equal(image, other)
        assert not np.array_equal(mask, other_mask)


def test_polyps_cover_a_plausible_share_and_lie_inside() -> None:
    masks = [phantom(1, i, 64)[1] for i in range(40)]
    shares = np.array([mask.mean() for mask in masks])
    assert shares.min() >= AREA[0]
    assert shares.max() <= AREA[1]
    assert shares.min() < 0.05
    assert shares.max() > 0.15
    assert not any(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any() for mask in masks)


def _contrasts(image: Pixels, mask: Mask) -> list[float]:
    """Of each polyp: mean distance in colour between its middle and the mucosa beyond its shadow."""
    parts, count = label(mask)
    beyond = distance_transform_edt(~mask)
    result = []
    for part in range(1, count + 1):
        inside, outside = distance_transform_edt(parts == part), distance_transform_edt(parts != part)
        around = image[(outside < 18) & (beyond > 10)]
        result.append(float(np.abs(image[inside > 4].mean(0) - around.mean(0)).mean()))
    return result


def test_the_mask_is_where_the_polyp_is_seen() -> None:
    true, moved = [], []
    for i in range(16):
        image, mask = phantom(2, i, 128)
        true += _contrasts(image, mask)
        moved += _contrasts(image, mask[::-1, ::-1])
    assert min(true) > 5, "a polyp that cannot be told from the mucosa"
    assert np.mean(true) > 1.5 * np.mean(moved)


def test_the_mask_ends_at_the_sharpest_change() -> None:
    steepness: dict[int, list[float]] = {-6: [], 0: [], 6: []}
    for i in range(16):
        image, mask = phantom(2, i, 128)
        edges = np.hypot(*np.gradient(image.astype(np.float32), axis=(0, 1))).mean(-1)
        signed = np.where(mask, 0.5 - distance_transform_edt(mask), distance_transform_edt(~mask) - 0.5)
        for at, values in steepness.items():
            values.append(float(edges[np.abs(signed - at) < 1].mean()))
    middle = np.mean(steepness[0])
    assert middle > 2 * np.mean(steepness[-6])
    assert middle > 2 * np.mean(steepness[6])


def test_same_picture_at_every_resolution() -> None:
    for i in range(6):
        (small, small_mask), (large, large_mask) = phantom(0, i, 64), phantom(0, i, 128)
        halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.97
        halved_mask = large_mask.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5
        assert (small_mask & halved_mask).sum() / (small_mask | halved_mask).sum() > 0.93


def test_folder_of_pairs(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "out", 3, 32, seed=7)
    pairs = DataFolder(tmp_path / "out").pairs()
    assert [pair.name for pair in pairs] == ["phantom-00000", "phantom-00001", "phantom-00002"]
    assert pairs[2].prompt == "A photo of polyp"
    assert pairs[2].extra == {"phantom": {"seed": 7, "index": 2}}
    for i, pair in enumerate(pairs):
        image, mask = pair.read()
        expected, expected_mask = phantom(7, i, 32)
        assert np.array_equal(image, expected)
        assert np.array_equal(mask, expected_mask)


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import siamese_diffusion as sd, sys, pathlib\nsd.make_phantoms(pathlib.Path(sys.argv[1]), 40, 16)\n"
    )
    done = subprocess.run([sys.executable, script, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(DataFolder(tmp_path / "out").pairs()) == 40


@pytest.mark.parametrize(
    ("count", "resolution", "seed", "named"),
    [(0, 64, 0, "--count 0"), (1, 15, 0, "--resolution 15"), (1, 64, -1, "--seed -1")],
)
def test_numbers_out_of_range(tmp_path: Path, count: int, resolution: int, seed: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_phantoms(tmp_path / "out", count, resolution, seed)
    assert not (tmp_path / "out").exists()
