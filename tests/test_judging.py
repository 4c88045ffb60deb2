"""What `train` says of itself: losses at fixed noise, the rules, the pairs that are held out, the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from tiny import TINY
from torch.nn import functional as F

from siamese_diffusion.config import Config, build_config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.splits import train_and_validation
from siamese_diffusion.diffusion import train as module
from siamese_diffusion.diffusion.judging import long_enough, masks_seen, render
from siamese_diffusion.diffusion.latents import LatentData
from siamese_diffusion.diffusion.probe import LEVELS, Probe
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.files import read_json, read_jsonl
from siamese_diffusion.randomness import generator


class Oracle:
    """Predicts the noise exactly where its hint is white, and nothing elsewhere."""

    def __init__(self) -> None:
        self.schedule = Schedule(torch.linspace(0.99, 0.01, 1000), "epsilon")
        self.noise: torch.Tensor | None = None

    def encode(self, noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return noisy, t

    def control(self, noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(hint[:, :1], (noisy.shape[-2], noisy.shape[-1]))

    def decode(
        self, encoded: tuple[torch.Tensor, torch.Tensor], text: torch.Tensor, control: torch.Tensor
    ) -> torch.Tensor:
        noisy, t = encoded
        _, spread = self.schedule.scales(t)
        return control * noisy / spread  # the latents are 0, so that this is the noise


def data(masks: np.ndarray[Any, Any]) -> LatentData:
    count = len(masks)
    return LatentData(
        np.zeros((count, 1, 2, 4, 8, 8), np.float32),
        torch.zeros(2, 3, 4),
        [0] * count,
        np.zeros((count, 16, 16, 3), np.uint8),
        masks,
    )


def test_errors_count_where_the_masks_differ() -> None:
    """Left halves and right halves in turn: with its own mask half of the region is right, and so with the other's."""
    masks = np.zeros((4, 16, 16), bool)
    masks[:2, :, :8] = masks[2:, :, 8:] = True
    masks[3] = masks[1]  # one pair of equal masks
    model: Any = Oracle()
    probe = Probe(data(masks), None, 1000, 0)
    found = probe.losses(model, probe.seen, torch.device("cpu"))
    assert found.whole.shape == (4,)
    assert np.isnan(found.own).sum() in (0, 2)
    assert probe.figures(model, torch.device("cpu")) == {"seen": pytest.approx(found.whole.mean())}
    np.testing.assert_array_equal(found.whole, probe.losses(model, probe.seen, torch.device("cpu")).whole)

    masks = np.zeros((2, 16, 16), bool)
    masks[0, :, :8] = True  # the other is healthy
    probe = Probe(data(masks), None, 1000, 0)
    found = probe.losses(model, probe.seen, torch.device("cpu"))
    order = torch.randperm(2, generator=generator(0, 8, 2)).tolist()
    lesion = order.index(0)
    assert found.own[lesion] == pytest.approx(0, abs=1e-9)  # the noise is predicted there, and nothing with the other
    assert found.other[lesion] == pytest.approx(1, abs=0.2)  # 4 levels of 128 values
    assert found.own[1 - lesion] == pytest.approx(1, abs=0.2)
    assert found.other[1 - lesion] == pytest.approx(0, abs=1e-9)
    assert len(LEVELS) == 4


@pytest.mark.parametrize(
    ("own", "other", "word"),
    [
        ([0.5] * 8, [1.0] * 8, "good"),
        ([0.95, 0.96] * 4, [1.0] * 8, "doubtful"),
        ([0.9, 1.1] * 4, [1.0] * 8, "not good"),
        ([1.2] * 8, [1.0] * 8, "not good"),
        ([0.5] * 3 + [np.nan] * 5, [1.0] * 3 + [np.nan] * 5, "cannot tell"),
    ],
)
def test_whether_masks_are_seen(own: list[float], other: list[float], word: str) -> None:
    found = masks_seen(np.array(own), np.array(other), True)
    assert found.word == word
    assert ("train.hint_rate" in found.because) == (word in ("doubtful", "not good"))


@pytest.mark.parametrize(
    ("curve", "word", "says"),
    [
        ([0.30, 0.25, 0.22, 0.20, 0.19, 0.18], "doubtful", "still falls: by 10.0 % since step 400"),
        ([0.30, 0.20, 0.18, 0.18, 0.1795, 0.179], "good", "is level"),
        ([0.30, 0.20, 0.18, 0.185, 0.19, 0.20], "not good", "lowest at step 300 and has risen by 11.1 %"),
        ([0.30, 0.20, 0.18], "cannot tell", "looked at 3 times"),
        ([], "cannot tell", "No pairs were held out"),
    ],
)
def test_whether_training_was_long_enough(curve: list[float], word: str, says: str) -> None:
    looks = {100 * i: {"seen": 0.1, "held_out": value} for i, value in enumerate(curve, 1)} or {100: {"seen": 0.1}}
    found = long_enough(looks)
    assert found.word == word
    assert says in found.because


def config(**train: Any) -> Config:
    return update(update(build_config(TINY, "tests"), "data", split=None), "train", **train)


def names(pairs: Any) -> set[str]:
    return {pair.name for pair in pairs}


def test_pairs_are_held_out_as_segment_does(disc_pairs: DiscPairs) -> None:
    many, few = DataFolder(disc_pairs(50)), DataFolder(disc_pairs(39, name="few"))
    settings = config()
    trained, held = module._hold_out(many, settings)
    validation = train_and_validation(many, many.pairs(), settings.segment.validation, settings.segment.seed)[1]
    assert names(held) == names(validation)  # the generator has not seen what picks the segmentation network's step
    assert len(held) == 5
    assert names(trained) == names(many.pairs()) - names(held)
    for folder, changed in ((few, settings), (many, config(set_aside=0.0))):
        trained, held = module._hold_out(folder, changed)
        assert names(trained) == names(folder.pairs())
        assert held == []


def test_a_val_list_takes_no_pair_away(disc_pairs: DiscPairs) -> None:
    lists = {"train": [f"{i:03d}" for i in range(8)], "val": [f"{i:03d}" for i in range(8, 50)]}
    folder = DataFolder(disc_pairs(50, splits=lists))
    trained, held = module._hold_out(folder, update(config(), "data", split="train"))
    assert names(trained) == set(lists["train"])
    assert len(held) == 32
    assert names(held) < set(lists["val"])


def test_train_ends_with_verdicts_and_a_page(
    pairs: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENOUGH", 8)
    run = tmp_path / "run"
    settings = update(config(), "train", steps=4, sample_every=1, set_aside=0.25)
    result = module.train(pairs, run, str(backbone), config=settings, device="cpu")
    assert (result["pairs"], result["held_out"]) == (6, 2)
    rows = [row for row in read_jsonl(run / "log.jsonl") if "held_out" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [each["question"] for each in result["verdicts"]] == ["Are the masks seen?", "Was training long enough?"]
    assert result == read_json(run / "summary.json")
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for each in result["verdicts"]:
        assert each["because"].split(".")[0] in page
        assert each["because"] in render(result)
    again = module.train(pairs, tmp_path / "again", str(backbone), config=settings, device="cpu")
    assert again["verdicts"] == result["verdicts"]
    assert json.dumps(result)
