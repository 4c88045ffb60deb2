"""Statistics of masks, tests of two sets, near copies, and the verdict."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from siamese_diffusion.config import EvaluateConfig
from siamese_diffusion.evaluation.masks_page import MaskSets
from siamese_diffusion.evaluation.masks_report import measure
from siamese_diffusion.evaluation.metrics.mask_verdict import verdict
from siamese_diffusion.evaluation.metrics.masks import (
    compare,
    describe,
    diversity,
    ious,
    ks_test,
    nearest,
    perimeter,
)

SIZE = 48
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5


def ellipses(count: int, seed: int, low: float = 4, high: float = 12) -> np.ndarray:
    """Label maps of one ellipse each, anywhere."""
    random = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        y, x = random.uniform(0.2, 0.8, 2) * SIZE
        a, b = random.uniform(low, high, 2)
        masks.append(((ROWS - y) / a) ** 2 + ((COLUMNS - x) / b) ** 2 < 1)
    return np.stack(masks).astype(np.uint8)


class TestDescribe:
    def test_of_a_rectangle(self) -> None:
        mask = np.zeros((1, 40, 80), np.uint8)
        mask[0, 10:20, :40] = 1
        found = describe(mask)
        assert found["area"][0] == pytest.approx(400 / 3200)
        assert found["x"][0] == pytest.approx(0.25)
        assert found["y"][0] == pytest.approx(0.375)
        assert found["parts"][0] == 1
        assert found["border"][0] == pytest.approx(10 / 236)

    def test_a_disc_is_compact_and_a_line_is_not(self) -> None:
        disc = ((ROWS - 24) ** 2 + (COLUMNS - 24) ** 2 < 15**2).astype(np.uint8)
        line = np.zeros((SIZE, SIZE), np.uint8)
        line[24, 2:46] = 1
        compactness = describe(np.stack([disc, line]))["compactness"]
        assert compactness[0] > 0.95
        assert compactness[1] < 0.3

    def test_the_perimeter_of_a_disc(self) -> None:
        for radius in (8, 15, 20):
            disc = np.hypot(ROWS - 24, COLUMNS - 24) < radius
            assert perimeter(disc) == pytest.approx(2 * np.pi * radius, rel=0.03)

    def test_parts_are_counted_without_specks(self) -> None:
        mask = np.zeros((1, 100, 100), np.uint8)
        mask[0, 10:20, 10:20] = mask[0, 60:70, 60:70] = mask[0, 90, 5] = 1
        assert describe(mask)["parts"][0] == 2

    def test_of_several_classes(self) -> None:
        labels = np.zeros((2, 40, 40), np.uint8)
        labels[0, :10, :10], labels[0, 30:, 30:] = 1, 2
        labels[1, :20, :20] = 1
        found = describe(labels, {1: "adenoma", 2: "hyperplastic"})
        assert found["area of hyperplastic"].tolist() == pytest.approx([100 / 1600, 0])
        assert found["x of hyperplastic"].tolist() == pytest.approx([0.875])
        assert found["area"].tolist() == pytest.approx([200 / 1600, 400 / 1600])
        assert found["parts of adenoma"].tolist() == [1, 1]


class TestTwoSets:
    def test_the_distance_is_that_of_kolmogorov_and_smirnov(self) -> None:
        random = np.random.default_rng(0)
        for first, second in (
            (random.normal(size=50), random.normal(0.5, 1, 70)),
            (random.integers(1, 4, 60).astype(float), random.integers(1, 3, 40).astype(float)),
        ):
            assert ks_test(first, second)[0] == pytest.approx(ks_2samp(first, second).statistic)

    def test_p_is_near_that_of_theory_without_ties(self) -> None:
        random = np.random.default_rng(1)
        first, second = random.normal(size=80), random.normal(0.35, 1, 80)
        assert ks_test(first, second)[1] == pytest.approx(ks_2samp(first, second).pvalue, abs=0.03)

    def test_equal_sets_are_not_told_apart_and_different_ones_are(self) -> None:
        values = np.linspace(0, 1, 100)
        assert ks_test(values, values)[1] == 1
        assert ks_test(values, values + 2) == (1, 1 / 5000)
        assert ks_test(np.ones(50), np.ones(60)) == (0, 1)

    def test_chance_finds_as_many_as_it_should_where_values_are_tied(self) -> None:
        random = np.random.default_rng(2)
        counts = [1.0, 1.0, 1.0, 1.0, 2.0, 3.0]
        found = [ks_test(random.choice(counts, 60), random.choice(counts, 60), i)[1] for i in range(60)]
        assert np.mean(np.array(found) < 0.1) < 0.25

    def test_the_table(self) -> None:
        small, large = describe(ellipses(60, 0, 3, 6)), describe(ellipses(60, 1, 9, 14))
        found = compare(small, large)
        area = found["area"]
        assert area["low"] < area["difference"] < area["high"] < 0
        assert area["p"] < 0.001
        assert compare(small, small)["area"]["difference"] == 0
        assert compare({"x": np.array([0.5])}, {"x": np.array([0.5, 0.6])}) == {}

    def test_the_same_value_everywhere_has_an_interval_of_no_width(self) -> None:
        found = compare({"parts": np.ones(20)}, {"parts": np.ones(30)})["parts"]
        assert (found["low"], found["difference"], found["high"], found["p"]) == (0, 0, 0, 1)


class TestCopies:
    def test_iou_is_of_pixels_of_the_same_class(self) -> None:
        first = np.array([[[1, 1, 0, 2]], [[0, 0, 0, 0]]], np.uint8)
        second = np.array([[[1, 2, 0, 2]], [[0, 0, 0, 0]]], np.uint8)
        assert ious(first, second)[0, 0] == pytest.approx(2 / 3)
        assert ious(first, second)[1].tolist() == [0, 1]

    def test_a_flipped_copy_is_found(self) -> None:
        real = ellipses(30, 0)
        drawn = np.stack([real[7][:, ::-1], real[3][::-1], real[5], real[9][::-1, ::-1]])
        found = nearest(drawn, real)
        assert found.place.tolist() == [7, 3, 5, 9]
        assert found.flip.tolist() == [1, 2, 0, 3]
        assert found.iou == pytest.approx(1)

    def test_apart_compares_no_mask_with_itself(self) -> None:
        real = ellipses(300, 0)
        found = nearest(real, real, apart=True)
        assert (found.place != np.arange(300)).all()
        twice = np.concatenate([real[:1], real[:1], real[1:5]])
        assert nearest(twice, twice, apart=True).iou[:2] == pytest.approx(1)

    def test_copies_are_flagged_and_new_masks_are_not(self) -> None:
        real, held = ellipses(150, 0), ellipses(150, 1)
        copied = measure(MaskSets(real[:60], real, held), EvaluateConfig())["copies"]
        fresh = measure(MaskSets(ellipses(60, 2), real, held), EvaluateConfig())["copies"]
        assert copied["share"] == 1
        assert fresh["share"] <= 0.1
        assert fresh["measured_on"] == {"masks": "held-out", "count": 150}
        assert fresh["low"] <= fresh["share"] <= fresh["high"]
        assert copied["nearest"][0]["iou"] == pytest.approx(1)

    def test_diversity(self) -> None:
        one = ellipses(1, 0).repeat(20, 0)
        assert diversity(one) == pytest.approx(0, abs=1e-6)
        apart = np.zeros((3, 8, 8), np.uint8)
        apart[0, 0], apart[1, 3], apart[2, 6] = 1, 1, 1
        assert diversity(apart) == pytest.approx(1)
        assert 0 < diversity(ellipses(50, 0)) < 1


class TestMeasure:
    def test_one_distribution_is_good_and_another_is_not(self) -> None:
        real, held = ellipses(120, 0), ellipses(120, 1)
        same = measure(MaskSets(ellipses(120, 2), real, held), EvaluateConfig())
        other = measure(MaskSets(ellipses(120, 3, 10, 18), real, held), EvaluateConfig())
        assert other["verdict"]["word"] == "not good"
        assert "area (p" in other["verdict"]["because"]
        assert same["verdict"]["word"] in ("good", "doubtful")
        assert same["counts"] == {"drawn": 120, "real": 120, "held_out": 120}

    def test_empty_masks_are_counted_and_left_out(self) -> None:
        empty = np.zeros((4, SIZE, SIZE), np.uint8)
        sets = MaskSets(np.concatenate([ellipses(20, 2), empty]), ellipses(30, 0), np.concatenate([empty, empty]))
        found = measure(sets, EvaluateConfig())
        assert found["empty"] == {"drawn": 4, "real": 0, "held_out": 8}
        assert found["counts"] == {"drawn": 20, "real": 30, "held_out": 0}
        assert found["held_out"] is None
        assert found["copies"]["measured_on"]["masks"] == "training"


def figures(**changes: Any) -> dict[str, Any]:
    test = {"p": 0.4}
    return {
        "counts": {"drawn": 400, "real": 400, "held_out": 400},
        "held_out": {"area": test, "x": dict(test)},
        "training": {"area": test},
        "copies": {
            "share": 0.01,
            "low": 0.005,
            "high": 0.02,
            "false_alarm_rate": 0.01,
            "measured_on": {"masks": "held-out", "count": 400},
        },
        "diversity": {"drawn": 0.85, "real": 0.86},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "word", "words"),
    [
        ({}, "good", "No statistic tells drawn masks from held-out ones"),
        ({"held_out": {"area": {"p": 0.005}, "x": {"p": 0.5}}}, "doubtful", "differ from held-out ones in area"),
        ({"held_out": {"area": {"p": 0.0002}}}, "not good", "area"),
        ({"diversity": {"drawn": 0.7, "real": 0.86}}, "doubtful", "0.70"),
        ({"diversity": {"drawn": 0.4, "real": 0.86}}, "not good", "0.40"),
        ({"counts": {"drawn": 30, "real": 400, "held_out": 400}}, "cannot tell", "30 masks are too few"),
        ({"held_out": None}, "good", "from training ones"),
    ],
)
def test_verdict(changes: dict[str, Any], word: str, words: str) -> None:
    found = verdict(figures(**changes))
    assert found.word == word
    assert words in found.because


def test_copies_decide_too() -> None:
    copies = figures()["copies"]
    assert verdict(figures(copies={**copies, "share": 0.05, "low": 0.02})).word == "doubtful"
    assert verdict(figures(copies={**copies, "share": 0.3, "low": 0.2})).word == "not good"
    few = {"drawn": 20, "real": 400, "held_out": 400}
    assert verdict(figures(copies={**copies, "share": 0.3, "low": 0.2}, counts=few)).word == "not good"
