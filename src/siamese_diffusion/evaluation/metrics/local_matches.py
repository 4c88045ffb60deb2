"""How many details of an image lie in another one, moved, turned, enlarged or mirrored together.

A copy need not be whole: a part of a training image, a training image under another lesion, or two of them blended are
copies too, and no description of the image as a whole finds those. Details do: SIFT keypoints (Lowe, IJCV 2004, with
the root of the descriptors, Arandjelović and Zisserman, CVPR 2012), matched, and counted where one similarity
transform explains them. Images without anything in common have a handful by chance, copies have dozens.

Design note: which details are distinctive is judged by the other training images (a match must be nearer than the
image's own in almost all of them), and not within one image, so that what all images show (the rim of the field of
view, highlights, a device's overlay) counts for nothing. Mirrored images need no second look: a descriptor is mirrored
by changing the order of its numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.evaluation.metrics.neighbours import nearest

SIDE = 96
"""Images are brought to this side, in pixels, before details are looked for."""
POINTS = 120
"""Details of an image at most, the strongest ones."""
CANDIDATES = 20
"""Training images that a query is matched with, the nearest by `signature`."""
DISTINCT = 0.92
"""A match is distinctive if its distance is below this share of that to the `RIVAL`-th nearest image's detail."""
RIVAL = 4
"""So that an image that the training set holds two or three times is still found."""
TOLERANCE = SIDE / 40
"""Pixels by which a detail may miss its place."""
WORDS = 16
"""Kinds of details that `signature` sums up."""

Pixels = NDArray[np.uint8]


class Details(NamedTuple):
    """Details of an image."""

    points: NDArray[np.float32]
    """(K, 2), x and y in pixels of an image of `SIDE`."""
    descriptors: NDArray[np.float32]
    """(K, 128) of unit length."""


class Match(NamedTuple):
    """What a query has in common with training images."""

    common: int
    """Details that one transform explains, with the training image that has most of them."""
    place: int
    """That image; -1 if there is none."""
    mirrored: bool


