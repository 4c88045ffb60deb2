"""Copies planted among fresh phantoms are found, whatever was done to them, and fresh phantoms are left alone."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from siamese_diffusion.data.phantom import phantom
from siamese_diffusion.evaluation.features import FLIPS
from siamese_diffusion.evaluation.metrics.copies import CHANCE, DETAIL_LIMITS, WHOLE_LIMITS, CopySearch, phases
from siamese_diffusion.evaluation.metrics.local_matches import (
    SIDE,
    Details,
    LocalSearch,
    Match,
    details,
    mirrored,
)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "experiments"
Pixels = NDArray[np.uint8]


def fresh(count: int, seed: int) -> tuple[list[Pixels], list[NDArray[np.bool_]]]:
    pairs = [phantom(seed, index, SIDE) for index in range(count)]
    return [pair[0] for pair in pairs], [pair[1] > 0 for pair in pairs]


@pytest.fixture(scope="module")
def planted() -> Any:
    """The recorded benchmark, small: 60 training phantoms, six copies of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        benchmark = importlib.import_module("copies")
        train, masks = fresh(60, 1)
        return benchmark.main(train, masks, fresh(30, 2)[0], fresh(30, 3)[0], 6)


WAYS = (
    "exact|JPEG, quality 50|flipped|blurred, sd 1.5 px|cropped to 85 %|cropped to a corner|turned by 7 degrees|"
    "shifted by 5 %|turned by 90 degrees|half of it|blended by half|lesion replaced|noise, sd 8|brighter|"
    "hue by 24 degrees"
)


@pytest.mark.parametrize("way", WAYS.split("|"))
def test_a_changed_copy_is_found_and_its_original_is_named(planted: Any, way: str) -> None:
    assert planted["found"].keys() == set(WAYS.split("|"))
    assert planted["found"][way]["found"] >= 0.8
    assert planted["found"][way]["named"] == 1


def test_images_that_are_no_copies_are_left_alone(planted: Any) -> None:
    assert planted["held out"]["flagged of the others"] <= 0.1
    assert planted["fresh"]["flagged"] <= 0.1
    assert planted["held out"]["the same scene as a training image"] == 0


def test_phases_are_blind_to_brightness_contrast_and_colour() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(40, 120, (3, 3, 64, 64), dtype=torch.uint8, generator=random)
    torch.testing.assert_close(phases(images.float() * 1.5 + 7), phases(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(phases(images).norm(dim=1), torch.ones(3))
    other = torch.randint(40, 120, (3, 3, 64, 64), dtype=torch.uint8, generator=random)
    assert (phases(other) * phases(images)).sum(1).abs().max() < 0.3
    assert phases(torch.full((1, 3, 64, 64), 7, dtype=torch.uint8)).abs().max() == 0


def test_half_of_a_blend_is_half_of_its_phases() -> None:
    """Which is what is left to find it by; two unrelated images have next to nothing in common."""
    first, second, third = (
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) * 255 for i in range(3)
    )
    both = phases((first + second) / 2)
    assert (both * phases(first)).sum() > 0.5
    assert (both * phases(third)).sum().abs() < 0.15


def features(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 1, 32))


def test_ratio_is_the_distance_over_that_of_the_real_neighbours() -> None:
    real = features(40, 0)
    queries = np.random.default_rng(1).normal(size=(6, 32))
    found = CopySearch([real]).score([queries])

    def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = rows - real[:, 0].mean(0)
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))

    apart = np.linalg.norm(unit(real[:, 0])[:, None] - unit(real[:, 0])[None], axis=-1)
    away = np.linalg.norm(unit(queries)[:, None] - unit(real[:, 0])[None], axis=-1)
    for i, j in enumerate(away.argmin(1)):
        assert found.place[i] == j
        ratio = away[i, j] / np.sort(apart[j])[1:11].mean()
        assert found.ratios[i, 0] == pytest.approx(ratio, rel=1e-4)
        assert found.score[i] == pytest.approx(ratio / WHOLE_LIMITS[1], rel=1e-4)


def test_a_copy_of_an_image_that_the_training_set_holds_twice_is_still_found() -> None:
    real = features(40, 0)
    real[7] = real[8]
    found = CopySearch([real]).score([real[8]])
    assert found.score[0] < 1e-3
    images, _ = fresh(12, 1)
    known = [details(image) for image in [*images, images[3], images[3]]]
    match = LocalSearch(known, len(known)).match([details(images[3])])[0]
    assert match.common > 40
    assert match.place in (3, 12, 13)


