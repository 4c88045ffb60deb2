"""Both arms of `segment`: their trainings belong together, and the sentence follows from the figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DiscPairs
from scipy.stats import t
from test_folds import settings, small

from siamese_diffusion.config import load_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.files import read_csv, read_json
from siamese_diffusion.reader_study.rating import export_ratings
from siamese_diffusion.segmentation import arms, networks, training
from siamese_diffusion.segmentation.improvement import OVER, Outcome, differences, verdict
from siamese_diffusion.segmentation.nnunet import export_nnunet
from siamese_diffusion.segmentation.predict import predict
from siamese_diffusion.segmentation.printed import render
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network, require_finished


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "create", small)


def test_both_arms_are_trained_and_compared(
    disc_pairs: DiscPairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, made, test = disc_pairs(), disc_pairs(name="made", seed=1), disc_pairs(6, name="test", seed=2)
    out = tmp_path / "arms"
    result = segment(data, out, [test], [made], config=settings(seed=4), device="cpu", seeds=2)
    runs = [f"{arm}/seed-{i}" for arm in ("real", "mixed") for i in range(2)]
    assert [row["run"] for row in result["runs"]] == runs
    alone, mixed = (load_config(out / run / "config.yaml") for run in ("real/seed-1", "mixed/seed-1"))
    assert alone == mixed
    assert alone.segment.seed == 5
    counts = [read_json(out / run / "metrics.json")["train"]["synthetic"] for run in runs]
    assert counts == [0, 0, 12, 12]
    entry = result["difference"]["test"]["mDice"]
    dice = [read_json(out / run / "metrics.json")["test"]["test"]["mDice"] for run in runs]
    changes = np.array(dice[2:]) - dice[:2]
    assert entry["mean"] == pytest.approx(changes.mean())
    reach = t.ppf(0.975, 1) * changes.std(ddof=1) / np.sqrt(2)
    assert entry["high"] - entry["mean"] == pytest.approx(reach)
    tables = [[float(row["dice"]) for row in read_csv(out / run / "test/test.csv", ["dice"])] for run in runs]
    of_images = np.mean(tables[2:], axis=0) - np.mean(tables[:2], axis=0)
    assert entry["images"]["low"] <= of_images.mean() <= entry["images"]["high"]
    assert result["sets"]["test"]["real"]["mDice"]["mean"] == pytest.approx(np.mean(dice[:2]))
    best = max(result["runs"], key=lambda row: float(row["val"]["mDice"]))
    assert result["best"] == best["run"]
    assert " ".join(capsys.readouterr().err.split()).count("looking for copies") <= 1
    lines = render(result, out).splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["test", "(6)", "mDice"], ["test", "(6)", "mIoU"]]
    assert len(lines) == 7
    assert result["verdict"]["because"] in lines
    page = (out / "report.html").read_text()
    assert "Does segmentation improve with the synthetic pairs?" in page
    assert "Those that lost most" in page

    # what comes out can be used, and one network is never taken for another without a word
    predict(out, test / "images", tmp_path / "seen", device="cpu")
    assert f"taken is {out / result['best']}" in "".join(capsys.readouterr().err.split("\n"))
    own = load_network(out / result["best"]).network.state_dict()
    assert all((own[name] == value).all() for name, value in load_network(out).network.state_dict().items())
    with pytest.raises(InputError, match="compares several networks, and one is asked for"):
        require_finished(out)


def test_a_killed_comparison_goes_on_where_it_was(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, made = disc_pairs(), disc_pairs(name="made", seed=1)
    given: dict[str, Any] = {"synthetic": [made], "config": settings(), "device": "cpu", "seeds": 2}
    whole = segment(data, tmp_path / "whole", [], **given)
    assert list(whole["sets"]) == ["validation pairs"]
    ran, run = [], training.run

    def killed(material: Any, out: Path, *rest: Any) -> Any:
        ran.append(f"{out.parent.name}/{out.name}")
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(material, out, *rest)

    monkeypatch.setattr(training, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        segment(data, tmp_path / "arms", [], **given)
    assert ran == ["real/seed-0", "mixed/seed-0", "real/seed-1"]  # pairs of trainings first
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        segment(data, tmp_path / "arms", [], **given)
    with pytest.raises(InputError, match="--seeds"):
        segment(data, tmp_path / "arms", [], **given | {"seeds": 3}, resume=True)
    with pytest.raises(InputError, match="holds what `segment --arms` wrote"):
        segment(data, tmp_path / "arms", [], **given | {"seeds": 1, "arms": "mixed"}, resume=True)
    assert segment(data, tmp_path / "arms", [], **given, resume=True) == whole
    monkeypatch.setattr(training, "run", lambda *rest: pytest.fail("trained again"))
    assert segment(data, tmp_path / "arms", [], **given, resume=True) == whole


def test_both_arms_over_folds(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, made, out = disc_pairs(9), disc_pairs(name="made", seed=1), tmp_path / "cv"
    result = segment(data, out, [], [made], config=settings(steps=2), device="cpu", folds=3)
    assert [row["run"] for row in result["runs"]] == [f"{arm}/fold-{i}" for arm in ("real", "mixed") for i in range(3)]
    assert result["sets"]["out of fold"]["count"] == 9
    entry = result["difference"]["out of fold"]["mDice"]
    held = [row["held_out"]["mDice"] for row in result["runs"]]
    assert entry["mean"] == pytest.approx(np.mean(held[3:]) - np.mean(held[:3]))
    assert entry["n"] == 3
    assert "3 folds" in render(result, out)


def test_several_trainings_of_one_arm(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs()
    result = segment(data, tmp_path / "out", [], config=settings(steps=2), device="cpu", seeds=2)
    assert [row["run"] for row in result["runs"]] == ["real/seed-0", "real/seed-1"]
    assert "verdict" not in result
    values = [row["val"]["mDice"] for row in result["runs"]]
    assert result["sets"]["validation pairs"]["real"]["mDice"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert "2 trainings, mean ± standard deviation" in render(result, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((True, "real", None, None), "--arms real: is both"),
        ((False, "both", None, None), "one arm alone without --synthetic"),
        ((True, None, 0, None), "--seeds 0: must be 1 or more"),
        ((True, None, 2, 5), "--seeds 2: not with --folds"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        arms.chosen(*given)


def test_which_arms_are_trained_by_default() -> None:
    assert arms.chosen(True, None, None, None) == (["real", "mixed"], 3)
    assert arms.chosen(True, "mixed", None, None) == (["mixed"], 1)
    assert arms.chosen(False, None, None, None) == (["real"], 1)
    assert arms.chosen(True, None, None, 5) == (["real", "mixed"], 1)


def outcome(means: list[float], images: list[float]) -> Outcome:
    return Outcome([{"a": {"mDice": mean}} for mean in means], {"a": {"mDice": np.array(images)}}, {"a": []})


@pytest.mark.parametrize(
    ("means", "images", "word", "begins"),
    [
        ([0.62, 0.63, 0.61], [0.1, 0.2, 0.15, 0.12], "good", "Yes: Dice is 12.0 points higher"),
        ([0.38, 0.37, 0.39], [-0.1, -0.2, -0.15, -0.12], "not good", "No, it gets worse: Dice is 12.0 points lower"),
        ([0.62, 0.30, 0.61], [0.1, 0.2, 0.15, 0.12], "cannot tell", "No difference can be shown"),
        ([0.62, 0.63, 0.61], [0.9, -0.5, 0.5, -0.4], "cannot tell", "No difference can be shown"),
        ([0.62], [0.1, 0.2, 0.15, 0.12], "cannot tell", "Dice is 12.0 points higher"),
    ],
)
def test_the_verdict_follows_from_both_intervals(
    means: list[float], images: list[float], word: str, begins: str
) -> None:
    real, mixed = outcome([0.5] * len(means), [0.0] * 4), outcome(means, images)
    entry = differences(real, mixed)["a"]["mDice"]
    found = verdict(entry, 4, "test images", "trainings", False)
    assert found.word == word
    assert found.because.startswith(begins)
    assert ("--seeds 3" in found.because) == (len(means) == 1)
    if word == "good":
        assert verdict(entry, 4, "validation pairs", "trainings", True).word == "doubtful"


def test_several_sets_count_once_each() -> None:
    real = Outcome(
        [{"a": {"mDice": 0.5}, "b": {"mDice": 0.6}}] * 2, {"a": {"mDice": np.zeros(2)}, "b": {"mDice": np.zeros(8)}}, {}
    )
    mixed = Outcome(
        [{"a": {"mDice": 0.6}, "b": {"mDice": 0.6}}, {"a": {"mDice": 0.8}, "b": {"mDice": 0.6}}],
        {"a": {"mDice": np.full(2, 0.2)}, "b": {"mDice": np.zeros(8)}},
        {},
    )
    found = differences(real, mixed)
    assert found["a"]["mDice"]["mean"] == pytest.approx(0.2)
    assert found[OVER]["mDice"]["mean"] == pytest.approx(0.1)
    assert found[OVER]["mDice"]["images"] == {"low": pytest.approx(0.1), "high": pytest.approx(0.1)}


def test_synthetic_pairs_are_refused_as_real_ones(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    from siamese_diffusion.diffusion.train import train

    real, made = disc_pairs(), disc_pairs(name="made", seed=1)
    names = [f"{i:03d}.png" for i in range(12)]
    rows = [{"image": f"images/{name}", "mask": f"masks/{name}", "synthetic": i > 3} for i, name in enumerate(names)]
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    calls: dict[str, Callable[[], Any]] = {
        "--train": lambda: segment(made, out, [real], config=settings(), device="cpu"),
        "--test": lambda: segment(real, out, [made], config=settings(), device="cpu"),
        "--real": lambda: evaluate(made, real, out, device="cpu"),
        "--data": lambda: train(made, out, device="cpu"),
        "--data ": lambda: export_nnunet(made, out, "NAME"),
        "--real ": lambda: export_ratings(made, [real], out, 2),
    }
    for option, call in calls.items():
        with pytest.raises(InputError, match=f"{option.strip()} .*made: 8 of 12 pairs are synthetic, .*004 is one"):
            call()
    assert not out.exists()
    assert DataFolder(real).require_real().pairs()
