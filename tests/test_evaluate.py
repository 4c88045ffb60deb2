import json
from pathlib import Path

import pytest
import torch
from conftest import DiscPairs
from PIL import Image
from torch import Tensor, nn

from siamese_diffusion.config import Config, update
from siamese_diffusion.data import folder
from siamese_diffusion.data.layouts import Listing, detect
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import evaluate as scoring
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.segmentation import networks

SPLITS = {"train": [f"{i:03d}" for i in range(10)], "test": ["010", "011"]}


def tiny() -> Config:
    config = update(Config(), "segment", resolution=32, batch_size=8, warmup=5, sample_every=30, checkpoint_every=30)
    return update(update(config, "evaluate", fit_steps=30), "data", resolution=32, limit=2)


class Reds(nn.Module):
    """Finds the discs, which alone are redder than 0.45, before any training."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.AvgPool2d(8)
        self.predict = nn.Conv2d(3, 1, 1)
        with torch.no_grad():
            self.predict.weight.copy_(torch.tensor([20.0, 0.0, 0.0]).view(1, 3, 1, 1))
            self.predict.bias.fill_(-9.0)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        self.coarse(images)  # its smallest map is what the judge's features are of
        logits: Tensor = self.predict(images)
        return logits


def test_end_to_end_and_a_set_that_ignores_its_masks_scores_worse(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "create", lambda name, pretrained=False: Reds())
    config = update(update(tiny(), "evaluate", fit_steps=2), "segment", learning_rate=1e-9)  # it stays what it was
    real, good = disc_pairs(splits=SPLITS), disc_pairs(name="good", seed=1, count=30)
    wrong = disc_pairs(name="wrong", seed=1, count=30, shift=12)
    looks: list[Path] = []

    def look(path: Path) -> Listing | None:
        looks.append(path)
        return detect(path)

    monkeypatch.setattr(folder, "detect", look)
    metrics = evaluate(real, good, tmp_path / "out", config=config)
    assert sorted(looks) == sorted([real, good])  # a folder is opened once, and handed on to the judge's training
    fit = metrics["fit"]
    assert fit["dice"]["low"] <= fit["dice"]["mean"] <= fit["dice"]["high"]
    assert fit["dice"]["mean"] > 0.999
    assert fit["shuffled"]["mean"] < fit["dice"]["mean"] - 0.1
    assert fit["judge"]["on"] == "test"
    assert fit["judge"]["count"] == 2
    assert fit["ratio"] == pytest.approx(fit["dice"]["mean"] / fit["judge"]["dice"])
    assert set(metrics["appearance"]) == {"real", "synthetic", "difference", "yardstick"}
    assert metrics["counts"] == {"real": 10, "synthetic": 30, "held_out": 2}
    judge = json.loads((tmp_path / "out" / "judge" / "metrics.json").read_text())
    assert judge["train"]["real"] == 8  # all training pairs: data.limit is not for the judge
    assert judge["train"]["synthetic"] == 0

    rows = (tmp_path / "out" / "fit.csv").read_text().splitlines()
    assert rows[0] == "name,dice,iou,boundary"
    assert len(rows) == 31
    assert sum(float(row.split(",")[1]) for row in rows[1:]) / 30 == pytest.approx(fit["dice"]["mean"], abs=1e-5)
    assert Image.open(tmp_path / "out" / "worst.png").width > 6 * 192

    other = evaluate(real, wrong, tmp_path / "other", config=config, judge=tmp_path / "out" / "judge")
    assert other["fit"]["dice"]["mean"] < 0.4
    assert other["fit"]["judge"] == fit["judge"]
    assert other["appearance"] == metrics["appearance"]
    assert not (tmp_path / "other" / "judge").exists()


def test_without_a_test_split_the_judge_is_measured_on_its_validation_pairs(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = disc_pairs(), disc_pairs(name="made", seed=1)
    config = update(tiny(), "evaluate", fit_steps=2)
    metrics = evaluate(real, made, tmp_path / "out", config=config)
    judge = json.loads((tmp_path / "out" / "judge" / "metrics.json").read_text())
    expected = {"dice": judge["val"]["mDice"], "boundary": None, "on": "validation", "count": 2}
    assert metrics["fit"]["judge"] == expected
    aside = metrics["protocol"]["set_aside"]  # stand in for held-out images, of which there are none
    assert len(aside) == 4
    assert set(aside) < {f"{i:03d}" for i in range(12)}
    assert all(isinstance(entry["real"], float) for entry in metrics["quality"].values())
    assert aside[0] in (tmp_path / "out" / "report.html").read_text()
    assert metrics["novelty"]["measured_on"] == {"images": "half of the training images", "count": 6}

    with pytest.raises(InputError, match="already holds results"):
        evaluate(real, made, tmp_path / "out", config=config)
    (tmp_path / "out" / "metrics.json").unlink()  # killed after the judge was trained
    with pytest.raises(InputError, match="already holds results; add --resume"):
        evaluate(real, made, tmp_path / "out", config=config)
    assert evaluate(real, made, tmp_path / "out", config=config, resume=True) == metrics
    monkeypatch.setattr(scoring, "compare", lambda *args: pytest.fail("scored again"))
    assert evaluate(real, made, tmp_path / "out", config=config, resume=True) == metrics


def test_bad_input(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    real = disc_pairs(splits=SPLITS)
    with pytest.raises(InputError, match="at least two pairs"):
        evaluate(real, disc_pairs(name="one", count=1), tmp_path / "out", config=tiny())
    with pytest.raises(InputError, match="at least four pairs"):
        evaluate(disc_pairs(name="three", count=3), real, tmp_path / "out", config=tiny())
    made = disc_pairs(name="made")
    with pytest.raises(InputError, match="not a finished run"):
        evaluate(real, made, tmp_path / "out", config=tiny(), judge=tmp_path)
    with pytest.raises(InputError, match="--features fid: no such extractor"):
        evaluate(real, made, tmp_path / "out", config=tiny(), features="judge,fid")
    with pytest.raises(InputError, match="names no extractor"):
        evaluate(real, made, tmp_path / "out", config=tiny(), features=" , ")
    assert not (tmp_path / "out").exists()  # all of it was told before the judge was trained
