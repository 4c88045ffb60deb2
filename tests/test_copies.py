"""Copies planted among fresh phantoms are found, and fresh phantoms are left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.data.phantom import phantom
from siamese_diffusion.evaluation.features import FLIPS, features
from siamese_diffusion.evaluation.metrics.copies import CopySearch, thumbnail, thumbnails

SIDE = 64
Pixels = NDArray[np.uint8]


def fresh(count: int, seed: int) -> list[Pixels]:
    return [phantom(seed, index, SIDE)[0] for index in range(count)]


def brighter(image: Pixels) -> Pixels:
    return np.asarray(np.clip(image * 1.25 + 12, 0, 255), np.uint8)


def darker(image: Pixels) -> Pixels:
    return (image * 0.6).astype(np.uint8)


def blend(image: Pixels, other: Pixels, share: float) -> Pixels:
    return ((1 - share) * image + share * other).astype(np.uint8)


class World:
    """Training images, held-out ones, fresh ones, and copies of the first training images in seven ways."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.real, self.held, self.new = fresh(150, 1), fresh(60, 2), fresh(60, 3)
        self.copies: dict[str, list[Pixels]] = {
            "exact": self.real[:5],
            "flipped": [np.ascontiguousarray(image[:, ::-1]) for image in self.real[5:10]],
            "upside down": [np.ascontiguousarray(image[::-1]) for image in self.real[10:15]],
            "brighter": [brighter(image) for image in self.real[15:20]],
            "darker": [darker(image) for image in self.real[20:25]],
            "blended": [blend(image, other, 0.2) for image, other in zip(self.real[25:30], self.new, strict=False)],
            "noisy": [
                np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)
                for image in self.real[30:35]
            ],
        }

    def describe(self, images: list[Pixels], name: str, flipped: bool) -> NDArray[np.float32]:
        folder = self.folder / name
        folder.mkdir()
        files = [ImageFile(folder / f"{i:03d}.png") for i in range(len(images))]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file.path)
        found = features(
            files,
            thumbnails(),
            self.folder / "cache",
            SIDE,
            flips=FLIPS if flipped else FLIPS[:1],
        )
        return found if flipped else found[:, 0]


def test_planted_copies_are_found_and_fresh_images_are_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    archive = CopySearch([world.describe(world.real, "real", True)])
    calibration = archive.calibrate([world.describe(world.held, "held", False)], target=0.01)
    assert calibration.held_out
    assert len(calibration.measured.score) == 60
    assert calibration.false_alarm_rate <= 0.05
    start = 0
    for name, images in world.copies.items():
        found = archive.score([world.describe(images, name, False)])
        assert (found.score < calibration.threshold).all(), (name, found.score, calibration.threshold)
        np.testing.assert_array_equal(found.place, np.arange(start, start + 5))
        assert set(found.flip) == {{"flipped": 1, "upside down": 2}.get(name, 0)}
        start += 5
    alarms = archive.score([world.describe(world.new, "new", False)]).score < calibration.threshold
    assert alarms.mean() <= 0.05


def test_thumbnails_are_blind_to_brightness_and_contrast_of_each_channel() -> None:
    images = torch.randint(40, 120, (3, 3, 16, 16), dtype=torch.uint8)
    changed = images.float() * 1.5 + torch.tensor([5.0, 20.0, -30.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(thumbnail(changed), thumbnail(images), atol=1e-4, rtol=0)
    other = torch.randint(40, 120, (3, 3, 16, 16), dtype=torch.uint8)
    assert (thumbnail(other) - thumbnail(images)).norm(dim=1).min() > 1
    assert thumbnail(torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)).abs().max() == 0


def one_hot_like(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 1, 32))


def test_ratio_is_the_distance_over_that_of_the_real_neighbours() -> None:
    real = one_hot_like(40, 0)
    queries = np.random.default_rng(1).normal(size=(6, 32))
    found = CopySearch([real]).score([queries])

    def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))

    apart = np.linalg.norm(unit(real[:, 0])[:, None] - unit(real[:, 0])[None], axis=-1)
    away = np.linalg.norm(unit(queries)[:, None] - unit(real[:, 0])[None], axis=-1)
    for i, j in enumerate(away.argmin(1)):
        assert found.place[i] == j
        assert found.score[i] == pytest.approx(away[i, j] / np.sort(apart[j])[1:11].mean(), rel=1e-4)


def test_a_copy_of_an_image_that_the_training_set_holds_twice_is_still_found() -> None:
    real = one_hot_like(40, 0)
    real[7] = real[8]
    found = CopySearch([real]).score([real[8]])
    assert found.score[0] < 1e-3


def test_the_smaller_ratio_of_two_descriptions_counts_and_is_named() -> None:
    first, second = one_hot_like(30, 0), one_hot_like(30, 1)
    fresh_rows = np.random.default_rng(2).normal(size=(2, 32))
    queries = [np.stack([fresh_rows[0], first[4, 0]]), np.stack([second[9, 0], fresh_rows[1]])]
    found = CopySearch([first, second]).score(queries)
    assert found.description.tolist() == [1, 0]
    assert found.place.tolist() == [9, 4]
    assert found.score.max() < 1e-3
    assert found.ratios[0, 0] > 0.5


def test_each_training_image_is_scored_without_itself() -> None:
    """So a set of unrelated images has scores near 1, and the threshold is no accident of finding oneself."""
    real = one_hot_like(60, 0)
    calibration = CopySearch([real]).calibrate(None, target=0.05)
    assert not calibration.held_out
    assert len(calibration.measured.score) == 30
    assert calibration.threshold > 0.7
    assert calibration.false_alarm_rate <= 0.3


def test_too_few_training_images() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        CopySearch([one_hot_like(3, 0)])
    assert CopySearch([one_hot_like(4, 0)]).score([one_hot_like(2, 1)[:, 0]]).score.shape == (2,)
