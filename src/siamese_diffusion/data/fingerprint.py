"""A fingerprint of an image that survives what is done to copies: another format, size or brightness, flips, quarter
turns.

It is the perceptual hash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): the signs
of the lowest 16 x 16 frequencies of a grey thumbnail, 255 of them. How alike two images are is the number of signs that
differ: about 105 between unrelated images, the best of eight ways to lay one on the other.

Measured over all pairs within a set (benchmarks/speed/checking.py --real): at most `COPY` signs differ in 4 of 499,500
pairs of Kvasir-SEG's 1000 images and 9 of 3.4 million of ISIC 2018's 2594, each of which shows one scene twice, and in
none of 300 phantoms. Of an image saved anew at JPEG quality 40, at half its size, squared, mirrored or turned, at most
20 do; 38 where it is brightened until it clips.

Design note: the package ImageHash has the same hash, but compares a flipped image only by hashing it again. Here a flip
changes the signs of odd frequencies and a turn transposes them, so that one hash answers for all eight, and one
product of matrices for all pairs. The signs are taken around 0 and not around the median for that reason.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_diffusion.data.decoding import Decoding
from siamese_diffusion.data.images import read_header, to_rgb
from siamese_diffusion.data.opening import opened

Fingerprint = NDArray[np.int8]  # (256,) of -1, 0 and 1
Fingerprints = NDArray[np.int8]  # (N, 256)

SIDE, THUMBNAIL = 16, 32
"""Frequencies along a side, and pixels of the thumbnail."""
SIGNS = SIDE * SIDE - 1
"""Without the mean brightness."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
COPY = 24
"""Signs that differ at most where one image is a copy of the other."""
NEAR = 36
"""The same where they may be neighbouring frames, or one lesion taken twice."""
FAINT = 0.01
"""A frequency of a smaller amplitude, in grey levels, is rounding, and has no sign."""
PLAIN = 0.5
"""An image with fewer than this share of its signs is too plain to be told from another."""
BLOCK = 1024
"""Images that are compared with as many others at a time; so much memory, whatever the number of images."""


def fingerprint(picture: Image.Image) -> Fingerprint | None:
    """The fingerprint of a decoded image of 8 bits; None where it is too plain to have one."""
    if picture.mode not in ("RGB", "L"):
        picture = Image.fromarray(to_rgb(picture))
    small = cv2.resize(np.asarray(picture), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small if small.ndim == 2 else small @ LUMA
    waves = cv2.dct(grey)[:SIDE, :SIDE].ravel()
    signs = np.where(np.abs(waves) < FAINT, 0, np.sign(waves)).astype(np.int8)
    signs[0] = 0
    return signs if np.count_nonzero(signs) >= PLAIN * SIGNS else None


def of_file(path: Path, decoding: Decoding) -> Fingerprint | None:
    """The fingerprint of an image file; a JPEG is decoded at a fraction of its size.

    Raises:
        InputError: see `Decoding.image`.
    """
    most = decoding.settings.max_pixels
    if read_header(path, most).deep:
        return fingerprint(Image.fromarray(decoding.image(path)))
    with opened(path, most) as image:
        image.draft("RGB", (8 * THUMBNAIL, 8 * THUMBNAIL))
        return fingerprint(image)


class Match(NamedTuple):
    """Two images that look alike, by their places."""

    first: int
    second: int
    distance: float
    """Signs that differ, of `SIGNS`."""

    @property
    def is_copy(self) -> bool:
        return self.distance <= COPY


def matches(prints: Sequence[Fingerprint | None], kinds: Sequence[Any], most: float = NEAR) -> list[Match]:
    """The image of another kind that is most like each image, where one is like it.

    Args:
        prints: of N images.
        kinds: of each; images of one kind, such as a split or a patient, are not compared. None is a kind of its own.
        most: signs that may differ.

    Returns:
        By the place of the first; each two once.
    """
    there = [place for place, each in enumerate(prints) if each is not None]
    known: dict[Any, int] = {}
    codes = np.array(
        [-1 - place if kinds[place] is None else known.setdefault(kinds[place], len(known)) for place in there]
    )
    if len(set(codes.tolist())) < 2:
        return []
    nearest, distance = _nearest(np.stack([each for each in prints if each is not None]), codes)
    found = set()
    for place in np.flatnonzero(distance <= most):
        one, other = sorted((there[place], there[nearest[place]]))
        found.add(Match(one, other, float(distance[place])))
    return sorted(found)


def _nearest(prints: Fingerprints, codes: NDArray[np.int_]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Of each image the nearest one of another code, and its distance, infinite without any."""
    nearest = np.zeros(len(prints), np.intp)
    best = np.full(len(prints), np.inf, np.float32)

    def note(rows: int, others: int, distance: NDArray[np.float32]) -> None:
        place = distance.argmin(1)
        least = distance[np.arange(len(distance)), place]
        inside = slice(rows, rows + len(distance))
        closer = least < best[inside]
        nearest[inside][closer] = others + place[closer]
        np.minimum(best[inside], least, out=best[inside])

    for rows in range(0, len(prints), BLOCK):
        first = prints[rows : rows + BLOCK].astype(np.float32)
        for others in range(rows, len(prints), BLOCK):
            distance = _distances(first, prints[others : others + BLOCK].astype(np.float32))
            distance[codes[rows : rows + BLOCK, None] == codes[None, others : others + BLOCK]] = np.inf
            note(rows, others, distance)
            if others != rows:
                note(others, rows, distance.T)
    return nearest, best


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signs that differ, (N, M), of the best of the eight ways to lay one on the other."""
    turned = second.reshape(-1, SIDE, SIDE).swapaxes(1, 2).reshape(second.shape)
    agree = np.maximum(_agreement(first, second), _agreement(first, turned))
    return np.asarray((SIGNS - agree) / 2)


def _agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signs that agree less those that do not, (N, M), of the best of the four flips.

    A flip left to right changes the signs of the frequencies that are odd along a row, one up and down of those that
    are odd along a column.
    """
    neither, across, down, both = (first[:, part] @ second[:, part].T for part in _parities())
    same = both + np.abs(across + down)
    np.abs(across - down, out=across)
    across -= both
    return np.asarray(neither + np.maximum(same, across, out=same), np.float32)


@lru_cache(maxsize=1)
def _parities() -> list[NDArray[np.intp]]:
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return [np.flatnonzero((row % 2 == a) & (column % 2 == b)) for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))]
