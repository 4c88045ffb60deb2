"""Colour and texture statistics of two image sets, with the difference of two halves of the real one as a yardstick.

They need no network, so they hold for any kind of image; and each names what is off: hue, contrast, sharpness, grain.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]

CHANNELS = ("red", "green", "blue")


def statistics(images: Images) -> dict[str, Any]:
    """Statistics of uint8 sRGB images (N, R, R, 3), in units of the full range (0 to 1).

    Returns:
        `mean`, `std`: per channel over all pixels. `gradient`: mean length of the grey-value gradient (central
        differences, a pixel). `sharpness`: variance of the Laplacian, mean over images. `spectrum`: natural log of the
        power averaged over rings of one frequency, over images too, from 1 to R/2 cycles a side.
    """
    levels = np.arange(256) / 255
    counts = [np.bincount(images[..., i].ravel(), minlength=256) / images[..., i].size for i in range(3)]
    means = [float(levels @ count) for count in counts]
    steep: list[float] = []
    sharp: list[float] = []
    for image in images:  # one at a time: in floating point a whole set would take many times the memory of its pixels
        grey = _grey(image)
        down, across = np.gradient(grey)
        steep.append(float(np.hypot(down, across).mean(dtype=float)))
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        sharp.append(float((around - 4 * grey[1:-1, 1:-1]).var(dtype=float)))
    return {
        "mean": dict(zip(CHANNELS, means, strict=True)),
        "std": {
            channel: float(np.sqrt((levels - mean) ** 2 @ count))
            for channel, mean, count in zip(CHANNELS, means, counts, strict=True)
        },
        "gradient": float(np.mean(steep)),
        "sharpness": float(np.mean(sharp)),
        "spectrum": _spectrum(images).tolist(),
    }


def difference(first: Images, second: Images) -> dict[str, Any]:
    """Distances of two sets of uint8 sRGB images (N, R, R, 3) and (M, R, R, 3).

    Returns:
        `colour`: 1-Wasserstein distance of the pixel values per channel, in units of the full range. `gradient`,
        `sharpness`: natural log of second over first. `spectrum`: mean absolute difference of the log power.
    """
    from scipy.stats import wasserstein_distance

    a, b = statistics(first), statistics(second)
    levels = np.arange(256) / 255
    colour = {}
    for i, channel in enumerate(CHANNELS):
        weights = [np.bincount(images[..., i].ravel(), minlength=256) for images in (first, second)]
        colour[channel] = float(wasserstein_distance(levels, levels, *weights))
    return {
        "colour": colour,
        "gradient": _log_ratio(b["gradient"], a["gradient"]),
        "sharpness": _log_ratio(b["sharpness"], a["sharpness"]),
        "spectrum": float(np.abs(np.subtract(a["spectrum"], b["spectrum"])).mean()),
    }


def appearance(real: Images, synthetic: Images, seed: int = 0) -> dict[str, Any]:
    """`statistics` of `real` and `synthetic`, their `difference`, and the `yardstick`.

    The yardstick is the difference between two random halves of `real`: what two samples of one distribution differ by.
    Halves are smaller than the sets, so it errs on the large side.

    Args:
        real: uint8 sRGB (N, R, R, 3), N at least 2.
        synthetic: uint8 sRGB (M, R, R, 3), M at least 1.
        seed: of the halves.

    Raises:
        ValueError: too few images, or the sets differ in size of image.
    """
    if len(real) < 2 or len(synthetic) < 1 or real.shape[1:] != synthetic.shape[1:]:
        raise ValueError(
            f"expected at least 2 real and 1 synthetic image of one size, got {real.shape}, {synthetic.shape}"
        )
    order = np.random.default_rng(seed).permutation(len(real))
    half = len(real) // 2
    return {
        "real": statistics(real),
        "synthetic": statistics(synthetic),
        "difference": difference(real, synthetic),
        "yardstick": difference(real[order[:half]], real[order[half:]]),
    }


def _grey(image: Images) -> NDArray[np.float32]:
    """(R, R) in [0, 1]: ITU-R BT.601 luma."""
    return np.asarray(image.astype(np.float32) / 255 @ np.array([0.299, 0.587, 0.114], np.float32))


def _spectrum(images: Images) -> NDArray[np.float64]:
    side = images.shape[1]
    power = np.zeros((side, side // 2 + 1))
    window = np.outer(np.hanning(side), np.hanning(side))  # or the jump between opposite borders would dominate
    for grey in map(_grey, images):
        power += np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2 / side**2
    rows = np.fft.fftfreq(side) * side
    columns = np.arange(side // 2 + 1)
    ring = np.rint(np.hypot(rows[:, None], columns[None])).astype(int)
    sums = np.bincount(ring.ravel(), power.ravel() / len(images))
    counts = np.bincount(ring.ravel())
    means = (sums / np.maximum(counts, 1))[1 : side // 2 + 1]
    return np.asarray(np.log(np.maximum(means, 1e-12)))  # 1e-12: far below what 8 bits resolve


def _log_ratio(value: float, reference: float) -> float:
    floor = 1e-9  # flat images have neither gradient nor sharpness
    return float(np.log(max(value, floor) / max(reference, floor)))
