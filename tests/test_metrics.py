import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from siamese_diffusion.segmentation.metrics import SetScores, dice, iou, join, score, summary


def test_agree_with_torchmetrics_on_random_masks() -> None:
    random = torch.Generator().manual_seed(0)
    prediction = torch.rand(20, 16, 16, generator=random) < torch.rand(20, 1, 1, generator=random)
    target = torch.rand(20, 16, 16, generator=random) < 0.4
    expected_dice = [float(BinaryF1Score()(p.int(), t.int())) for p, t in zip(prediction, target, strict=True)]
    expected_iou = [float(BinaryJaccardIndex()(p.int(), t.int())) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(dice(prediction, target), expected_dice, atol=1e-6)
    np.testing.assert_allclose(iou(prediction, target), expected_iou, atol=1e-6)


def test_empty_masks() -> None:
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    for metric in (dice, iou):
        assert metric(empty, empty).tolist() == [1.0]
        assert metric(empty, full).tolist() == [0.0]
        assert metric(full, empty).tolist() == [0.0]
        assert metric(full, full).tolist() == [1.0]


def test_probabilities_are_cut_at_one_half() -> None:
    probabilities = torch.tensor([[[0.49, 0.5, 0.51, 0.99]]])
    target = torch.tensor([[[False, False, True, True]]])
    assert score(probabilities, target).dice.tolist() == [1.0]


def test_probabilities_in_place_of_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        dice(torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))


def test_summary_weighs_sets_and_images() -> None:
    large = SetScores(torch.full((3,), 0.9), torch.full((3,), 0.8))
    small = SetScores(torch.tensor([0.5]), torch.tensor([0.4]))
    result = summary({"large": large, "small": small})
    assert result["sets"]["large"] == pytest.approx({"mDice": 0.9, "mIoU": 0.8, "count": 3})
    assert result["mean"] == pytest.approx({"mDice": 0.7, "mIoU": 0.6})
    assert result["weighted"] == pytest.approx({"mDice": 0.8, "mIoU": 0.7})


def test_summary_without_sets() -> None:
    assert summary({}) == {"sets": {}, "mean": None, "weighted": None}


def with_healthy() -> SetScores:
    """Four images of 10 x 10: a lesion that is half found, one that is missed, a healthy one clean, one marked."""
    target, seen = torch.zeros(4, 10, 10, dtype=torch.bool), torch.zeros(4, 10, 10)
    target[:2, :4, :5] = True
    seen[0, :2, :5] = 0.9
    seen[3, 0, :5] = 0.9
    return score(seen, target)


def test_healthy_images_are_scored_apart() -> None:
    means = with_healthy().means()
    assert means["mDice"] == pytest.approx((20 / 30 + 0) / 2)
    assert means["mIoU"] == pytest.approx((10 / 20 + 0) / 2)
    assert (means["count"], means["healthy"], means["specificity"]) == (4, 2, 0.5)
    assert means["healthy_area"] == pytest.approx(0.05 / 2)
    columns = with_healthy().columns()
    assert columns["lesion"] == [1, 1, 0, 0]
    assert columns["marked"] == pytest.approx([0.1, 0, 0, 0.05])


def test_without_healthy_images_nothing_changes_and_without_lesions_there_is_no_dice() -> None:
    scores = with_healthy()
    sick = SetScores(scores.dice[:2], scores.iou[:2])
    parts = join([score(torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)) for _ in range(2)])
    for each in (sick, parts):
        assert set(each.means()) == {"mDice", "mIoU", "count"}
        assert set(each.columns()) == {"dice", "iou"}
    healthy = score(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)).means()
    assert healthy == {"count": 3, "healthy": 3, "specificity": 1.0, "healthy_area": 0.0}


def test_over_sets_each_figure_weighs_the_images_that_it_is_of() -> None:
    mixed = with_healthy()
    sick = score(torch.ones(6, 4, 4), torch.ones(6, 4, 4, dtype=torch.bool))
    healthy = score(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool))
    found = summary({"mixed": mixed, "sick": sick, "healthy": healthy})
    assert found["mean"] is not None
    assert found["weighted"] is not None
    own = mixed.means()["mDice"]
    assert found["mean"]["mDice"] == pytest.approx((own + 1) / 2)
    assert found["weighted"]["mDice"] == pytest.approx((2 * own + 6) / 8)
    assert found["mean"]["specificity"] == pytest.approx((0.5 + 1) / 2)
    assert found["weighted"]["specificity"] == pytest.approx((2 * 0.5 + 3) / 5)
    assert "count" not in found["mean"]
