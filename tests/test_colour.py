import numpy as np
import pytest
import torch
from recorded import recording
from torch.nn import functional as F

from siamese_diffusion.segmentation.colour import Overflow, correct, exchange, statistics


@pytest.mark.parametrize("strength", ["mild", "strong"])
@pytest.mark.parametrize(("overflow", "result"), [("wrap", "result"), ("clip", "result_clipped_variant")])
def test_colour_exchange_is_the_recorded_one(strength: str, overflow: Overflow, result: str) -> None:
    stored = recording("sanet_ops")
    image, donor = stored[f"cx.{strength}.image"], stored[f"cx.{strength}.donor"]
    found = exchange(image, statistics(donor), overflow).astype(int)
    different = np.abs(found - stored[f"cx.{strength}.{result}"]) > 0
    assert different.mean() < 1e-3  # OpenCV's own rounding may differ by version
    if strength == "strong" and overflow == "clip":
        assert (np.abs(found - stored["cx.strong.result"]).max(2) > 50).sum() > 20  # the two readings do differ


def test_an_image_of_one_colour_takes_the_donors_mean() -> None:
    grey = np.full((8, 8, 3), 90, np.uint8)
    donor = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    found = exchange(grey, statistics(donor))
    assert np.ptp(found.reshape(-1, 3), axis=0).tolist() == [0, 0, 0]
    np.testing.assert_allclose(statistics(found).mean, statistics(donor).mean, atol=2)


def test_an_image_is_its_own_donor() -> None:
    image = np.random.default_rng(1).integers(60, 200, (16, 16, 3), dtype=np.uint8)
    assert np.abs(exchange(image, statistics(image)).astype(int) - image).max() <= 12  # Lab has fewer colours than RGB


@pytest.mark.parametrize("case", ["mixed", "all_negative", "same_size"])
def test_probability_correction_is_the_recorded_one(case: str) -> None:
    stored = recording("sanet_ops")
    expected = stored[f"pcs.{case}.corrected"]
    logits = torch.from_numpy(stored[f"pcs.{case}.logits"])[None, None]
    resized = F.interpolate(logits, size=expected.shape, mode="bilinear", align_corners=True)
    found = correct(resized)[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    picture = np.rint(found.sigmoid().numpy() * 255)
    assert np.abs(picture - stored[f"pcs.{case}.saved_map"]).max() <= 1


def test_correction_goes_by_image_and_changes_no_sign() -> None:
    logits = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    logits[2, 0, 0, 0] = 0.0
    together = correct(logits)
    assert torch.equal(together.sign(), logits.sign())
    assert (together.abs() >= logits.abs()).all()
    torch.testing.assert_close(together[1:2], correct(logits[1:2]))