def details(image: Pixels) -> Details:
    """Details of uint8 (R, R, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC if len(image) < SIDE else cv2.INTER_AREA)
    grey = cv2.createCLAHE(2.0, (4, 4)).apply(grey)  # smooth organs have details too, at little contrast
    found, rows = cv2.SIFT_create(nfeatures=POINTS, contrastThreshold=0.003, edgeThreshold=30).detectAndCompute(  # type: ignore[attr-defined]
        grey, None
    )
    if rows is None:
        return Details(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    rows = rows[:POINTS]
    roots = np.sqrt(rows / np.maximum(rows.sum(1, keepdims=True), 1e-9))
    return Details(np.array([point.pt for point in found[:POINTS]], np.float32), roots.astype(np.float32))


def mirrored(found: Details) -> Details:
    """The details of the image flipped left to right.

    A descriptor is a 4 x 4 grid of 8 directions in a frame that the detail's own direction gives; a mirror reverses the
    order across that direction and the sense of turning.
    """
    return Details(_mirrored_points(found.points), _mirrored_descriptors(found.descriptors))


def _mirrored_points(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([[SIDE - 1, 0]], np.float32) + points * np.array([[-1, 1]], np.float32)


def _mirrored_descriptors(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(descriptors[..., _MIRRORED])


_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, np.arange(0, -8, -1) % 8].ravel()
"""Where each number of a mirrored descriptor comes from."""


PART = 1024
"""Queries that are compared with all signatures at once: each part reads 160 MB of them for 10,000 images."""


class LocalSearch:
    """The training images whose details are looked for.

    Args:
        real: their details, read one by one.
        count: how many images there are.
        seed: of the kinds of details, by which candidates are found.
    """

    def __init__(self, real: Iterable[Details], count: int, seed: int = 0) -> None:
        self.sizes = np.zeros(count, np.intp)
        self.points = np.zeros((count, POINTS, 2), np.float32)
        self.descriptors = np.zeros((count, POINTS, 128), np.float32)  # 0.6 GB for 10,000 images
        for i, each in enumerate(real):
            self.sizes[i] = len(each.points)
            self.points[i, : len(each.points)], self.descriptors[i, : len(each.points)] = each
        self.words = _words(self.descriptors, self.sizes, seed)
        self.signatures = [np.empty((count, WORDS * 128), np.float32) for _ in range(2)]
        for i, each in enumerate(self.own()):
            self.signatures[0][i], self.signatures[1][i] = (
                _signature(found, self.words) for found in (each, mirrored(each))
            )

    def own(self) -> Iterator[Details]:
        """The details of the training images, one after another."""
        for size, points, descriptors in zip(self.sizes, self.points, self.descriptors, strict=True):
            yield Details(points[:size], descriptors[:size])

    def match(
        self,
        queries: Iterable[Details],
        exclude: NDArray[np.intp] | None = None,
        track: Callable[[int], object] = lambda done: None,
    ) -> list[Match]:
        """Look for the details of images among the training images.

        Args:
            queries: read part by part, so they may be made on demand.
            exclude: for each query the training image that it is itself, which does not count, (N,).
            track: told how many queries a part had.
        """
        from threadpoolctl import threadpool_limits

        found: list[Match] = []
        with ThreadPoolExecutor(2) as pool:  # more wait for each other
            for part in _parts(queries, PART):
                own = np.full(len(part), -1) if exclude is None else exclude[len(found) : len(found) + len(part)]
                places, variants = self._candidates(part, own)
                with threadpool_limits(1, "blas"):  # threads of threads take six times as long
                    found += pool.map(self._match, part, places, variants)
                track(len(part))
        return found

    def _candidates(
        self, part: Sequence[Details], own: NDArray[np.intp]
    ) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]]:
        """Training images to match each query with, and in which variant; its own is not among them."""
        k = min(CANDIDATES + 1, len(self.sizes))
        near = nearest(np.stack([_signature(each, self.words) for each in part]), self.signatures, k)
        kept = [places != itself for places, itself in zip(near.place, own, strict=True)]
        places = [each[keep][:CANDIDATES] for each, keep in zip(near.place, kept, strict=True)]
        variants = [each[keep][:CANDIDATES] for each, keep in zip(near.variant, kept, strict=True)]
        return places, variants

    def _match(self, query: Details, places: NDArray[np.intp], variants: NDArray[np.intp]) -> Match:
        """The candidate that has most details in common with the query, in one place relative to each other."""
        sizes = self.sizes[places]
        if not len(query.points) or not sizes.sum():
            return Match(0, -1, False)
        known = self.descriptors[places]  # (C, POINTS, 128), zeros after an image's last detail
        turned = np.flatnonzero(variants)
        known[turned] = _mirrored_descriptors(known[turned])
        products = (query.descriptors @ known.reshape(-1, 128).T).reshape(len(query.points), len(places), POINTS)
        where = products.argmax(2)  # (K, C)
        near = np.where(sizes > 0, np.take_along_axis(products, where[..., None], 2)[..., 0], -1)
        distances = np.sqrt(np.maximum(2 - 2 * near, 0))
        rank = min(RIVAL, len(places)) - 1
        rival = np.partition(distances, rank, axis=1)[:, rank : rank + 1]
        distinct = distances < DISTINCT * rival
        most = Match(0, -1, False)
        for which in np.argsort(-distinct.sum(0), kind="stable")[:5].tolist():
            rows = np.flatnonzero(distinct[:, which])
            if len(rows) <= most.common or len(rows) < 3:
                break
            points = self.points[places[which]]
            points = _mirrored_points(points) if variants[which] else points
            count = _in_one_place(query.points[rows], points[where[rows, which]])
            if count > most.common:
                most = Match(count, int(places[which]), bool(variants[which]))
        return most


def _in_one_place(first: NDArray[np.float32], second: NDArray[np.float32]) -> int:
    """How many of the matched points (n, 2) one similarity transform explains; 0 where it halves or doubles sizes."""
    matrix, inside = cv2.estimateAffinePartial2D(
        first, second, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=300
    )
    if matrix is None or not 0.5 < float(np.hypot(matrix[0, 0], matrix[0, 1])) < 2:
        return 0
    # details that lie in one another count once
    kept = {tuple(point) for point in np.rint(first[inside.ravel() > 0] / TOLERANCE).astype(int).tolist()}
    return len(kept)


def _words(descriptors: NDArray[np.float32], sizes: NDArray[np.intp], seed: int) -> NDArray[np.float32]:
    """`WORDS` kinds of details (W, 128), by k-means over some of them."""
    from scipy.cluster.vq import kmeans2

    image, place = np.nonzero(np.arange(descriptors.shape[1]) < sizes[:, None])
    count = len(image)
    if count <= WORDS:
        return np.resize(descriptors[image, place], (WORDS, 128)) if count else np.zeros((WORDS, 128), np.float32)
    random = np.random.default_rng(seed)
    which = np.sort(random.choice(count, min(count, 20_000), replace=False))
    some = descriptors[image[which], place[which]]
    return np.asarray(kmeans2(some, WORDS, iter=10, minit="++", seed=seed)[0], np.float32)


def _signature(found: Details, words: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image as a whole, (W * 128,), by its details: residuals to the nearest kinds (VLAD, Jégou et al., 2010)."""
    result = np.zeros(words.shape, np.float32)
    if len(found.points):
        kind = ((found.descriptors @ words.T) - (words**2).sum(1) / 2).argmax(1)
        np.add.at(result, kind, found.descriptors - words[kind])
    result = np.sign(result) * np.sqrt(np.abs(result))  # many details of one kind do not outweigh the others
    result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-9)
    flat = result.ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9), np.float32)


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
