"""Cross-validation: folds that share nothing, runs that go on where they were, and what comes of them together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from PIL import Image
from torch import nn

from siamese_diffusion.config import Config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.folds import SIZES, apart_from, draw_folds
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_csv, read_json, read_jsonl
from siamese_diffusion.segmentation import batches, networks, training
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.ensemble import Ensemble
from siamese_diffusion.segmentation.predict import predict
from siamese_diffusion.segmentation.printed import render
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import fold_runs, load_network, require_finished


def small(name: str, pretrained: bool = False) -> nn.Module:
    """A convolution from the seed's random weights."""
    return nn.Conv2d(3, 1, 3, padding=1)


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "create", small)


def settings(**entries: Any) -> Config:
    own = {"resolution": 32, "batch_size": 4, "steps": 6, "warmup": 0, "sample_every": 2, "checkpoint_every": 2}
    return update(update(Config(), "data", split=None), "segment", **(own | entries))


def pairs_of(folder: Path, areas: list[int], groups: list[str] | None = None) -> list[Pair]:
    """Pairs whose lesions have so many pixels of 1024."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows = []
    for i, area in enumerate(areas):
        mask = np.zeros(1024, bool)
        mask[:area] = True
        image = np.where(mask[:, None], (200, 60, 60), (60, 60, 60)).astype(np.uint8).reshape(32, 32, 3)
        Image.fromarray(image).save(folder / "images" / f"p{i:02d}.png")
        Image.fromarray((mask.reshape(32, 32) * 255).astype(np.uint8)).save(folder / "masks" / f"p{i:02d}.png")
        row = {"image": f"images/p{i:02d}.png", "mask": f"masks/p{i:02d}.png"}
        rows.append(row | ({"group": groups[i]} if groups else {}))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataFolder(folder).pairs()


def test_folds_are_disjoint_whole_and_alike(tmp_path: Path) -> None:
    areas = [0] * 8 + [10, 12, 14, 16] + [100, 110, 120, 130] + [400, 410, 420, 430]
    pairs = pairs_of(tmp_path / "a", areas)
    folds = draw_folds(pairs, 4, seed=0)
    assert sorted(pair.name for fold in folds for pair in fold) == [pair.name for pair in pairs]
    for fold in folds:
        found = sorted(int(pair.mask.read().sum()) for pair in fold)
        assert found[:2] == [0, 0]
        assert [area // 90 for area in found[2:]] == [0, 1, 4]
    names = [[[pair.name for pair in fold] for fold in draw_folds(pairs, 4, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert SIZES == 3


def test_a_fold_without_a_lesion_is_refused(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path / "a", [0] * 9 + [20, 30])
    with pytest.raises(InputError, match="--folds 3: some fold would have no image with a lesion"):
        draw_folds(pairs, 3, seed=0)
    assert len(draw_folds(pairs, 2, seed=0)) == 2


def test_a_group_is_in_one_fold(tmp_path: Path) -> None:
    groups = ["big"] * 6 + [f"g{i // 2}" for i in range(12)]
    pairs = pairs_of(tmp_path / "a", [10 + i for i in range(18)], groups)
    folds = draw_folds(pairs, 3, seed=0)
    where = [{pair.group for pair in fold} for fold in folds]
    assert all(where)
    assert sum(map(len, where)) == len(set(groups))
    assert [len(fold) for fold in folds] == [6, 6, 6]
    with pytest.raises(InputError, match=r"--folds 8: there are only 7 groups"):
        draw_folds(pairs, 8, seed=0)
    with pytest.raises(InputError, match=r"--folds 1: must be at least 2"):
        draw_folds(pairs, 1, seed=0)


def test_synthetic_pairs_of_a_held_out_pair_are_left_out(tmp_path: Path) -> None:
    real, made = pairs_of(tmp_path / "a", [9] * 4), pairs_of(tmp_path / "b", [9] * 5)
    origins: list[dict[str, Any]] = [
        {"source_mask": "p00"},
        {"source_mask": "p02"},
        {"source": "p02", "target": "p00"},
        {"source": None},
        {},
    ]
    told = [Pair(pair.name, pair.image, pair.mask, None, origin) for pair, origin in zip(made, origins, strict=True)]
    kept, unknown = apart_from(told, real[:1], real[1:])
    assert [pair.name for pair in kept] == ["p01", "p03", "p04"]
    assert unknown == 2


def test_each_pair_is_seen_by_a_network_that_has_not_met_it(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, test = disc_pairs(count=9), disc_pairs(name="test", seed=2, count=3)
    read: list[set[str]] = []
    load = batches.load

    def noting(pairs: Any, *args: Any) -> Any:
        read.append({pair.name for pair in pairs})
        return load(pairs, *args)

    monkeypatch.setattr(training, "load", noting)
    out = tmp_path / "cv"
    summary = segment(data, out, [test], config=settings(), device="cpu", folds=3)
    assert summary == read_json(out / "summary.json")
    folds = read_json(out / "folds.json")
    assert sorted(name for fold in folds.values() for name in fold) == [f"{i:03d}" for i in range(9)]
    for i, held in enumerate(folds.values()):
        validation, real = read[2 * i], read[2 * i + 1]
        assert validation | real | set(held) == {f"{i:03d}" for i in range(9)}
        assert len(validation) + len(real) + len(held) == 9
    rows = read_csv(out / "out-of-fold/scores.csv", ["name", "fold", "dice", "iou", "lesion_share", "marked_share"])
    assert {row["name"]: f"fold-{row['fold']}" for row in rows} == {
        name: fold for fold, names in folds.items() for name in names
    }
    dice = [float(row["dice"]) for row in rows]
    assert summary["out_of_fold"]["mDice"] == pytest.approx(np.mean(dice), abs=1e-5)
    by_fold = [np.mean(dice[3 * i : 3 * i + 3]) for i in range(3)]
    assert summary["mean"]["mDice"] == pytest.approx(np.mean(by_fold), abs=1e-5)
    assert summary["sd"]["mDice"] == pytest.approx(np.std(by_fold, ddof=1), abs=1e-5)
    tested = [row["test"]["test"]["mDice"] for row in summary["per_fold"]]
    assert summary["test"]["test"]["mean"]["mDice"] == pytest.approx(np.mean(tested))
    one = load_network(out / "fold-1")
    name = folds["fold-1"][0]
    label = np.asarray(Image.open(out / f"out-of-fold/masks/{name}.png"))
    assert np.array_equal(label > 0, one.predict(data / "images" / f"{name}.png"))
    told = render(summary, out).splitlines()
    assert [line.split(":")[0] for line in told] == ["fold 0", "fold 1", "fold 2", "all 9 images", "the report"]
    page = (out / "report.html").read_text()
    assert "fold 2" in page
    assert "Each image was seen by one of 3 networks" in page
    assert (out / "curves.png").exists()


def test_the_networks_together_are_the_mean_of_their_probabilities(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(count=10), tmp_path / "cv"
    segment(data, out, [], config=settings(), device="cpu", folds=2)
    together, members = load_network(out), [load_network(run) for run in fold_runs(out)]
    assert isinstance(together.network, Ensemble)
    image = data / "images/000.png"
    apart = [member.probability(image) for member in members]
    assert np.any(apart[0] != apart[1])
    assert together.probability(image) == pytest.approx(np.mean(apart, axis=0), abs=1e-6)
    squared = torch.rand(2, 3, 32, 32)
    mean = torch.stack([member(squared).sigmoid() for member in members]).mean(0)
    assert torch.allclose(together(squared).sigmoid(), mean, atol=1e-5)
    result = predict(out, data / "images", tmp_path / "seen", device="cpu", overlays=False)
    assert result["images"] == 10
    with pytest.raises(InputError, match=r"cv: is a cross-validation, .*fold-0 is one"):
        require_finished(out)


def test_killed_in_a_fold_and_resumed_is_the_same(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = disc_pairs(count=10)
    whole = segment(data, tmp_path / "whole", [], config=settings(), device="cpu", folds=2)
    add = Selection.add

    def killed(self: Selection, step: int, figures: dict[str, float], network: nn.Module) -> None:
        add(self, step, figures, network)
        if step == 4 and self.out.name == "fold-1":
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Selection, "add", killed)
        with pytest.raises(RuntimeError, match="killed"):
            segment(data, tmp_path / "cut", [], config=settings(), device="cpu", folds=2)
    with pytest.raises(InputError, match="its cross-validation is not finished"):
        load_network(tmp_path / "cut")
    with pytest.raises(InputError, match="--resume"):
        segment(data, tmp_path / "cut", [], config=settings(), device="cpu", folds=2)
    with pytest.raises(InputError, match=r"--resume --folds 3: .* says 2"):
        segment(data, tmp_path / "cut", [], config=settings(), device="cpu", folds=3, resume=True)
    with pytest.raises(InputError, match="holds what `segment --folds` wrote"):
        segment(data, tmp_path / "cut", [], config=settings(), device="cpu", resume=True)
    done = (tmp_path / "cut/fold-0/metrics.json").stat().st_mtime_ns
    assert segment(data, tmp_path / "cut", [], config=settings(), device="cpu", folds=2, resume=True) == whole
    assert (tmp_path / "cut/fold-0/metrics.json").stat().st_mtime_ns == done
    for name in ("fold-1/best.safetensors", "fold-1/log.jsonl", "out-of-fold/scores.csv", "out-of-fold/masks/000.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    monkeypatch.setattr("siamese_diffusion.loop.run", lambda *args, **kwargs: pytest.fail("trained again"))
    assert segment(data, tmp_path / "cut", [], config=settings(), device="cpu", folds=2, resume=True) == whole


def test_a_plain_run_is_not_gone_on_with_by_folds(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs(count=6)
    segment(data, tmp_path / "run", [], config=settings(steps=1), device="cpu")
    with pytest.raises(InputError, match="holds what `segment` wrote"):
        segment(data, tmp_path / "run", [], config=settings(steps=1), device="cpu", folds=2, resume=True)


def test_synthetic_pairs_are_told_apart_by_fold(
    disc_pairs: DiscPairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, made = disc_pairs(count=6), disc_pairs(name="made", seed=1, count=6)
    rows = [
        {"image": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png", "source_mask": f"{i:03d}", "synthetic": True}
        for i in range(6)
    ]
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "cv"
    summary = segment(data, out, [], [made], config=settings(steps=2), device="cpu", folds=3, arms="mixed")
    assert [row["synthetic"] for row in summary["per_fold"]] == [4, 4, 4]
    assert summary["synthetic"]["pairs"] == 6
    assert summary["synthetic"]["unknown"] == 0
    assert "a generator that was trained with a fold's images" in " ".join(capsys.readouterr().err.split())
    assert "a generator that was trained with" in (out / "report.html").read_text()


@pytest.mark.parametrize("killed_at", [None, 4, 6])
def test_patience_ends_a_run_and_a_resumed_one_at_the_same_step(
    killed_at: int | None, disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second validation is the best, so that with a patience of 2 the fourth is the last."""
    add, scores = Selection.add, {2: 0.3, 4: 0.5, 6: 0.4, 8: 0.45, 10: 0.9}
    dies = killed_at is not None

    def told(self: Selection, step: int, figures: dict[str, float], network: nn.Module) -> None:
        add(self, step, figures | {"mDice": scores[step]}, network)
        if dies and step == killed_at:
            raise RuntimeError("killed")

    monkeypatch.setattr(Selection, "add", told)
    data, out = disc_pairs(count=8), tmp_path / "run"
    config = settings(steps=20, patience=2, checkpoint_every=4, log_every=3)
    if dies:
        with pytest.raises(RuntimeError, match="killed"):
            segment(data, out, [], config=config, device="cpu")
        dies = False
    metrics = segment(data, out, [], config=config, device="cpu", resume=True)
    assert (metrics["step"], metrics["stopped"]) == (4, 8)
    assert [row["step"] for row in read_jsonl(out / "validation.jsonl")] == [2, 4, 6, 8]
    log = read_jsonl(out / "log.jsonl")
    assert [(row["step"], row["since_best"]) for row in log if "since_best" in row] == [(2, 0), (4, 0), (6, 1), (8, 2)]
    assert max(row["step"] for row in log) == 8
    assert sum("total" in row and row["step"] == 8 for row in log) == 1
    (out / "metrics.json").unlink()  # killed before the last file: what is trained is not trained further
    monkeypatch.setattr(Selection, "add", lambda *args: pytest.fail("trained on"))
    assert segment(data, out, [], config=config, device="cpu", resume=True) == metrics
