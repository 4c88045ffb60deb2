"""The study with stand-ins for its commands, which write what the real ones would; the real ones run in the slow
test."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import typer
import yaml
from conftest import DiscPairs
from PIL import Image
from scipy.stats import ttest_rel
from tiny import TINY

import siamese_diffusion
from siamese_diffusion.cli import app
from siamese_diffusion.config import Config, DataConfig, build_config, dump_config, merge, nested
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.data.masks import transform_mask
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.differences import paired
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.metrics.mask_fit import interval
from siamese_diffusion.studies import curves, drawn
from siamese_diffusion.studies import study as module
from siamese_diffusion.studies.dose import DOSES, dose_response
from siamese_diffusion.studies.estimate import render
from siamese_diffusion.studies.example import example
from siamese_diffusion.studies.lock import StageLock
from siamese_diffusion.studies.page import write_pictures
from siamese_diffusion.studies.place import tables_folder
from siamese_diffusion.studies.plan import make_plan
from siamese_diffusion.studies.spec import load_study
from siamese_diffusion.studies.stages import COMMANDS, Stage
from siamese_diffusion.studies.study import study
from siamese_diffusion.studies.workers import command_line, threads

SPLITS = {
    "train": [f"{i:03d}" for i in range(8)],
    "val": ["008", "009"],
    "test": ["010", "011"],
}

Calls = list[tuple[str, str]]
Changes = dict[str, Any]


def number(*key: object) -> float:
    """A figure in [0, 1) that depends on `key` only."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big") / 2**32


def of(folder: Path) -> str:
    """The content of a folder of pairs."""
    pairs = DataFolder(folder).pairs()
    return hashlib.sha256(
        b"".join(pair.image.path.read_bytes() + pair.mask.path.read_bytes() for pair in pairs)
    ).hexdigest()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace the commands; the list tells which were called, with which folder."""
    made: Calls = []

    def begin(command: str, out: Path, config: Config) -> None:
        made.append((command, out.name))
        assert (out / "stage.json").exists()
        (out / "config.yaml").write_text(dump_config(config))

    def pretrain(images: Path, out: Path, config: Config, **rest: Any) -> None:
        begin("pretrain", out, config)
        (out / "summary.json").write_text(json.dumps({"steps": config.pretrain.steps}))

    def train(data: Path, backbone: str, out: Path, config: Config, **rest: Any) -> None:
        begin("train", out, config)
        (out / "checkpoints").mkdir()
        terms = {"mask": number("mask", out.name), "image": 0.0 if config.method.name == "mask-only" else 0.5}
        (out / "log.jsonl").write_text("".join(json.dumps({"step": i, **terms}) + "\n" for i in (1, 2)))
        (out / "summary.json").write_text(json.dumps({"pairs": config.data.limit}))

    def sample(checkpoint: Path, masks: Path, out: Path, random_masks: str | None, config: Config, **rest: Any) -> None:
        begin("sample", out, config)
        trained = yaml.safe_load((checkpoint / "config.yaml").read_text())
        key = [trained["train"], trained["method"], config.sample.model_dump()]
        with PairWriter(out, resume=True) as writer:
            for name, drawn in DataFolder(masks, settings=config.data).masks(
                config.data.split, config.data.limit, config.data.limit_seed
            ):
                mask, _ = transform_mask(drawn.read(), random_masks or "none", config.sample.seed, name, 0)
                colour = [int(255 * number(key, name, channel)) for channel in range(3)]
                image = np.full((*mask.shape, 3), colour, np.uint8)
                writer.write(name, image, mask, "A photo of polyp", {"synthetic": True})

    def evaluate(real: Path, synthetic: Path, judge: Path, out: Path, config: Config, **rest: Any) -> None:
        begin("evaluate", out, config)
        scores = {pair.name: number("fit", pair.name, of(synthetic)) for pair in DataFolder(synthetic).pairs()}
        rows = "".join(f"{name},{score},0,0\n" for name, score in scores.items())
        (out / "fit.csv").write_text(f"name,dice,iou,boundary\n{rows}")
        fit = {
            "dice": {"mean": float(np.mean(list(scores.values())))},
            "shuffled": {"mean": 0.25},
            "judge": {"dice": 0.75},
        }
        novelty = {"share_flagged": 0.1, "false_alarm_rate": 0.02}
        appearance = {"difference": {"gradient": np.log(0.8), "sharpness": np.log(0.5)}}
        (out / "metrics.json").write_text(json.dumps({"fit": fit, "novelty": novelty, "appearance": appearance}))

    def segment(
        train: Path, test: list[Path], synthetic: list[Path] | None, out: Path, config: Config, **rest: Any
    ) -> None:
        begin("segment", out, config)
        pairs = sum(len(DataFolder(folder).pairs()) for folder in synthetic or [])
        settings = [config.segment.seed, config.segment.network, config.segment.synthetic_share if synthetic else None]
        key = [*settings, pairs, *(of(folder) for folder in synthetic or [])]
        scores = {"mDice": number("dice", key), "mIoU": number("iou", key), "count": 2}
        (out / "log.jsonl").write_text(json.dumps({"step": config.segment.steps, "total": 1.0, "val_dice": 0.5}) + "\n")
        result = {
            "train": {"synthetic": pairs},
            "test": {path.name: scores for path in test},
            "mean": scores,
            "weighted": scores,
        }
        (out / "metrics.json").write_text(json.dumps(result))

    for command in (pretrain, train, sample, evaluate, segment):
        monkeypatch.setattr(siamese_diffusion, command.__name__, command, raising=False)
    monkeypatch.setattr(module, "write_pictures", lambda *arguments: None)
    return made


@pytest.fixture
def with_pictures(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the plots and write the page, which takes most of the time of a study of stand-ins."""
    monkeypatch.setattr(module, "write_pictures", write_pictures)


