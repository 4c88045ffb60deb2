import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from siamese_diffusion.data.images import Mask
from siamese_diffusion.data.masks import MASK_RECIPES, Recipe, transform_mask
from siamese_diffusion.errors import InputError

RANDOM = ["flip-scale-shift", "flip-scale-shift-rotate"]


def _ellipse(size: int = 128, centre: tuple[float, float] = (64, 60), radii: tuple[float, float] = (14, 24)) -> Mask:
    y, x = np.mgrid[:size, :size]
    return np.asarray(((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1)


def _centroid(mask: Mask) -> Any:
    return np.argwhere(mask).mean(0)


def test_none_changes_nothing() -> None:
    mask = _ellipse()
    result, drawn = transform_mask(mask, "none", 0, "a", 0)
    assert np.array_equal(result, mask)
    assert drawn == {"recipe": "none"}


@pytest.mark.parametrize("recipe", RANDOM)
def test_area_and_place_are_as_recorded(recipe: str) -> None:
    mask = _ellipse()
    seen: dict[str, list[float]] = {"scale": [], "rotation": [], "shift": [], "flips": []}
    for copy in range(60):
        result, drawn = transform_mask(mask, recipe, 1, "a", copy)
        assert result.dtype == np.bool_
        assert result.shape == mask.shape
        assert json.loads(json.dumps(drawn)) == drawn
        assert drawn["recipe"] == recipe
        assert result.sum() == pytest.approx(drawn["scale"] ** 2 * mask.sum(), rel=0.05)
        flipped = mask[:: -1 if drawn["flip_vertical"] else 1, :: -1 if drawn["flip_horizontal"] else 1]
        expected = _centroid(flipped) + 128 * np.array(drawn["shift"])
        assert _centroid(result) == pytest.approx(expected, abs=0.5)
        seen["scale"].append(drawn["scale"])
        seen["rotation"].append(drawn["rotation"])
        seen["shift"].extend(drawn["shift"])
        seen["flips"].append(drawn["flip_horizontal"] + 2 * drawn["flip_vertical"])
    assert 0.7 <= min(seen["scale"]) < 0.8
    assert 1.2 < max(seen["scale"]) <= 1.3
    assert -0.15 <= min(seen["shift"]) < -0.12
    assert 0.12 < max(seen["shift"]) <= 0.15
    assert set(seen["flips"]) == {0, 1, 2, 3}
    if recipe == "flip-scale-shift":
        assert set(seen["rotation"]) == {0.0}
    else:
        assert -45 <= min(seen["rotation"]) < -35
        assert 35 < max(seen["rotation"]) <= 45


def test_rotation_is_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASK_RECIPES, "turn", Recipe("rotation only", rotation=45.0))
    for copy in range(8):
        result, drawn = transform_mask(_ellipse(), "turn", 0, "a", copy)
        y, x = (np.argwhere(result) - _centroid(result)).T
        # Direction of the long axis, which lay along x; rows count downwards.
        angle = -0.5 * np.rad2deg(np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean()))
        assert angle == pytest.approx(drawn["rotation"], abs=1.5)


def test_flips_alone_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASK_RECIPES, "flip", Recipe("flips only", flips=True))
    mask = _ellipse()
    mask[60:64, 80:100] = True
    for copy in range(12):
        result, drawn = transform_mask(mask, "flip", 0, "a", copy)
        back = result[:: -1 if drawn["flip_vertical"] else 1, :: -1 if drawn["flip_horizontal"] else 1]
        assert np.array_equal(back, mask)


@pytest.mark.parametrize("recipe", RANDOM)
def test_a_lesion_never_vanishes(recipe: str) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:6, 58:] = True
    for copy in range(100):
        result, drawn = transform_mask(mask, recipe, 0, "corner", copy)
        assert result.sum() >= max(16, 0.5 * drawn["scale"] ** 2 * mask.sum())


def test_a_lesion_too_small_to_scale_is_flipped_only() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:2, :3] = True
    result, drawn = transform_mask(mask, "flip-scale-shift-rotate", 0, "tiny", 0)
    assert result.sum() == 6
    assert (drawn["scale"], drawn["shift"], drawn["rotation"]) == (1.0, [0.0, 0.0], 0.0)


def test_an_empty_mask_stays_empty() -> None:
    result, drawn = transform_mask(np.zeros((32, 48), bool), "flip-scale-shift", 0, "a", 0)
    assert result.shape == (32, 48)
    assert not result.any()
    assert drawn["recipe"] == "flip-scale-shift"


def test_shift_is_a_share_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASK_RECIPES, "shift", Recipe("shift only", shift=0.15))
    mask = np.zeros((64, 192), bool)
    mask[26:38, 80:110] = True
    result, drawn = transform_mask(mask, "shift", 0, "a", 0)
    assert _centroid(result) - _centroid(mask) == pytest.approx(np.array(drawn["shift"]) * (64, 192), abs=0.51)


def test_draw_depends_on_seed_name_and_copy_only() -> None:
    def draw(seed: int, name: str, copy: int) -> str:
        return json.dumps(transform_mask(_ellipse(), "flip-scale-shift", seed, name, copy)[1])

    first = draw(1, "a", 2)
    assert draw(1, "a", 2) == first
    assert len({first, draw(2, "a", 2), draw(1, "b", 2), draw(1, "a", 3), draw(2, "a", 1), draw(1, "2/a", 2)}) == 6


def test_draw_is_the_same_in_another_process() -> None:
    code = (
        "import json, numpy as np; from siamese_diffusion.data.masks import transform_mask;"
        "print(json.dumps(transform_mask(np.ones((8, 8), bool), 'flip-scale-shift', 1, 'name', 2)[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == transform_mask(np.ones((8, 8), bool), "flip-scale-shift", 1, "name", 2)[1]


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"spin.*none, flip-scale-shift, flip-scale-shift-rotate"):
        transform_mask(_ellipse(), "spin", 0, "a", 0)
