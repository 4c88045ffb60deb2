"""Settings, the folders of runs, and studies."""

from pathlib import Path
from typing import Any

from campaign.entrance import TINY, Entrance, command
from siamese_diffusion.claim import CONFIG, INPUTS, Claim
from siamese_diffusion.config import Config, build_config, dump_config, load_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.files import write_json, write_text
from siamese_diffusion.studies.spec import load_study

OWN = "data: {resolution: 32, flip: none}\ntrain: &same\n  steps: 5\n  betas: [0.9, 0.99]\npretrain: *same\n"

STUDY = """
title: faults
preset: null
settings: {segment.steps: 5, train: {steps: 6}}
data:
  tiny: {train: pairs, test: [pairs], settings: {data.resolution: 32}}
pairs: [4, all]
networks: {unet: {segment.steps: 4}}
seeds: {segmentation: [0, 1], diffusion: 0}
arms:
  real:
  copy-paste: {masks: random, ratio: [1, 2], blend: feather}
  siamese: {min_fit: 0.5, settings: {train.steps: 3}}
against: siamese
judge: {pairs: all}
metrics: [mDice]
confidence: 0.9
workers: 1
"""

INPUT = {"command": "segment", "program": "siamese-diffusion", "real": 4, "files": "0" * 16, "test": {"a": 3}}


def make_settings(folder: Path) -> None:
    write_text(folder / CONFIG, dump_config(build_config(TINY, "faults")))
    write_text(folder / "mine.yaml", OWN)
    write_json(folder / INPUTS, INPUT)


def claim(folder: Path, damaged: Path) -> Any:
    return Claim(folder, build_config(TINY, "faults"), {"train": None}, INPUT, resume=True)


def make_study(folder: Path) -> None:
    make_phantoms(folder / "pairs", 7, 16, seed=3)
    names = [pair.name for pair in DataFolder(folder / "pairs").pairs()]
    write_json(folder / "pairs" / "splits.json", {"train": names[:6], "test": names[6:]})
    write_text(folder / "study.yaml", STUDY)


def read_override(folder: Path, damaged: Path) -> Any:
    """What a user may type after `--set`."""
    text = damaged.read_text(encoding="utf-8", errors="surrogateescape")
    return load_config(None, [f"data.label={text}"])


def is_config(found: Any) -> bool:
    return isinstance(found, Config)


ENTRANCES = [
    Entrance(
        "settings", make_settings, (CONFIG, "mine.yaml"), lambda folder, damaged: load_config(damaged), is_config, 40
    ),
    Entrance(
        "--set", lambda folder: write_text(folder / "value.yaml", "polyp"), ("value.yaml",), read_override, is_config, 5
    ),
    Entrance("a run's folder", make_settings, (CONFIG, INPUTS), claim, weight=10),
    Entrance("study", make_study, ("study.yaml",), lambda folder, damaged: load_study(damaged), weight=30),
    command(
        *("study, planned", make_study, ("study.yaml", "pairs/splits.json"), 5),
        *("study", "--config", "{}/study.yaml", "--out", "{}/out", "--dry-run"),
    ),
]
