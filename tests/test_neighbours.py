import numpy as np
import pytest
from scipy.spatial.distance import cdist

from siamese_diffusion.evaluation.metrics import neighbours
from siamese_diffusion.evaluation.metrics.neighbours import nearest, within


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "KEYS", 5)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_find_what_all_distances_at_once_find() -> None:
    random = np.random.default_rng(0)
    queries, keys = random.normal(size=(20, 6)), random.normal(size=(33, 6))
    expected = cdist(queries, keys)
    found = nearest(queries, keys, 4)
    np.testing.assert_array_equal(found.place, np.argsort(expected, 1)[:, :4])
    np.testing.assert_allclose(found.distance, np.sort(expected, 1)[:, :4], rtol=1e-5)
    radii = random.uniform(1, 3, 33)
    np.testing.assert_array_equal(within(queries, keys, radii), (expected <= radii).sum(1))


@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_variant_of_a_key_counts_and_a_key_only_once() -> None:
    random = np.random.default_rng(1)
    queries, variants = random.normal(size=(9, 4)), random.normal(size=(3, 12, 4))
    each = np.stack([cdist(queries, keys) for keys in variants])
    found = nearest(queries, list(variants), 5)
    np.testing.assert_array_equal(found.place, np.argsort(each.min(0), 1)[:, :5])
    np.testing.assert_array_equal(found.variant, np.take_along_axis(each.argmin(0), found.place, 1))


@pytest.mark.usefixtures("small_blocks")
def test_excluded_keys_do_not_count() -> None:
    rows = np.random.default_rng(2).normal(size=(17, 3))
    found = nearest(rows, rows, 2, exclude=np.arange(17))
    apart = cdist(rows, rows) + np.diag(np.full(17, np.inf))
    np.testing.assert_array_equal(found.place[:, 0], apart.argmin(1))
    with pytest.raises(ValueError, match="17 neighbours among 16"):
        nearest(rows, rows, 17, exclude=np.arange(17))


def test_a_near_copy_far_from_the_origin_keeps_its_small_distance() -> None:
    keys = np.random.default_rng(3).normal(1000, 1, (50, 64)).astype(np.float32)
    found = nearest(keys + np.float32(0.001), keys)
    np.testing.assert_array_equal(found.place[:, 0], np.arange(50))
    np.testing.assert_allclose(
        found.distance[:, 0], np.linalg.norm((keys + np.float32(0.001)) - keys, axis=1), rtol=0.1
    )
