"""How far a network's word can be trusted, on constructed pixels; and the page that says it."""

from pathlib import Path

import numpy as np
import pytest
from conftest import DiscPairs

from siamese_diffusion.config import Config, update
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import page
from siamese_diffusion.segmentation.findings import BINS, Findings
from siamese_diffusion.segmentation.segment import segment


def of(probability: float, lesion: float) -> Findings:
    """One image of 20 x 20 pixels that all have one probability, and of which a share is lesion."""
    found = Findings()
    mask = np.zeros(400, bool)
    mask[: round(400 * lesion)] = True
    found.add(mask.reshape(1, 20, 20), np.full((1, 20, 20), probability, np.float32))
    return found


@pytest.mark.parametrize(
    ("probability", "lesion", "error"), [(0.75, 0.75, 0.0), (0.9, 0.5, 0.4), (0.2, 0.6, 0.4), (1.0, 1.0, 0.0)]
)
def test_calibration_error_is_the_gap(probability: float, lesion: float, error: float) -> None:
    found = of(probability, lesion).calibration
    assert found["ece"] == pytest.approx(error, abs=1e-6)
    assert found["ece_seen"] == pytest.approx(error, abs=1e-6)


def test_background_that_nobody_doubts_hides_an_error() -> None:
    found = of(0.9, 0.5)
    for _ in range(9):
        found.join(of(0.01, 0.01))
    assert found.calibration["ece"] == pytest.approx(0.04, abs=1e-6)
    assert found.calibration["ece_seen"] == pytest.approx(0.4, abs=1e-6)
    assert found.count.sum() == 4000
    assert of(0.01, 0).calibration["ece_seen"] == 0


def test_missed_lesions_and_false_alarms() -> None:
    found = of(0.1, 0.3)  # a lesion, nothing marked
    for probability, lesion in ((0.9, 0.3), (0.9, 0.0), (0.1, 0.0)):
        found.join(of(probability, lesion))
    assert (found.lesions, found.missed, found.false_alarms) == (2, 1, 1)


def test_findings_are_read_back_or_refused(tmp_path: Path) -> None:
    found = of(0.3, 0.5)
    found.save(tmp_path / "f.json")
    again = Findings.load(tmp_path / "f.json")
    assert again.calibration == found.calibration
    assert (again.truth, again.seen) == (found.truth, found.seen)
    for text in (
        "{}",
        '{"count": 3}',
        "no",
        '{"count": [1], "probability": [1], "lesion": [1], "truth": [], "seen": []}',
    ):
        (tmp_path / "f.json").write_text(text)
        with pytest.raises(InputError, match=r"f\.json"):
            Findings.load(tmp_path / "f.json")


def shown(count: int, name: str = "set") -> page.Shown:
    random = np.random.default_rng(0)
    dice = random.uniform(0.2, 1, count)
    dice[0] = 0
    found = Findings(np.ones(BINS), np.ones(BINS), np.ones(BINS), [0.1] * count, [0.0] + [0.1] * (count - 1))
    return page.Shown(
        name,
        [f"<i>{i}" for i in range(count)],
        dice,
        dice / 2,
        found,
        lambda chosen: [np.zeros((32, 32, 3), np.uint8) for _ in chosen],
        "test/set.csv",
    )


@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_the_page_says_what_counts_and_is_whole(count: int, tmp_path: Path) -> None:
    page.write(tmp_path / "r.html", "Title", "A note.", [shown(count)], b"png", [], [["network", "<u>"]])
    text = (tmp_path / "r.html").read_text()
    assert "<i>" not in text
    assert "<u>" not in text
    assert "it missed 1 altogether" in text
    assert "A note." in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.count("&lt;i&gt;0<") == 1  # the worst image, once in the table
    rows = text.split("Image by image")[1].split("What was run")[0].count("<tr>") - 1
    assert rows == min(count, page.MOST_ROWS)
    assert ("The 50 worst of 200" in text) == (count == 200)


def test_a_run_leaves_its_page_and_curves(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, test = disc_pairs(count=6), disc_pairs(name="test <b>", seed=2, count=3)
    config = update(Config(), "segment", network="segformer", resolution=32, batch_size=2, steps=2, warmup=0)
    config = update(config, "segment", sample_every=1, lesion_weight=2.0)
    metrics = segment(data, tmp_path / "run", [test], config=config, device="cpu")
    assert metrics["calibration"]["test <b>"].keys() == {"ece", "ece_seen"}
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "run/report.html").read_text()
    assert "test set test &lt;b&gt;, 3 images: a mean Dice of" in text
    assert "test <b>" not in text
    assert "bce-dice, lesion weight 2" in text
    assert "picked by 2 validation pairs" in text
    segment(data, tmp_path / "alone", [], config=config, device="cpu")
    alone = (tmp_path / "alone/report.html").read_text()
    assert "These validation pairs picked the step, so the figures are too good" in alone
    assert (tmp_path / "alone/validation.csv").exists()
    with pytest.raises(InputError, match=r"segment\.lesion_weight = 2: makes no difference to segment\.loss = sanet"):
        segment(data, tmp_path / "not", [], config=update(config, "segment", loss="sanet"), device="cpu")