@pytest.fixture
def write(tmp_path: Path, disc_pairs: DiscPairs) -> Callable[..., Path]:
    """Write a study of discs; keywords replace what is in it."""
    disc_pairs(splits=SPLITS)

    def make(**changes: Any) -> Path:
        values = {
            "settings": {"segment.resolution": 32, "data.resolution": 32, "segment.steps": 7},
            "data": {"discs": {"train": "discs"}},
            "pairs": [6],
            "seeds": {"segmentation": [0, 1, 2]},
            "arms": {
                "real": None,
                "mask-only": {"masks": "random"},
                "siamese": {"masks": "random", "settings": {"method.consistency": 1.0}},
            },
            **changes,
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "study.yaml"

    return make


def counted(calls: Calls) -> dict[str, int]:
    return dict(Counter(command for command, _ in calls))


def test_every_stage_runs_once_and_the_second_call_runs_nothing(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    file, out = write(arms={"real": None, "mask-only": None, "siamese": None, "copy-paste": None}), tmp_path / "out"
    result = study(file, out)
    # judge and 3 x 4 segmentation runs; the backbone and each of two diffusions once, each set drawn and scored once
    assert counted(calls) == {"pretrain": 1, "train": 2, "sample": 2, "evaluate": 3, "segment": 13}
    assert result["runs"] == {"done": 12, "planned": 12}
    first = (out / "table.json").read_text()
    calls.clear()
    assert study(file, out)["stages"] == result["stages"]
    assert calls == []
    assert (out / "table.json").read_text() == first
    assert not list(out.glob("stages/train-*/checkpoints"))
    for name in ("table.md", "table.csv", "table.tex", "report.html", "grids/discs-6.png"):
        assert (out / name).stat().st_size > 100
    assert not list(out.glob("dose-*.png"))  # real pairs alone and one ratio make no curve
    page = (out / "report.html").read_text()
    assert page.count("<h3>discs, unet</h3>") == 1
    assert (
        page.count('src="data:image/png;base64,') == 3
    )  # what was drawn, and how generators and networks were trained


def test_killed_and_continued_gives_the_same_table(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(pairs=[4, 6])
    study(file, tmp_path / "whole")
    whole = counted(calls)
    calls.clear()
    for command in ("train", "sample", "segment"):
        real = getattr(siamese_diffusion, command)
        seen: list[int] = []

        def killed(real: Any = real, seen: list[int] = seen, **arguments: Any) -> None:
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt
            real(**arguments)

        with monkeypatch.context() as patch:
            patch.setattr(siamese_diffusion, command, killed)
            with pytest.raises(KeyboardInterrupt):
                study(file, tmp_path / "parts")
        done = len(list((tmp_path / "parts").glob("stages/segment-*/done.json")))
        runs = json.loads((tmp_path / "parts" / "table.json").read_text())["runs"]
        assert sum(run["done"] for run in runs) == done > 0  # it shows what it has
    study(file, tmp_path / "parts")
    assert counted(calls) == whole  # nothing was done twice
    for name in ("table.json", "table.md", "table.csv", "table.tex"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_the_table_is_there_after_the_first_run_even_if_nothing_is_cleaned_up(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    segment = siamese_diffusion.segment

    def look(out: Path, **arguments: Any) -> None:
        if "judge" not in out.name and (tmp_path / "out" / "table.md").exists():
            seen.append((tmp_path / "out" / "table.md").read_text().split("\n")[2].split()[0])
        segment(out=out, **arguments)

    monkeypatch.setattr(siamese_diffusion, "segment", look)
    study(write(), tmp_path / "out")
    assert seen == [str(i) for i in range(9)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"settings": {"method.consistency": 0.0}}, {"train": 1, "sample": 1, "evaluate": 1, "segment": 3}),
        ({"settings": {"sample.steps": 3}}, {"sample": 1, "evaluate": 1, "segment": 3}),
        ({"settings": {"segment.synthetic_share": 0.4}}, {"segment": 3}),
        ({"settings": {"train.log_every": 3, "train.keep": 7}}, {}),
        ({"ratio": 0.5}, {"segment": 3}),
        ({"ratio": 2}, {"sample": 1, "evaluate": 1, "segment": 3}),
        ({"min_fit": 0.5}, {"segment": 3}),
    ],
)
def test_changing_one_arm_reruns_that_arm_only(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, change: Changes, expected: dict[str, int]
) -> None:
    arms: dict[str, Any] = {"real": None, "mask-only": {"masks": "random"}, "siamese": {"masks": "random"}}
    out = tmp_path / "out"
    study(write(arms=arms), out)
    before = json.loads((out / "table.json").read_text())["rows"]
    calls.clear()
    study(write(arms=arms | {"siamese": {"masks": "random", **change}}), out)
    assert counted(calls) == expected
    after = json.loads((out / "table.json").read_text())["rows"]
    for old, new in zip(before, after, strict=True):
        assert (old["metrics"] == new["metrics"]) == (old["arm"] != "siamese" or not expected)


def test_renaming_an_arm_or_adding_one_reruns_nothing_else(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    study(write(), tmp_path / "out")
    calls.clear()
    arms = {"real": None, "ours": {"kind": "siamese", "masks": "random"}, "mask-only": {"masks": "random"}}
    study(write(arms=arms), tmp_path / "out")
    assert calls == []
    study(write(arms=arms | {"new": {"kind": "siamese", "masks": "real"}}), tmp_path / "out")
    assert counted(calls) == {"sample": 1, "evaluate": 1, "segment": 3}


def test_content_of_inputs_counts_and_their_dates_do_not(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    file, out, image = write(), tmp_path / "out", tmp_path / "discs" / "images"
    names = {pair.name for pair in DataFolder(tmp_path / "discs").pairs("train", 6)}
    study(file, out)
    calls.clear()
    for path in image.iterdir():
        os.utime(path, (1, 1))
    study(file, out)
    assert calls == []

    def recolour(name: str) -> None:
        pixels = np.asarray(Image.open(image / f"{name}.png")).copy()
        pixels[0, 0] += 1
        Image.fromarray(pixels).save(image / f"{name}.png")

    recolour(SPLITS["test"][0])  # regenerated in place, a test image: nothing of the generators depends on it
    study(file, out)
    assert counted(calls) == {"segment": 9}
    calls.clear()
    recolour(next(name for name in SPLITS["train"] if name not in names))  # only the backbone sees this one
    study(file, out)
    assert counted(calls) == {"pretrain": 1, "train": 2, "sample": 2, "evaluate": 2, "segment": 6}
    calls.clear()
    recolour(min(names))
    study(file, out)
    assert counted(calls) == {"pretrain": 1, "train": 2, "sample": 2, "evaluate": 2, "segment": 10}


def test_figures_are_those_of_a_paired_t_test(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    study(write(seeds={"segmentation": [0, 1, 2, 5]}, confidence=0.9), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    by_arm = {row["arm"]: row for row in table["rows"]}
    for metric in ("mDice", "mIoU"):
        values = {arm: list(row["metrics"][metric]["values"].values()) for arm, row in by_arm.items()}
        assert by_arm["real"]["metrics"][metric]["difference"] is None
        for arm in ("mask-only", "siamese"):
            figures = by_arm[arm]["metrics"][metric]
            test = ttest_rel(values[arm], values["real"])
            interval = test.confidence_interval(0.9)
            difference = figures["difference"]
            assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high))
            assert difference["mean"] == pytest.approx(np.mean(values[arm]) - np.mean(values["real"]))
            assert figures["sd"] == pytest.approx(np.std(values[arm], ddof=1))
            assert (difference["n"], difference["seeds"]) == (4, [0, 1, 2, 5])
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    dice = by_arm["siamese"]["metrics"]["mDice"]
    assert float(rows["siamese", "mDice"]["low"]) == pytest.approx(dice["difference"]["low"], abs=1e-6)
    assert rows["siamese", "mDice"]["seeds"] == "0 1 2 5"
    mean, change = f"{100 * dice['mean']:.1f}", f"{100 * dice['difference']['mean']:.1f}"
    for name in ("table.md", "table.tex", "report.html"):
        line = next(part for part in (tmp_path / "out" / name).read_text().split("siamese") if mean in part)
        assert change.lstrip("-") in line
    intervals = [by_arm[arm]["metrics"]["mDice"]["difference"] for arm in ("mask-only", "siamese")]
    clear = sum(found["low"] > 0 or found["high"] < 0 for found in intervals)
    lead = f"Of 2 comparisons with real pairs alone, the 90 % interval of the difference in mDice excludes 0 in {clear}"
    assert lead in (tmp_path / "out" / "report.html").read_text()


def test_arms_are_compared_with_another_arm_too(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    arms = {"real": None, "mask-only": {"masks": "random"}, "siamese": {"masks": "random"}, "copy-paste": None}
    file = write(arms=arms, against="mask-only", metrics=["mDice"])
    study(file, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    metrics = {row["arm"]: row["metrics"]["mDice"] for row in table["rows"]}
    assert (table["against"], metrics["real"]["against"], metrics["mask-only"]["against"]) == ("mask-only", None, None)
    values = [list(metrics[arm]["values"].values()) for arm in ("siamese", "mask-only", "real")]
    for key, other in (("against", values[1]), ("difference", values[2])):
        interval = ttest_rel(values[0], other).confidence_interval(0.95)
        assert (metrics["siamese"][key]["low"], metrics["siamese"][key]["high"]) == pytest.approx(tuple(interval))
    with (tmp_path / "out" / "table.csv").open() as csv_file:
        line = next(row for row in csv.DictReader(csv_file) if (row["arm"], row["metric"]) == ("siamese", "mDice"))
    found = metrics["siamese"]["against"]
    assert [float(line[f"against{name}"]) for name in ("", "_low", "_high")] == pytest.approx(
        [found["mean"], found["low"], found["high"]], abs=1e-6
    )
    shown = f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| mDice - real | mDice - mask-only |" in text
    assert shown in text
    assert "mDice -- mask-only" in (tmp_path / "out" / "table.tex").read_text()
    study(write(arms=arms, metrics=["mDice"]), tmp_path / "out")
    assert "- mask-only" not in (tmp_path / "out" / "table.md").read_text()


def test_trainings_of_a_diffusion_are_summed_up_each_counting_once(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    arms = {"real": None, "mask-only": {"ratio": 2}, "siamese": {"ratio": 2}}
    seeds = {"segmentation": [0, 1, 2], "diffusion": [3, 4, 5]}
    study(write(arms=arms, against="mask-only", seeds=seeds, confidence=0.9), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    fits = {arm: [row["drawn"] for row in table["synthetic"] if row["arm"] == arm] for arm in ("mask-only", "siamese")}
    assert len(set(fits["siamese"])) == 3
    found = {row["arm"]: row for row in table["over_trainings"]}
    assert found.keys() == fits.keys()
    siamese = found["siamese"]
    assert siamese["diffusion_seeds"] == [3, 4, 5]
    assert siamese["drawn"] == pytest.approx(np.mean(fits["siamese"]))
    assert siamese["drawn_sd"] == pytest.approx(np.std(fits["siamese"], ddof=1))
    interval = ttest_rel(fits["siamese"], fits["mask-only"]).confidence_interval(0.9)
    assert (siamese["against"]["low"], siamese["against"]["high"]) == pytest.approx(tuple(interval))
    assert found["mask-only"]["against"] is None
    line = next(
        line for line in (tmp_path / "out/table.md").read_text().splitlines() if "siamese | discs | 6 | 3, 4" in line
    )
    assert f"{100 * siamese['drawn']:.1f} ± {100 * siamese['drawn_sd']:.1f}" in line
    assert f"{100 * siamese['against']['mean']:+.1f} [{100 * siamese['against']['low']:+.1f}, " in line
    study(write(arms=arms, against="mask-only"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "table.json").read_text())["over_trainings"] == []


def test_fit_is_compared_image_by_image_where_masks_and_noise_are_the_same(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    arms: Changes = {"real": None, "mask-only": {"ratio": 2}, "siamese": {"ratio": 3}, "copy-paste": None}
    arms["masks varied"] = {"kind": "siamese", "masks": "random"}
    study(write(arms=arms, against="mask-only"), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    sets = {row["arm"]: row for row in table["synthetic"]}
    assert [sets[arm]["against"] for arm in ("mask-only", "copy-paste", "masks varied")] == [None, None, None]
    fits: dict[str, dict[str, float]] = {}
    for path in (tmp_path / "out").glob("stages/score-*/stage.json"):
        with (path.parent / "fit.csv").open() as file:
            _, what, arm, *_ = json.loads(path.read_text())["label"].split(", ")
            fits[f"{arm}, {what[-7:]}"] = {row["name"]: float(row["dice"]) for row in csv.DictReader(file)}
    changes = [
        fits[f"siamese, {part}"][name] - dice
        for part in ("round 1", "round 2")
        for name, dice in fits[f"mask-only, {part}"].items()
    ]
    rounds = [fits[f"siamese, round {i}"] for i in (1, 2, 3)]
    per_mask = np.array([np.mean([fit[name] for fit in rounds]) for name in sorted(rounds[0])])
    wanted = interval(per_mask)  # images for one real mask count as one
    found = {name: sets["siamese"][name] for name in ("drawn", "drawn_low", "drawn_high")}
    assert found == pytest.approx(
        dict(zip(found, (wanted["mean"], wanted["low"], wanted["high"]), strict=True)), abs=1e-6
    )
    shown = f"{100 * wanted['mean']:.1f} [{100 * wanted['low']:.1f}, {100 * wanted['high']:.1f}]"
    assert shown in (tmp_path / "out" / "table.md").read_text()
    assert sets["siamese"]["against"]["n"] == len(changes) == 12  # 6 masks in the two rounds that both have
    assert sets["siamese"]["against"]["mean"] == pytest.approx(np.mean(changes), abs=1e-6)
    assert sets["siamese"]["against"]["low"] < sets["siamese"]["against"]["mean"] < sets["siamese"]["against"]["high"]
    siamese = {name: sets["siamese"][name] for name in ("gradient", "sharpness", "flagged", "false_alarms")}
    assert siamese == pytest.approx({"gradient": 0.8, "sharpness": 0.5, "flagged": 0.1, "false_alarms": 0.02})
    for name in ("table.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Are they sharp, and are they new?" in text
        assert "0.50" in text
    assert text.count("<td>masks varied</td>") == 3  # the page: a long name may be broken, so that all columns fit


def test_the_page_of_one_seed_says_what_changed_and_that_it_is_no_evidence(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    file = write(seeds={"segmentation": [4]}, title="Discs <1>", note="Made-up discs.", networks=["unet"])
    study(file, tmp_path / "out")
    rows = {row["arm"]: row for row in json.loads((tmp_path / "out" / "table.json").read_text())["rows"]}
    page = (tmp_path / "out" / "report.html").read_text()
    lead = page.partition('<p class="lead">')[2].partition("</p>")[0]
    assert lead.startswith("Made-up discs. ")
    for arm in ("mask-only", "siamese"):
        change = 100 * rows[arm]["metrics"]["mDice"]["difference"]["mean"]
        sign = "\u2212" if change < 0 else "+"
        assert f"{sign}{abs(change):.1f} points with {arm}" in lead
    assert "one seed each, a demonstration and not evidence" in lead
    assert "<h1>Discs &lt;1&gt;</h1>" in page
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Made-up discs." in text
    assert "of segmentation seed 4 alone, and difference to real" in text
    assert "interval" not in text.partition("## Do the images")[0]  # of one seed there is none


def test_pictures_are_a_column_a_mask_and_a_row_an_arm(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms: Changes = {
        "real": None,
        "siamese": {"masks": "random", "ratio": [1, 2]},
        "strict": {"kind": "siamese", "masks": "random", "min_fit": 0.0},
        "mask-only": {"masks": "random", "ratio": 2},
        "exact": {"kind": "siamese", "masks": "real"},
        "copy-paste": None,
    }
    file, root = write(arms=arms), tmp_path / "out"
    seen: list[dict[str, list[Pixels]]] = []

    def look(rows: dict[str, list[Pixels]], size: float) -> bytes:
        seen.append(rows)
        return b"png"

    monkeypatch.setattr(drawn, "labelled_rows", look)
    assert drawn.drawn_grids(make_plan(load_study(file), root)) == []
    study(file, root)
    (grid,) = drawn.drawn_grids(plan := make_plan(load_study(file), root))
    (rows,) = seen
    assert (grid.name, grid.title) == ("discs-6", "discs, 6 pairs.")
    drawn_for = ["varied mask", "siamese / strict", "mask-only", "real mask", "exact", "mask, copy-paste", "copy-paste"]
    assert list(rows) == [*drawn_for, "training image"]
    real = plan.runs[0].cell.real
    rounds = {made.arm.family: made.rounds[0].folder for made in plan.made}
    for column, pair in enumerate(real):
        assert np.array_equal(rows["training image"][column], pair.image.squared(drawn.TILE))
        for masks, row, arm in (("varied mask", "mask-only", "mask-only"), ("real mask", "exact", "exact")):
            made = next(one for one in DataFolder(rounds[arm]).pairs() if one.name == pair.name)
            assert np.array_equal(rows[row][column], made.image.squared(drawn.TILE))
            assert np.array_equal(rows[masks][column][..., 0] == 255, made.mask.squared(drawn.TILE))
    assert len({len(tiles) for tiles in rows.values()}) == 1


def test_curves_are_of_each_generator_once_and_of_the_first_seed(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms: Changes = {"real": None, "siamese": {"ratio": [1, 2]}, "strict": {"kind": "siamese", "min_fit": 0.0}}
    file, root = write(arms=arms | {"mask-only": None}), tmp_path / "out"
    study(file, root)
    seen: list[tuple[dict[str, Path], list[str]]] = []

    def look(logs: dict[str, Path], names: list[str]) -> bytes:
        seen.append((logs, names))
        return b"png"

    monkeypatch.setattr(curves, "loss_curves", look)
    assert len(curves.training_curves(make_plan(load_study(file), root))) == 2
    (generators, terms), (networks, figures) = seen
    assert (list(generators), terms) == (["siamese / strict", "mask-only"], ["mask", "image"])
    assert len(set(generators.values())) == 2
    assert list(networks) == ["real", "siamese x1", "siamese x2", "strict", "mask-only"]
    assert figures == ["total", "val_dice"]


def test_the_page_says_how_long_the_stages_took(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    file, root = write(), tmp_path / "out"
    study(file, root)
    for path, seconds in zip(sorted(root.glob("stages/*/done.json")), range(1000), strict=False):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 10.0 + seconds}))
    study(file, root)
    page = (root / "report.html").read_text()
    trained = sorted(json.loads(path.read_text())["seconds"] for path in root.glob("stages/train-*/done.json"))
    line = next(part for part in page.split("<tr>") if part.startswith("<td>train a generator</td>"))
    assert re.findall(r"<td>(.*?)</td>", line)[1:] == [
        "2 of 2",
        f"{sum(trained) / 2:.0f}\u00a0s",
        f"{sum(trained):.0f}\u00a0s",
    ]
    assert page.count("<td>train and test a segmentation network</td>") == 1


def test_two_files_share_stages_and_keep_their_tables(
    write: Callable[..., Path], calls: Calls, with_pictures: None, tmp_path: Path
) -> None:
    file, root = write(), tmp_path / "out"
    study(file, root)
    before = {path: path.read_bytes() for path in root.glob("*.*")}
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("pairs:", "title: Other\npairs:"))
    calls.clear()
    result = study(other, root)
    assert calls == []
    assert result["table"] == str(root / "studies" / "other" / "table.md")
    assert (root / "studies" / "other" / "table.md").read_text().startswith("# Other")
    assert (root / "studies" / "other" / "report.html").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert study(write(title="Edited"), root)["table"] == str(root / "table.md")  # an edited file stays the same file
    assert (root / "table.md").read_text().startswith("# Edited")
    assert (root / "studies" / "other" / "table.md").read_text().startswith("# Other")


def test_a_moved_file_keeps_its_tables_and_a_third_of_its_name_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "project" / "out"

    def file(folder: str) -> Path:
        path = tmp_path / folder / "study.yaml"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    first = file("project")
    assert tables_folder(root, first) == root
    assert tables_folder(root, file("b")) == root / "studies" / "study"
    assert [tables_folder(root, file(name)) for name in ("project", "b")] == [root, root / "studies" / "study"]
    with pytest.raises(InputError, match=r"name other files called study\.yaml; rename this one") as caught:
        tables_folder(root, file("c"))
    assert "\n" not in str(caught.value)
    first.unlink()
    assert tables_folder(root, file("c")) == root  # moved: where it lay there is none
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    copied = tmp_path / "copy"
    assert tables_folder(copied / "project" / "out", copied / "c" / "study.yaml") == copied / "project" / "out"
    (tmp_path / "c" / "study.yaml").rename(tmp_path / "c" / "renamed.yaml")
    assert tables_folder(root, tmp_path / "c" / "renamed.yaml") == root / "studies" / "renamed"
    for text in ("[1]", '{"file": 3}', "{"):
        (root / "study.json").write_text(text)
        with pytest.raises(InputError, match=r"study\.json"):
            tables_folder(root, tmp_path / "c" / "renamed.yaml")


def test_a_refused_file_claims_no_tables(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        study(write(pairs=[99]), tmp_path / "out")
    study(write(), tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()


def test_one_seed_has_no_interval_and_equal_values_no_width() -> None:
    assert paired([0.5], [0.4])["low"] is None
    same = paired([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])
    assert same["low"] == pytest.approx(same["high"]) == pytest.approx(0.1)


def test_ratios_are_nested_and_share_their_rounds(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    arms = {"real": None, "siamese": {"ratio": [0.5, 1, 2.5]}, "copy-paste": {"ratio": [1, 2]}}
    study(write(arms=arms, score=False), tmp_path / "out")
    assert counted(calls) == {"pretrain": 1, "train": 1, "sample": 3, "segment": 18}
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    sets = {row["arm"]: DataFolder(tmp_path / "out" / row["folder"]).pairs() for row in table["synthetic"]}
    assert {arm: len(pairs) for arm, pairs in sets.items()} == {
        "siamese x0.5": 3,
        "siamese x1": 6,
        "siamese x2.5": 15,
        "copy-paste x1": 6,
        "copy-paste x2": 12,
    }
    content = {arm: {pair.name: pair.image.path.read_bytes() for pair in pairs} for arm, pairs in sets.items()}
    for small, large in (
        ("siamese x0.5", "siamese x1"),
        ("siamese x1", "siamese x2.5"),
        ("copy-paste x1", "copy-paste x2"),
    ):
        assert content[small].items() < content[large].items()
    assert len(set(content["siamese x2.5"].values())) == 15  # each round draws images of its own
    assert [row["synthetic"] for row in table["rows"]] == [[0], [3], [6], [15], [6], [12]]
    rows = table["rows"]
    ratio, pairs = DOSES
    assert dose_response(rows, "mDice", ratio) is not None
    assert dose_response(rows, "mDice", pairs) is None  # one number of real pairs is no dose


def test_the_filter_keeps_what_obeys_and_oversampling_fills_up(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    arms = {
        "real": None,
        "siamese": {"min_fit": 0.5},
        "filled": {"kind": "siamese", "min_fit": 0.5, "oversample": 4},
    }
    study(write(arms=arms), tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    plain, filled = table["synthetic"]
    assert plain["considered"] == 6
    assert 0 < plain["kept"] < 6
    assert filled["kept"] == 6 < filled["considered"] <= 24
    for row in (plain, filled):
        kept = DataFolder(tmp_path / "out" / row["folder"]).pairs()
        assert len(kept) == row["kept"]
        assert min(pair.extra["fit"] for pair in kept) >= 0.5
        assert row["fit_kept"] == pytest.approx(np.mean([pair.extra["fit"] for pair in kept]))
    assert table["rows"][1]["synthetic"] == [plain["kept"]]


def test_the_judge_sees_the_training_pairs_of_its_row_only(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    cell = {pair.image.path.resolve() for pair in DataFolder(tmp_path / "discs").pairs("train", 6)}
    for judge, expected in (({}, cell), ({"pairs": "all"}, None)):
        plan = make_plan(load_study(write(judge=judge)), root)
        (stage,) = [stage for stage in plan.stages() if stage.kind == "judge"]
        seen = {pair.image.path.resolve() for pair in plan.manifests[stage.arguments["train"]]}
        assert seen == (
            expected or {path.resolve() for path in (tmp_path / "discs/images").iterdir() if path.stem < "008"}
        )
        assert stage.arguments["test"] == []
    study(write(), root)
    (run,) = root.glob("stages/judge-*")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["limit"] is None
    folder = Path(json.loads((run / "stage.json").read_text())["arguments"]["train"])
    assert {pair.image.path.resolve() for pair in DataFolder(folder, settings=DataConfig(outside=True)).pairs()} == cell
    assert not (folder / "splits.json").exists()  # so that it validates on a part of these


def test_equal_steps_in_every_arm(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    study(write(networks={"unet": {"segment.steps": 5}, "segformer": None}), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert {(row["network"], tuple(row["steps"])) for row in rows} == {("unet", (5,)), ("segformer", (7,))}
    assert "5 optimisation steps in every run" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(InputError, match=r"segment\.steps is the same for all arms"):
        load_study(write(arms={"real": None, "siamese": {"settings": {"segment.steps": 50}}}))


def test_diffusion_seeds_go_with_segmentation_seeds(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    study(write(seeds={"segmentation": [3, 4], "diffusion": [7, 8]}), tmp_path / "out")
    assert counted(calls)["train"] == 4
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    runs = {(run["arm"], run["seed"], run["diffusion_seed"]) for run in table["runs"]}
    assert runs >= {("real", 3, None), ("siamese", 3, 7), ("siamese", 4, 8)}
    seeds = [
        yaml.safe_load(path.read_text())["sample"]["seed"]
        for path in (tmp_path / "out").glob("stages/sample-*/config.yaml")
    ]
    assert sorted(seeds) == [7, 7, 8, 8]
    assert [row["diffusion_seeds"] for row in table["rows"]] == [[], [7, 8], [7, 8]]


def test_several_test_sets_have_means(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, disc_pairs: DiscPairs
) -> None:
    disc_pairs(name="other", seed=4)
    study(write(data={"discs": {"train": "discs", "test": ["discs", "other"]}}), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["test"] for row in rows if row["arm"] == "real"] == ["discs", "other", "mean", "weighted"]
    tables = (tmp_path / "out" / "table.md").read_text(), (tmp_path / "out" / "table.tex").read_text()
    assert tables[0].count("| weighted |") == tables[1].count("& weighted &") == 3
    assert tables[1].count(r"\midrule") == 4


def test_a_failing_stage_stops_what_needs_it_and_nothing_else(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    arms = {"real": None, "strict": {"kind": "siamese", "min_fit": 1.0}, "mask-only": None}
    with pytest.raises(InputError, match=r"strict.*min_fit = 1.0.*not one of 6 pairs") as caught:
        study(write(arms=arms), tmp_path / "out")
    assert "\n" not in str(caught.value)
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [(row["arm"], len(row["seeds"])) for row in rows] == [("real", 3), ("mask-only", 3)]


def test_a_stage_that_another_process_has_is_waited_for(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    file, root = write(arms={"real": None}, seeds={"segmentation": [0]}), tmp_path / "out"
    (stage,) = make_plan(load_study(file), root).stages()
    lock = StageLock.take(stage)
    assert lock is not None
    assert StageLock.take(stage) is None
    thread = threading.Thread(target=study, args=(file, root))
    thread.start()
    time.sleep(1.5)
    assert calls == []
    lock.release()
    thread.join(30)
    assert len(calls) == 1


def test_a_lock_lives_as_long_as_the_process_that_does_the_work(write: Callable[..., Path], tmp_path: Path) -> None:
    (stage,) = make_plan(load_study(write(arms={"real": None}, seeds={"segmentation": [0]})), tmp_path / "out").stages()
    lock = StageLock.take(stage)
    assert lock is not None
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,)
    ) as worker:
        lock.release()  # as the system does when a study is killed
        assert StageLock.take(stage) is None
        worker.communicate(b"\n")
    again = StageLock.take(stage)
    assert again is not None
    again.release()


def test_stages_are_commands_that_the_command_line_understands(write: Callable[..., Path], tmp_path: Path) -> None:
    arms = {"real": None, "siamese": {"masks": "random"}}
    plan = make_plan(load_study(write(arms=arms)), tmp_path / "out")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    checked = set()
    for stage in plan.stages():
        if stage.kind in COMMANDS:
            name, *options = command_line(stage, "cpu")
            parsed = commands[name].make_context(name, options).params
            assert parsed["out"] == stage.folder
            assert parsed["resume"]
            for argument, value in stage.arguments.items():
                assert str(parsed[argument] or None) == str(value or None)
            checked.add(stage.kind)
    assert checked == COMMANDS.keys()
    cores = threads(1)
    assert threads(2) == max(1, cores // 2)
    assert threads(10 * cores) == 1


def test_dry_run_writes_nothing_and_says_what_is_left(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    root = tmp_path / "out"
    before = study(write(), root, dry_run=True)
    assert not root.exists()
    assert calls == []
    assert (before["done"], before["to_run"]) == (0, len(before["stages"]))
    assert sum(row["stages"] for row in before["plan"]) == before["to_run"]
    assert before["hours"] == sum(row["hours"] for row in before["plan"]) > 0
    assert f"0 of {before['to_run']} stages are done" in render(before)
    study(write(), root)
    shutil.rmtree(next(root.glob("stages/backbone-*")))  # what is built on it is done: nobody needs it
    after = study(write(), root, dry_run=True)
    assert (after["to_run"], after["not_needed"]) == (0, 1)
    shutil.rmtree(next(root.glob("stages/segment-*")))
    last = study(write(), root, dry_run=True)
    assert last["to_run"] == 1
    assert [(row["kind"], row["stages"]) for row in last["plan"]] == [("segment", 1)]


def test_a_begun_stage_keeps_its_settings_and_forgets_moved_folders(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(**arguments: Any) -> None:
        (arguments["out"] / "half.txt").write_text("half")
        raise KeyboardInterrupt

    root, seen = tmp_path / "out", []

    def look(out: Path, config: Config, **rest: Any) -> None:
        seen.append((config.segment.log_every, (out / "half.txt").exists()))
        raise KeyboardInterrupt

    settings = {"segment.resolution": 32, "segment.log_every": 5}
    with monkeypatch.context() as patch:
        patch.setattr(siamese_diffusion, "segment", killed)
        with pytest.raises(KeyboardInterrupt):
            study(write(settings=settings), root)
        patch.setattr(siamese_diffusion, "segment", look)
        with pytest.raises(KeyboardInterrupt):
            study(write(settings=settings | {"segment.log_every": 6}), root)
        (tmp_path / "discs").rename(tmp_path / "moved")
        data = {"discs": {"train": "moved", "test": "moved"}}
        with pytest.raises(KeyboardInterrupt):
            study(write(settings=settings | {"segment.log_every": 6}, data=data), root)
    assert seen[0] == (5, True)
    assert len({path.name for path in root.glob("stages/segment-*")}) == 2  # the set's name is in its results


def given_run(folder: Path, method: str = "siamese", pairs: int = 6) -> Path:
    (folder / "pipeline").mkdir(parents=True)
    (folder / "pipeline" / "model.safetensors").write_bytes(b"weights")
    config = build_config({"method": {"name": method}, "data": {"limit": pairs}}, "test")
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "summary.json").write_text(json.dumps({"pairs": pairs}))
    return folder


def test_a_given_run_is_used_and_known_by_its_content(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    run = given_run(tmp_path / "runs" / "siamese-6")
    arms = {"real": None, "siamese": {"run": "runs/siamese-{pairs}"}}
    study(write(arms=arms), tmp_path / "out")
    assert counted(calls) == {"sample": 1, "evaluate": 1, "segment": 7}
    calls.clear()
    (run / "summary.json").touch()
    study(write(arms=arms), tmp_path / "out")
    assert calls == []
    (run / "pipeline" / "model.safetensors").write_bytes(b"other weights")
    study(write(arms=arms), tmp_path / "out")
    assert counted(calls) == {"sample": 1, "evaluate": 1, "segment": 3}

    given_run(tmp_path / "runs" / "wrong", "mask-only")
    given_run(tmp_path / "runs" / "many", pairs=8)
    for name, words in {
        "wrong": "mask-only, not siamese",
        "many": "trained on 8 pairs, and this row of the table has 6",
        "none": "not a finished run",
        "{place}": "other braces",
    }.items():
        with pytest.raises(InputError, match=words):
            study(write(arms={"real": None, "siamese": {"run": f"runs/{name}"}}), tmp_path / "out", dry_run=True)


def test_a_misspelt_backbone_is_told(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"data\.discs\.backbone = smal: no such folder; did you mean small\?"):
        load_study(write(data={"discs": {"train": "discs", "backbone": "smal"}}))
    assert load_study(write(data={"discs": {"train": "discs", "backbone": "some/hub-id"}})).file.data["discs"].backbone


def test_a_given_backbone_is_known_by_its_content(write: Callable[..., Path], calls: Calls, tmp_path: Path) -> None:
    weights = tmp_path / "base" / "backbone" / "unet.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    file = write(data={"discs": {"train": "discs", "backbone": "base"}})
    study(file, tmp_path / "out")
    assert "pretrain" not in counted(calls)
    calls.clear()
    weights.write_bytes(b"two")
    study(file, tmp_path / "out")
    assert counted(calls) == {"train": 2, "sample": 2, "evaluate": 2, "segment": 6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": {}}, ["unknown setting seed", "did you mean seeds?"]),
        ({"arms": {"real": None, "siamese": {"ratoi": 1}}}, ["arms.siamese.ratoi", "did you mean ratio?"]),
        ({"data": {"discs": {"trian": "discs", "train": "discs"}}}, ["data.discs.trian", "did you mean train?"]),
        ({"data": {"discs": {}}}, ["data.discs.train is missing"]),
        ({"data": {"discs": {"train": "nowhere"}}}, ["nowhere", "not a folder"]),
        ({"pairs": [1]}, ["pairs", "greater than or equal to 2"]),
        ({"pairs": [9]}, ["pairs: 9", "8 training pairs", "discs"]),
        ({"pairs": [6, 6]}, ["pairs", "twice"]),
        ({"metrics": ["mDise"]}, ["metrics", "'mDise'", "mDice, mIoU, meanDic"]),
        ({"networks": ["nnet"]}, ["networks", "nnet", "unet"]),
        ({"networks": {"unet": {"train.steps": 3}}}, ["networks.unet", "train makes no difference"]),
        ({"settings": {"train.stpes": 3}}, ["train.stpes", "did you mean train.steps?"]),
        ({"settings": {"steps": 3}}, ["steps", "section.key"]),
        ({"settings": {"data.limit": 3}}, ["data.limit is set by the study", "pairs"]),
        ({"settings": {"segment.patience": 3}}, ["segment.patience", "equally many steps"]),
        ({"settings": {"segment.seed": 3}}, ["segment.seed is set by the study", "seeds.segmentation"]),
        ({"preset": "huge"}, ["preset = huge", "sd15-paper"]),
        ({"arms": {"siamese": None}}, ["exactly one must be of kind real"]),
        ({"arms": {"real": {"ratio": 2}}}, ["arms.real", "ratio makes no difference"]),
        ({"arms": {"real": None, "magic": None}}, ["arms.magic", "kinds: real, copy-paste, siamese, mask-only"]),
        ({"arms": {"real": None, "siamese": {"blend": "feather"}}}, ["blend makes no difference to kind siamese"]),
        (
            {"arms": {"real": None, "siamese": {"masks": "random", "recipe": "spin"}}},
            ["recipe 'spin'", "flip-scale-shift"],
        ),
        ({"arms": {"real": None, "siamese": {"oversample": 2}}}, ["oversample makes no difference without min_fit"]),
        ({"arms": {"real": None, "siamese": {"min_fit": 2}}}, ["arms.siamese.min_fit = 2"]),
        ({"arms": {"real": None, "copy-paste": {"settings": {"train.steps": 2}}}}, ["train.steps makes no difference"]),
        (
            {"arms": {"real": None, "siamese": {"settings": {"method.consistncy": 2}}}},
            ["did you mean method.consistency?"],
        ),
        ({"arms": {"real": None, "siamese": {"settings": {"data.limit_seed": 2}}}}, ["same for all arms"]),
        ({"seeds": {"segmentation": [1, 1]}}, ["seeds.segmentation", "twice"]),
        ({"seeds": {"segmentation": [1, 2, 3], "diffusion": [1, 2]}}, ["seeds.diffusion", "give one, or as many"]),
        ({"workers": 0}, ["workers = 0"]),
        ({"against": "mask_only"}, ["against = 'mask_only'", "arms: mask-only, siamese"]),
        ({"against": "real"}, ["against = 'real'", "besides real"]),
        ({"judge": {"settings": {"segment.stpes": 2}}}, ["judge.settings", "segment.steps"]),
    ],
)
def test_a_wrong_file_is_one_line(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, changes: Changes, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        study(write(**changes), tmp_path / "out")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_test_images_among_the_training_pairs_are_refused_before_anything_runs(
    write: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / "discs" / "splits.json").write_text(json.dumps(SPLITS | {"test": ["000", "011"]}))
    with pytest.raises(InputError, match=r"000.png is in test set discs and among the training pairs"):
        study(write(pairs="all"), tmp_path / "out")
    assert calls == []


def test_folders_may_be_given_on_the_command_line(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write(data={"discs": {"train": "elsewhere"}})
    loaded = load_study(file, {"discs": tmp_path / "discs"}, workers=3)
    assert loaded.file.data["discs"].train == tmp_path / "discs"
    assert loaded.file.data["discs"].test == [tmp_path / "discs"]
    assert loaded.file.workers == 3
    with pytest.raises(InputError, match=r"no such data set \(it has discs\)"):
        load_study(file, {"disks": tmp_path / "discs"})


ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
CHANGED = [
    pytest.param(ROOT / example, yaml.safe_load(re.sub("(?m)^    ", "", lines)), id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs/results").rglob("*.md"))
    for number, (example, lines) in enumerate(
        re.findall(r"    # (\S+\.yaml), but.*:\n((?:    .*\n)+)", page.read_text())
    )
]
"""Studies that the results give as an example's file and the lines in which they differ from it."""


def test_the_examples_and_the_studies_of_the_results_are_found() -> None:
    assert len(EXAMPLES) == 5
    assert len(CHANGED) >= 11


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    loaded = load_study(path)
    kinds = {"real", "mask-only", "siamese"} | ({"copy-paste", "adc"} if path.stem.endswith("-table") else set())
    kinds -= {"mask-only"} if "classes" in path.stem else set()
    assert {arm.kind for arm in loaded.arms} == kinds
    assert len(loaded.file.seeds.segmentation) >= (2 if "classes" in path.stem else 3)


@pytest.mark.parametrize(("path", "changes"), CHANGED)
def test_studies_of_the_results_are_valid(path: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    """Lines take the place of the file's own; under `settings` and `data` they are added to them."""
    values = yaml.safe_load(path.read_text())
    settings = merge(nested(values["settings"], str(path)), nested(changes.pop("settings", {}), str(path)))
    data = {name: entry | changes.get("data", {}).get(name, {}) for name, entry in values["data"].items()}
    assert changes.keys() <= values.keys()
    assert changes.pop("data", {}).keys() <= data.keys()
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values | changes | {"settings": settings, "data": data}))
    assert len(load_study(file).file.seeds.segmentation) >= 3


def command(file: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "siamese_diffusion", "study", "--config", str(file), "--out", str(out), *more]


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path / "none.yaml", tmp_path / "out"), capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"error: --config {tmp_path / 'none.yaml'}: no such file"
    assert "Traceback" not in result.stderr


def wait_for(happened: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def free(stage: Stage) -> bool:
    """Whether no process works on a stage."""
    lock = StageLock.take(stage)
    if lock is not None:
        lock.release()
    return lock is not None


def test_a_worker_is_interrupted_when_its_parent_is_gone() -> None:
    script = (
        "import time\nfrom siamese_diffusion.studies.worker_process import end_with_parent\nend_with_parent(0)\n"
        "print('ready', flush=True)\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):  # as long as the other end is open it works on
            worker.wait(0.5)
        out, _ = worker.communicate(timeout=60)  # closes it
    assert out == "saved\n"


def begun(stage: Stage) -> bool:
    """Whether a training has taken a step."""
    log = stage.folder / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


def test_workers_of_a_killed_study_save_and_end(write: Callable[..., Path], tmp_path: Path) -> None:
    """The real command, with more steps than it could ever do: it ends because its parent did."""
    settings = {"segment.resolution": 32, "segment.steps": 10**6, "segment.log_every": 1, "segment.sample_every": 10**6}
    settings |= {"segment.batch_size": 2, "segment.checkpoint_every": 10**6}
    file, root = write(arms={"real": None}, seeds={"segmentation": [0]}, settings=settings), tmp_path / "out"
    (stage,) = make_plan(load_study(file), root).stages()
    with subprocess.Popen(
        command(file, root, "--workers", "2", "--device", "cpu"), stderr=subprocess.DEVNULL
    ) as parent:
        try:
            wait_for(lambda: parent.poll() is not None or begun(stage))
            (worker,) = psutil.Process(parent.pid).children()
        finally:
            parent.kill()
    try:
        wait_for(lambda: free(stage))
    finally:
        if worker.is_running():
            worker.kill()
    assert len(list((stage.folder / "checkpoints").iterdir())) == 1  # no step that it did is lost
    assert "interrupted" in (stage.folder / "log.txt").read_text()


@pytest.fixture
def one_workers_threads() -> Iterator[None]:
    """Sums are rounded otherwise on another number of threads: this process takes as many as a worker of two."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(2))
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_interrupted_in_two_processes_and_continued_it_is_the_unbroken_study(
    tmp_path: Path, one_workers_threads: None
) -> None:
    """The real commands, on phantoms: two workers, stopped by SIGINT, against one process that was left alone."""
    make_phantoms(tmp_path / "phantoms", 20, 32, seed=3)
    names = [pair.name for pair in DataFolder(tmp_path / "phantoms").pairs()]
    splits = {"train": names[:8], "val": names[8:12], "test": names[12:]}
    (tmp_path / "phantoms" / "splits.json").write_text(json.dumps(splits))
    steps = {"steps": 4, "batch_size": 4, "warmup": 1, "sample_every": 2, "checkpoint_every": 2, "log_every": 1}
    values = {
        "settings": {
            **TINY,
            "data": {"resolution": 32},
            "segment": {"resolution": 32, **steps},
            "evaluate": {"fit_steps": 4},
        },
        "data": {"phantoms": {"train": "phantoms"}},
        "pairs": [6],
        "seeds": {"segmentation": [0]},
        "arms": {"real": None, "copy-paste": None, "siamese": {"masks": "random", "min_fit": 0}},
        "score": False,
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    study(file, tmp_path / "whole", device="cpu")

    out = tmp_path / "parts"
    plan = make_plan(load_study(file), out)
    kept = StageLock.take(
        next(run.stage for run in plan.runs if run.arm.name == "siamese")
    )  # it cannot be done meanwhile
    assert kept is not None
    with subprocess.Popen(
        command(file, out, "--workers", "2", "--device", "cpu"), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: list(out.glob("stages/segment-*/done.json")) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=150)
    kept.release()
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert not (out / "report.html").exists() or "of 3 segmentation runs" in (out / "report.html").read_text()
    runs = json.loads((out / "table.json").read_text())["runs"]
    assert 0 < sum(run["done"] for run in runs) < 3
    assert study(file, out, device="cpu")["runs"] == {"done": 3, "planned": 3}
    whole, parts = (json.loads((tmp_path / name / "table.json").read_text()) for name in ("whole", "parts"))
    assert parts == whole
    for path in out.glob("stages/segment-*"):
        assert json.loads((path / "log.jsonl").read_text().splitlines()[-1])["step"] == 4
    page = (out / "report.html").read_text()
    assert "http" not in page
    assert page.count('src="data:image/png;base64,') == 3


def test_folds_hold_out_every_pair_once_and_generators_see_none_of_it(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folds=3, pairs=["all"], seeds={"segmentation": [0, 1]}, judge={"pairs": "all"})
    out, seen, anywhere = tmp_path / "out", [], DataConfig(outside=True)
    commands = {name: getattr(siamese_diffusion, name) for name in ("pretrain", "train", "sample", "segment")}
    for command, reads in (("pretrain", "images"), ("train", "data"), ("sample", "masks"), ("segment", "train")):

        def noted(command: str = command, reads: str = reads, **given: Any) -> None:
            names = {pair.name for pair in DataFolder(given[reads], settings=anywhere).pairs()}
            tests = {
                pair.name for path in given.get("test", []) for pair in DataFolder(path, settings=anywhere).pairs()
            }
            seen.append((command, frozenset(names), frozenset(tests)))
            commands[command](**given)

        monkeypatch.setattr(siamese_diffusion, command, noted)
    result = study(file, out)
    assert result["runs"] == {"done": 18, "planned": 18}  # 3 arms, 2 seeds, 3 folds
    everyone = {*SPLITS["train"], *SPLITS["val"]}
    held = {tests for command, _, tests in seen if command == "segment" and tests}
    assert len(held) == 3
    assert sorted(name for fold in held for name in fold) == sorted(everyone)
    rests = {frozenset(everyone - fold) for fold in held}
    for command, names, tests in seen:
        assert names in rests, command
        assert not names & tests
    assert {command for command, *_ in seen} == {"pretrain", "train", "sample", "segment"}
    table = json.loads((out / "table.json").read_text())
    rows = {row["arm"]: row for row in table["rows"]}
    assert {row["test"] for row in table["rows"]} == {"out of fold"}
    for row in rows.values():
        assert (row["pairs"], row["images"], row["folds"], row["runs"]) == (10, 10, [0, 1, 2], 6)
        assert len(row["metrics"]["mDice"]["values"]) == 6
        assert not row["leaks"]
    assert rows["siamese"]["metrics"]["mDice"]["difference"]["n"] == 6
    text = (out / "table.md").read_text()
    assert "over 3 folds, each held out once" in text
    assert "May have seen" not in text
    before = len(seen)
    study(file, out)
    assert len(seen) == before


def test_folds_with_images_from_elsewhere_are_marked_and_test_sets_refused(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, disc_pairs: DiscPairs
) -> None:
    disc_pairs(12, name="unlabelled", seed=3)
    arms = {"real": None, "copy-paste": None, "siamese": None}
    file = write(folds=2, pairs=["all"], data={"discs": {"train": "discs", "images": "unlabelled/images"}}, arms=arms)
    study(file, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert {row["arm"]: row["leaks"] for row in rows} == {"real": False, "copy-paste": False, "siamese": True}
    assert "May have seen held-out images through its backbone: siamese." in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(InputError, match=r"folds = 2: .* leave out data\.discs\.test"):
        load_study(write(folds=2, data={"discs": {"train": "discs", "test": "discs"}}))
    with pytest.raises(InputError, match="folds"):
        load_study(write(folds=1))
    with pytest.raises(InputError, match="60 are more than the 10 pairs"):
        make_plan(load_study(write(folds=2, pairs=[60])), tmp_path / "never")


def test_an_arm_may_draw_into_the_rows_own_real_images(
    write: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, real = [], siamese_diffusion.sample

    def sample(**arguments: Any) -> None:
        given.append(arguments.pop("into", None))
        real(**arguments)

    monkeypatch.setattr(siamese_diffusion, "sample", sample, raising=False)
    arms = {"real": None, "siamese": None, "siamese into real": {"kind": "siamese", "into": True}}
    study(write(arms=arms, score=False), tmp_path / "out")
    assert counted(calls)["train"] == 1  # both arms draw with one generator
    assert len(given) == 2
    (into,) = [path for path in given if path is not None]
    names = {pair.name for pair in DataFolder(into, settings=DataConfig(outside=True)).pairs()}
    assert len(names) == 6
    assert names < set(SPLITS["train"])
    with pytest.raises(InputError, match="into makes no difference to kind copy-paste"):
        load_study(write(arms={"real": None, "copy-paste": {"into": True}}))


class TestExample:
    """The file that `study --example` prints."""

    def test_it_is_a_study_of_the_data_at_hand(self, disc_pairs: DiscPairs, tmp_path: Path) -> None:
        folder = disc_pairs(24, name="it's {here}")
        (tmp_path / "study.yaml").write_text(example({"mine": folder}))
        loaded = load_study(tmp_path / "study.yaml")
        assert loaded.file.data["mine"].train == folder
        assert loaded.file.folds == 5  # there is no test list
        assert {arm.kind for arm in loaded.arms} == {"real", "copy-paste", "mask-only", "siamese"}
        assert make_plan(loaded, tmp_path / "out").runs

    def test_without_data_a_placeholder_stands_there(self, tmp_path: Path) -> None:
        (tmp_path / "study.yaml").write_text(example())
        assert "PATH/TO/PAIRS" in str(load_study(tmp_path / "study.yaml").file.data["mine"].train)

    def test_a_folder_with_test_pairs_needs_no_folds(self, disc_pairs: DiscPairs, tmp_path: Path) -> None:
        bare, folder = (disc_pairs(50, name=name) for name in ("bare", "parted"))
        names = sorted(path.stem for path in (folder / "images").iterdir())
        (folder / "splits.json").write_text(json.dumps({"train": names[4:], "test": names[:4]}))
        (tmp_path / "study.yaml").write_text(example({"mine": folder}))
        loaded = load_study(tmp_path / "study.yaml")
        assert (loaded.file.folds, loaded.file.pairs) == (None, [23, "all"])
        with pytest.raises(InputError, match="has no list of test pairs, and others have"):
            example({"mine": folder, "bare": bare})

    def test_too_few_pairs_are_told(self, disc_pairs: DiscPairs) -> None:
        folder = disc_pairs(6)
        with pytest.raises(InputError, match="6 training pairs; a study takes at least 20"):
            example({"few": folder})
