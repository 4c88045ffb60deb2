"""What commands note for themselves and read back: caches, stages of a study, summaries, rows of predictions."""

from pathlib import Path
from typing import Any

import numpy as np

from campaign.entrance import TINY, Entrance
from siamese_diffusion.claim import CONFIG, Claim, begun_earlier
from siamese_diffusion.config import build_config, dump_config
from siamese_diffusion.data.arrays import stored_array
from siamese_diffusion.evaluation.evaluate import _Earlier
from siamese_diffusion.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from siamese_diffusion.segmentation.predict import _Row
from siamese_diffusion.studies.perform import finish, prepare
from siamese_diffusion.studies.stages import Stage

SHAPE = (4, 6, 6, 3)


def make_cache(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images-0.npy", np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))


def read_cache(folder: Path, damaged: Path) -> Any:
    found = stored_array(damaged, np.uint8, (4, None, 6, 3))
    return None if found is None else (found.shape, int(found.sum()))


def right_cache(found: Any) -> bool:
    return found is None or (found[0] == SHAPE and found[1] >= 0)


def stage_of(folder: Path) -> Stage:
    return Stage("segment", "a stage", folder, {"x": 1}, arguments={"train": Path("a")}, values={"segment.steps": 3})


def make_stage(folder: Path) -> None:
    """A stage of a study that is done, and one that was begun."""
    stage = stage_of(folder)
    stage.folder.mkdir(parents=True)
    prepare(stage)
    write_json(stage.folder / "metrics.json", {"val": {"mDice": 0.5}})
    write_jsonl(stage.folder / "log.jsonl", [{"step": 1, "total": 0.5}])
    finish(stage, 3.0, None)


def read_stage(folder: Path, damaged: Path) -> Any:
    stage = stage_of(folder)
    told = stage.result, stage.seconds
    prepare(stage)
    if (stage.folder / "log.jsonl").exists():  # where its note was another one's, it is begun anew
        finish(stage, 3.0, None)
    return told


def make_earlier(folder: Path) -> None:
    """A folder without a mark, of an earlier version; and what `predict` and `evaluate` left."""
    write_text(folder / CONFIG, dump_config(build_config(TINY, "faults")))
    write_json(folder / "summary.json", {"method": "siamese", "pairs": 4})
    row = {"name": "a", "width": 4, "height": 4, "area": 2, "share": 0.1, "components": 1, "mean_probability": None}
    write_jsonl(folder / "predictions.jsonl", [row, {**row, "name": "b"}])
    write_json(folder / "metrics.json", {"counts": {"real": 4}, "protocol": {"extractors": [{"name": "judge"}]}})


def read_earlier(folder: Path, damaged: Path) -> Any:
    begun_earlier(folder, "train")
    Claim(folder / "new", None, {}, {"command": "predict"}, True)
    rows: dict[str, dict[str, Any]] = {row["name"]: dict(row) for row in read_jsonl(folder / "predictions.jsonl", _Row)}
    return sum(int(row["area"]) for row in rows.values()), read_json(folder / "metrics.json", _Earlier)["counts"]


ENTRANCES = [
    Entrance("a cache of arrays", make_cache, ("*.npy",), read_cache, right_cache, 20),
    Entrance(
        "a stage of a study",
        make_stage,
        ("stages/*/done.json", "stages/*/stage.json", "stages/*/settings.yaml", "stages/*/*.jsonl", "stages/*/m*.json"),
        read_stage,
        lambda found: found[1] >= 0,
        15,
    ),
    Entrance("what was noted", make_earlier, ("*.json", "*.jsonl"), read_earlier, weight=15),
]