def test_the_smallest_score_of_several_descriptions_counts_and_is_named() -> None:
    first, second = features(30, 0), features(30, 1)
    others = np.random.default_rng(2).normal(size=(3, 32))
    queries = [np.stack([others[0], first[4, 0], others[2]]), np.stack([second[9, 0], others[1], others[2]])]
    matches = [Match(0, -1, False), Match(2, 11, False), Match(90, 17, True)]
    found = CopySearch([first, second], [Details(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))] * 30)
    result = found.score(queries, matches)
    assert result.description.tolist() == [1, 0, 2]
    assert result.place.tolist() == [9, 4, 17]
    assert result.flip.tolist() == [0, 0, 1]
    assert result.score.max() < 0.5
    assert result.ratios[:, 2] == pytest.approx([1, CHANCE / (CHANCE + 2), CHANCE / (CHANCE + 90)])
    assert result.same.tolist() == [True, True, True]


def test_a_threshold_is_a_quantile_within_limits_and_same_scenes_count_for_nothing() -> None:
    real = features(60, 0)
    search = CopySearch([real], [details(np.zeros((8, 8, 3), np.uint8))] * 60)
    common = np.full(60, 3)
    common[:3] = 15, 60, 60  # the second and third are one scene twice
    own = [Match(int(n), (i + 1) % 60, False) for i, n in enumerate(common)]
    found = search.calibrate(own, None, target=0.04)
    assert not found.held_out
    assert found.own.same.sum() == 2
    assert len(found.measured.score) + found.base == 58
    assert WHOLE_LIMITS[0] < found.thresholds[0] <= found.own.ratios[:, 0].max()
    assert found.thresholds[1] in (pytest.approx(CHANCE / (CHANCE + 15)), DETAIL_LIMITS[1])
    held = [Match(n, 5, False) for n in (0, 5, 40, 16)]
    measured = search.calibrate(own, [np.random.default_rng(5).normal(size=(4, 32))], held, target=0.04)
    assert measured.base == 58
    assert measured.rows.tolist() == [0, 1, 3]  # the third is a scene of the training set
    assert measured.false_alarm_rate == pytest.approx(1 / 3)
    assert measured.apart is not None
    assert measured.apart.same.tolist() == [False, False, True, False]


def test_details_of_a_mirrored_image_are_the_mirrored_details() -> None:
    image = fresh(1, 4)[0][0]
    turned, there = mirrored(details(image)), details(np.ascontiguousarray(image[:, ::-1]))
    away = np.linalg.norm(turned.points[:, None] - there.points[None], axis=-1)
    near = np.flatnonzero(away.min(1) < 0.7)
    assert len(near) > 30
    alike = [float((turned.descriptors[i] * there.descriptors[away[i].argmin()]).sum()) for i in near]
    assert np.median(alike) > 0.98
    unmirrored = details(image).descriptors @ there.descriptors.T
    assert np.median(unmirrored.max(1)) < np.median(alike)


def test_an_image_without_details_matches_nothing() -> None:
    images, _ = fresh(6, 1)
    search = LocalSearch(map(details, images), len(images))
    flat = details(np.full((50, 50, 3), 90, np.uint8))
    assert len(flat.points) == 0
    assert search.match([flat]) == [Match(0, -1, False)]
    empty = LocalSearch([flat] * 5, 5)
    assert empty.match([details(images[0])])[0].common == 0
    assert search.match(map(details, images), np.arange(6))[2].place != 2  # itself is left out


def test_too_few_training_images() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        CopySearch([features(3, 0)])
    assert CopySearch([features(4, 0)]).score([features(2, 1)[:, 0]]).score.shape == (2,)


def test_flips_of_the_whole_image_are_named() -> None:
    images, _ = fresh(12, 6)
    batch = torch.from_numpy(np.stack(images)).movedim(3, 1)
    views = torch.stack([phases(batch.flip(axes)) for axes in FLIPS], 1).numpy()
    queries = torch.cat([phases(batch[i : i + 1].flip(FLIPS[i])) for i in range(4)]).numpy()
    found = CopySearch([views]).score([queries])
    assert found.place.tolist() == [0, 1, 2, 3]
    assert found.flip.tolist() == [0, 1, 2, 3]
    assert found.score.max() < 1e-2


def test_a_mirrored_image_is_found_by_its_details_and_said_to_be() -> None:
    """As a whole it is found in any case; this is of the details alone, which a part of a mirrored image needs too."""
    images, _ = fresh(30, 1)
    search = LocalSearch(map(details, images), len(images))
    plain = search.match([details(images[3])])[0]
    turned = search.match([details(np.ascontiguousarray(images[3][:, ::-1]))])[0]
    assert (plain.place, plain.mirrored) == (3, False)
    assert (turned.place, turned.mirrored) == (3, True)
    assert min(plain.common, turned.common) >= 20
