"""What commands wrote and others read back: scores, results, ratings."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from campaign.entrance import Entrance, command
from campaign.pairs_in import make_pairs
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.evaluation.filter import filter_
from siamese_diffusion.files import write_json, write_jsonl, write_text
from siamese_diffusion.reader_study import rating
from siamese_diffusion.report import loss_curves
from siamese_diffusion.segmentation import training
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.tensors import read_state


def make_scores(folder: Path) -> None:
    make_pairs(folder / "pairs")
    scores = folder / "scores"
    names = [pair.name for pair in DataFolder(folder / "pairs").pairs()]
    rows = "".join(f"{name},0.9{i}0000,0.800000,0.010000\n" for i, name in enumerate(names))
    write_text(scores / "fit.csv", "name,dice,iou,boundary\n" + rows)
    metrics = {
        "fit": {
            "dice": {"mean": 0.9, "low": 0.8, "high": 1.0},
            "shuffled": {"mean": 0.2, "low": 0.1, "high": 0.3},
        },
        "novelty": {"flagged": [{"synthetic": names[0], "real": "x", "distance": 0.1}], "share_flagged": 0.25},
        "protocol": {"synthetic": str((folder / "pairs").resolve()), "version": "0"},
    }
    write_json(scores / "metrics.json", metrics)


def filter_pairs(folder: Path, damaged: Path) -> Any:
    return filter_(folder / "scores", folder / "out", 0.5, 0.5, True, folder / "pairs")


def make_result(folder: Path) -> None:
    """A finished run of `segment`, the files that others read."""
    val = {"mDice": 0.5, "mIoU": 0.4, "count": 3}
    test = {"a": {"mDice": 0.5, "count": 2}}
    counts = {"real": 4, "synthetic": 0}
    metrics = {"network": "unet", "train": counts, "val": val, "test": test, "mean": None, "weighted": None}
    write_json(folder / "metrics.json", metrics)
    write_jsonl(folder / "log.jsonl", [{"step": step, "total": 1 / step} for step in range(1, 6)])
    write_jsonl(folder / "validation.jsonl", [{"step": step, **val} for step in range(1, 4)])
    save_file(dict(nn.Linear(3, 2).state_dict()), folder / "best.safetensors")
    (folder / "checkpoints/step-000003").mkdir(parents=True)


def read_result(folder: Path, damaged: Path) -> Any:
    selection = Selection(folder)
    if selection.rows:
        selection.best()
    loss_curves({"run": folder / "log.jsonl"}, ["total"])
    return training.read_result(folder)["val"]["mDice"], read_state(folder / "best.safetensors")


def make_ratings(folder: Path) -> None:
    """A key of `rate export`, and what two readers saved."""
    images = [{"id": f"{i:016x}", "source": ("real", "ours")[i % 2], "file": f"{i}.png"} for i in range(6)]
    sources = {"real": "r", "ours": "o"}
    write_json(
        folder / "key.json",
        {"format": rating.KEY_FORMAT, "study": "ab", "seed": 0, "sources": sources, "images": images},
    )
    for reader in ("A", "B"):
        rows = [
            {"id": image["id"], "rating": 1 + i % 5, "answer": "real", "seconds": 2.5, "position": i}
            for i, image in enumerate(images)
        ]
        sheet = {"format": rating.RATINGS_FORMAT, "study": "ab", "reader": reader, "ratings": rows}
        write_json(folder / f"{reader}.json", sheet)


def score(folder: Path, damaged: Path) -> Any:
    files = [folder / "A.json", folder / "B.json"]
    return rating.render_scores(rating.score_ratings(files, folder / "key.json", folder / "out"))


SCORES, RATINGS = ("scores/metrics.json", "scores/fit.csv"), ("key.json", "A.json")

ENTRANCES = [
    Entrance("filter", make_scores, SCORES, filter_pairs, weight=25),
    command(
        *("filter, command", make_scores, SCORES, 3),
        *(
            "filter",
            "--scores",
            "{}/scores",
            "--synthetic",
            "{}/pairs",
            "--min-dice",
            "0.5",
            "--out",
            "{}/out",
            "--json",
        ),
    ),
    Entrance(
        *("a run of segment", make_result, ("metrics.json", "log.jsonl", "validation.jsonl", "best.safetensors")),
        *(read_result, lambda found: isinstance(found[0], float | int), 15),
    ),
    Entrance("ratings", make_ratings, RATINGS, score, weight=15),
    command("ratings, command", make_ratings, RATINGS, 3, "rate", "score", "{}/A.json", "--key", "{}/key.json"),
]
