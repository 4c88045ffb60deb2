import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from siamese_diffusion.evaluation.metrics.appearance import appearance, difference, statistics


def textures(count: int = 24, seed: int = 0, side: int = 32) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(0, 1, (count, side, side, 3)), (0, 2, 2, 0))
    noise = random.normal(0, 8, smooth.shape)
    images: np.ndarray = np.clip(120 + 150 * smooth + noise, 0, 255).astype(np.uint8)
    return images


def test_a_set_does_not_differ_from_itself() -> None:
    found = difference(textures(), textures())
    assert found == {"colour": {"red": 0, "green": 0, "blue": 0}, "gradient": 0, "sharpness": 0, "spectrum": 0}


def test_each_figure_sees_its_own_kind_of_change() -> None:
    real = textures()
    yardstick = appearance(real, real)["yardstick"]
    redder = real.copy()
    redder[..., 0] = np.clip(redder[..., 0].astype(int) + 30, 0, 255)
    found = difference(real, redder)
    assert found["colour"]["red"] == pytest.approx(30 / 255, abs=0.01)
    assert found["colour"]["green"] == found["colour"]["blue"] == 0
    blurred = gaussian_filter(real, (0, 1, 1, 0))
    found = difference(real, blurred)
    assert found["sharpness"] < -1
    assert found["gradient"] < -0.1
    assert found["spectrum"] > 3 * yardstick["spectrum"]
    noisy = np.clip(real + np.random.default_rng(1).normal(0, 20, real.shape), 0, 255).astype(np.uint8)
    assert difference(real, noisy)["sharpness"] > 0.5


def test_yardstick_is_what_two_samples_of_one_kind_differ_by() -> None:
    found = appearance(textures(48), textures(48, seed=5))
    yardstick, apart = found["yardstick"], found["difference"]
    assert apart["spectrum"] < 2 * yardstick["spectrum"]
    assert max(apart["colour"].values()) < 3 * max(yardstick["colour"].values())
    assert min(yardstick["colour"].values()) > 0
    assert found == appearance(textures(48), textures(48, seed=5))


def test_statistics_of_known_images() -> None:
    flat = np.full((2, 16, 16, 3), (51, 102, 204), np.uint8)
    found = statistics(flat)
    assert found["mean"] == pytest.approx({"red": 0.2, "green": 0.4, "blue": 0.8})
    assert found["std"] == pytest.approx({"red": 0, "green": 0, "blue": 0}, abs=1e-6)
    assert found["gradient"] == pytest.approx(0, abs=1e-6)
    ramp = np.broadcast_to((np.arange(16) * 10)[None, None, :, None], (1, 16, 16, 3)).astype(np.uint8)
    found = statistics(ramp)
    assert found["gradient"] == pytest.approx(10 / 255, rel=1e-4)
    assert found["sharpness"] == pytest.approx(0, abs=1e-9)


def test_spectrum_peaks_at_the_frequency_of_a_wave() -> None:
    wave = 128 + 100 * np.sin(2 * np.pi * 6 * np.arange(32) / 32)
    images = np.broadcast_to(wave[None, None, :, None], (2, 32, 32, 3)).astype(np.uint8)
    assert int(np.argmax(statistics(images)["spectrum"])) + 1 == 6


def test_colour_distance_is_that_of_the_pixels() -> None:
    first, second = textures(2, 0, 8), textures(3, 1, 8)
    expected = wasserstein_distance(first[..., 1].ravel() / 255, second[..., 1].ravel() / 255)
    assert difference(first, second)["colour"]["green"] == pytest.approx(expected)


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="at least 2 real"):
        appearance(textures(1), textures(2))
