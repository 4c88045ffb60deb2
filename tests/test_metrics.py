import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from siamese_diffusion.segmentation.metrics import SetScores, dice, iou, score, summary


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
