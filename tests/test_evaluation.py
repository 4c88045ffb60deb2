"""`evaluate` on phantoms with copies planted among them: its figures, its page, and what `filter` makes of it."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Browser
from PIL import Image
from torch import Tensor, nn

from siamese_diffusion.config import Config, build_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.shards import ShardWriter
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation import evaluate as module
from siamese_diffusion.evaluation import extractors
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.features import Extractor
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.evaluation.judge import Judge, embedder
from siamese_diffusion.evaluation.metrics import lpips as perceptual
from siamese_diffusion.files import read_json, read_jsonl, write_json, write_jsonl
from siamese_diffusion.segmentation import networks

COPIES = {"phantom-00003": "exact", "phantom-00008": "flipped", "phantom-00011": "darker"}


def config() -> Config:
    values: dict[str, Any] = {
        "data": {"resolution": 64},
        "segment": {"resolution": 64, "batch_size": 8, "warmup": 2, "sample_every": 10, "checkpoint_every": 10},
        "evaluate": {"fit_steps": 30},
    }
    return build_config(values, "tests")


def fixed_embedder(judge: Judge) -> Extractor:
    """In place of the judge's features: means of 8 x 8 parts of the image, rounded, so that they are the same
    everywhere."""

    def embed(images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.float(), images.shape[-1] // 8).flatten(1).round() / 256

    return Extractor("judge", embed, "means of 8 x 8 parts", "none")


@pytest.fixture(scope="module", autouse=True)
def fixed_features() -> Iterator[None]:
    """What a network of thirty steps sees differs from processor to processor; nothing here may hang on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "embedder", fixed_embedder)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real phantoms in three splits, and others with the images of three of the real ones put in, changed."""
    root = tmp_path_factory.mktemp("evaluation")
    real, made = root / "real", root / "made"
    make_phantoms(real, 60, 64, seed=1)
    names = [pair.name for pair in DataFolder(real).pairs()]
    write_json(real / "splits.json", {"train": names[:40], "val": names[40:50], "test": names[50:]})
    make_phantoms(made, 16, 64, seed=2)
    for name, how in COPIES.items():
        pixels = np.asarray(Image.open(real / "images" / f"{name}.png"))
        changed = {"exact": pixels, "flipped": pixels[:, ::-1], "darker": (pixels * 0.7).astype(np.uint8)}[how]
        Image.fromarray(np.ascontiguousarray(changed)).save(made / "images" / f"{name}.png")
    rows = read_jsonl(made / "pairs.jsonl")
    write_jsonl(made / "pairs.jsonl", [{**row, "seed": 7, "method": "siamese"} for row in rows])
    evaluate(real, made, root / "out", config=config(), device="cpu")
    return {"real": real, "made": made, "out": root / "out"}


def test_metrics_keep_their_contract(folders: dict[str, Path]) -> None:
    metrics = read_json(folders["out"] / "metrics.json")
    assert next(iter(metrics["quality"])) == "kd"
    assert {"kd", "fd", "cosine", "precision", "recall", "density", "coverage", "diversity"} == set(metrics["quality"])
    for entry in metrics["quality"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["extractor"] == "judge"
        assert isinstance(entry["real"], float)
    assert metrics["quality"]["kd"]["std"] > 0
    for name in ("dice", "iou", "boundary", "shuffled"):
        assert metrics["fit"][name]["low"] <= metrics["fit"][name]["mean"] <= metrics["fit"][name]["high"]
    assert metrics["fit"]["judge"]["count"] == 10
    assert 0 < metrics["fit"]["judge"]["boundary"] <= 1
    assert metrics["counts"] == {"real": 40, "synthetic": 16, "held_out": 20}
    assert metrics["novelty"]["measured_on"] == {"images": "held-out real", "count": 20}
    protocol = metrics["protocol"]
    assert protocol["extractors"][0]["squared_to"] == 64
    assert protocol["seed"] == 0
    assert protocol["split"] == "train"
    assert protocol["set_aside"] == []
    assert [verdict["question"][:7] for verdict in metrics["verdicts"]] == ["Can the", "Are the", "Do they", "Are the"]
    assert metrics["verdicts"][3]["word"] in ("doubtful", "not good")  # three of sixteen are copies


def test_planted_copies_are_flagged_with_their_originals(folders: dict[str, Path]) -> None:
    novelty = read_json(folders["out"] / "metrics.json")["novelty"]
    flagged = {row["synthetic"]: row for row in novelty["flagged"]}
    assert set(COPIES) <= flagged.keys()
    assert len(flagged) <= len(COPIES) + 1
    assert novelty["share_flagged"] == len(flagged) / 16
    for name, how in COPIES.items():
        assert flagged[name]["real"] == name
        assert flagged[name]["distance"] < novelty["threshold"]
        assert flagged[name]["flip"] == ("horizontal" if how == "flipped" else "none")
    with (folders["out"] / "novelty.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table if row["flagged"] == "1"] == sorted(flagged)
    assert len(table) == 16
    for description in ("distance", "whole", "details"):  # each finds the copies without the other
        ratio = {row["name"]: float(row[description]) for row in table}
        assert max(ratio[name] for name in COPIES) < 0.5 * min(ratio[name] for name in ratio.keys() - COPIES.keys())
    for row in table:
        scores = [float(row[name]) / novelty["thresholds"][name] for name in ("whole", "details")]
        assert float(row["distance"]) == pytest.approx(min(scores), abs=1e-4)


def test_page_has_every_figure_and_asks_for_nothing(folders: dict[str, Path]) -> None:
    page = (folders["out"] / "report.html").read_text()
    metrics = read_json(folders["out"] / "metrics.json")
    for value in (metrics["fit"]["dice"]["mean"], metrics["novelty"]["share_flagged"]):
        assert f"{100 * value:.1f}" in page
    assert f"{metrics['quality']['kd']['value']:.3g}" in page
    assert str(folders["real"].resolve()) in page
    for question in ("Are the images good?", "obey their masks?", "Are they new?", "The rule:", "How it was measured"):
        assert question in page
    pictures = len(re.findall(r'src="data:image/png;base64,', page))
    assert pictures >= 7
    assert len(re.findall(r"\bsrc=", page)) == pictures
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)


@pytest.mark.browser
def test_page_renders_in_a_browser(folders: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    browser(folders["out"] / "report.html", "--hide-scrollbars", "--window-size=1100,4800", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert len(np.unique(pixels[::8, ::8].reshape(-1, 3), axis=0)) > 200  # photographs, not only text
    for part in np.array_split(pixels, 8):
        assert part.std() > 5  # no part of the page is blank


def test_filter_writes_the_pairs_above_a_threshold_with_their_lines(folders: dict[str, Path], tmp_path: Path) -> None:
    with (folders["out"] / "fit.csv").open(newline="") as file:
        dice = {row["name"]: float(row["dice"]) for row in csv.DictReader(file)}
    threshold = float(np.median(list(dice.values())))
    result = filter_(folders["out"], tmp_path / "kept", min_dice=threshold, drop_flagged=True, anyway=True)
    metrics = read_json(folders["out"] / "metrics.json")
    copies = {row["synthetic"] for row in metrics["novelty"]["flagged"]}
    expected = {name for name, value in dice.items() if value >= threshold and name not in copies}
    pairs = DataFolder(tmp_path / "kept").pairs()
    assert {pair.name for pair in pairs} == expected
    assert result["kept"] == len(expected)
    assert result["share"] == len(expected) / len(dice)
    assert result["low"] == sum(value < threshold for value in dice.values())
    assert result["flagged"] == len(copies)
    rows = {row["image"]: row for row in read_jsonl(folders["made"] / "pairs.jsonl")}
    for row in read_jsonl(tmp_path / "kept" / "pairs.jsonl"):
        assert row == rows[row["image"]]
        for part in ("image", "mask"):
            kept, source = (
                np.asarray(Image.open(folder / row[part])) for folder in (tmp_path / "kept", folders["made"])
            )
            np.testing.assert_array_equal(kept, source)
    again = filter_(folders["out"], tmp_path / "kept", min_dice=threshold, drop_flagged=True, anyway=True, resume=True)
    assert again == result


def test_filter_refuses_what_it_cannot_do(folders: dict[str, Path], tmp_path: Path) -> None:
    scores, made = folders["out"], folders["made"]
    with pytest.raises(InputError, match="nothing to filter by"):
        filter_(scores, tmp_path / "kept")
    with pytest.raises(InputError, match=r"--min-dice 80: must be between 0 and 1"):
        filter_(scores, tmp_path / "kept", min_dice=80)
    with pytest.raises(InputError, match="none of 16 pairs is left"):
        filter_(scores, tmp_path / "kept", min_dice=1.0, max_boundary=0.0, anyway=True)
    with pytest.raises(InputError, match="holds other pairs"):
        filter_(scores, tmp_path / "kept", min_dice=0.1, synthetic=folders["real"])
    with pytest.raises(InputError, match="no such file"):
        filter_(made, tmp_path / "kept", min_dice=0.1)
    assert not (tmp_path / "kept").exists()


def test_filter_makes_no_set_by_chance_and_says_where_little_is_left(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of noise that the judge sees nothing in, whatever lies above a threshold is noise too."""
    scores = tmp_path / "scores"
    shutil.copytree(folders["out"], scores)
    metrics = read_json(scores / "metrics.json")
    with (scores / "fit.csv").open(newline="") as file:
        best = max(float(row["dice"]) for row in csv.DictReader(file))
    for low, shuffled in ((0.2, 0.3), (0.3, 0.3)):
        metrics["fit"]["dice"] |= {"mean": low + 0.1, "low": low}
        metrics["fit"]["shuffled"] |= {"mean": shuffled - 0.1, "high": shuffled}
        (scores / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(InputError, match=r"are there by chance.*--anyway"):
            filter_(scores, tmp_path / "kept", min_dice=0.0)
    assert not (tmp_path / "kept").exists()
    filter_(scores, tmp_path / "unflagged", drop_flagged=True)  # mask fit has no say in this
    assert "only" not in capsys.readouterr().err
    metrics["fit"]["dice"]["low"] = 0.31
    (scores / "metrics.json").write_text(json.dumps(metrics))
    result = filter_(scores, tmp_path / "few", min_dice=best)
    assert result["share"] < 0.2
    assert f"only {100 * result['share']:.0f} % of the pairs are left" in " ".join(capsys.readouterr().err.split())


def test_several_extractors_and_lpips(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own path through extractors whose weights cannot be had in a test."""

    def colours(name: str, device: torch.device) -> Extractor:
        return Extractor(name, lambda batch: batch.float().mean((2, 3)), name, "none", family=name)

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean((1, 2, 3))

    monkeypatch.setattr(extractors, "create", colours)
    monkeypatch.setattr(perceptual, "lpips_alex", lambda device: distance)
    judge, cache = folders["out"] / "judge", folders["out"] / "features"
    metrics = evaluate(
        folders["real"],
        folders["made"],
        tmp_path / "out",
        config(),
        judge,
        device="cpu",
        features="inception,clip, lpips,judge",
        cache=cache,
    )
    quality = metrics["quality"]
    assert list(quality)[:2] == ["kid", "fid"]
    assert {"clip_i", "cmmd", "lpips", "kd"} <= set(quality)
    assert quality["lpips"]["extractor"] == "alexnet"
    assert quality["lpips"]["low"] < quality["lpips"]["value"] < quality["lpips"]["high"]
    assert quality["precision"]["extractor"] == "inception"
    assert quality["judge_precision"] == read_json(folders["out"] / "metrics.json")["quality"]["precision"]
    assert "CLIP-I" in (tmp_path / "out" / "report.html").read_text()
    assert "phantom-00003" in {row["synthetic"] for row in metrics["novelty"]["flagged"]}  # the exact copy
    assert {row["by"] for row in metrics["novelty"]["flagged"]} <= {"inception", "whole", "details"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize("name", networks.names())
def test_the_judges_features_are_of_its_deepest_map(name: str) -> None:
    torch.manual_seed(0)
    network = networks.create(name).eval()
    judge = Judge(Path("run"), network, 64, 4, torch.device("cpu"))
    extractor = embedder(judge)
    batch = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        found = extractor.embed(batch)
        single = torch.cat([extractor.embed(batch[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(found, single, atol=1e-4, rtol=1e-4)
    assert found.ndim == 2
    assert found.shape[1] >= 32
    torch.testing.assert_close(found.norm(dim=1), torch.full((3,), found.shape[1] ** 0.5))
    assert (found[0] - found[1]).norm() > 0
    left = [hook for module in network.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in left if "siamese_diffusion" in hook.__module__]
    if name == "unet":
        assert isinstance(network, nn.Sequential)
        with torch.inference_mode():
            maps: list[Tensor] = network.get_submodule("1.encoder")(network[0](batch / 255))
            deepest = maps[-1].mean((2, 3))
        torch.testing.assert_close(found, deepest / deepest.norm(dim=1, keepdim=True) * 512**0.5)


def test_shards_are_scored_and_filtered_as_a_folder_is(folders: dict[str, Path], tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "made", size=5) as writer:
        for pair in DataFolder(folders["made"]).pairs():
            writer.write(pair.name, *pair.read(), pair.prompt or "", pair.extra)
    found = evaluate(
        folders["real"], tmp_path / "made", tmp_path / "out", config(), folders["out"] / "judge", device="cpu"
    )
    expected = read_json(folders["out"] / "metrics.json")
    for part in ("quality", "fit", "novelty", "appearance"):
        assert json.loads(json.dumps(found[part])) == expected[part]
    for scores, name in ((tmp_path / "out", "of-shards"), (folders["out"], "of-folder")):
        filter_(scores, tmp_path / name, drop_flagged=True)
    kept = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("of-shards", "of-folder")
    ]
    assert len(kept[0]) > 1
    for files in kept:
        files.pop(Path("inputs.json"))  # which tells them apart
    assert kept[0] == kept[1]
