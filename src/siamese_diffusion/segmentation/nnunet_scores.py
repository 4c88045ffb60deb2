"""This package's figures of what nnU-Net predicted: its label maps, found by the table that `export-nnunet` wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamese_diffusion import progress
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import DataConfig, load_config
from siamese_diffusion.data.classes import AnyMask
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.images import Pixels
from siamese_diffusion.data.opening import decoded
from siamese_diffusion.data.pairs import MaskFile
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_csv, to_csv, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.segmentation.label_png import label_png
from siamese_diffusion.segmentation.metrics import SetScores, join, score, score_labels
from siamese_diffusion.segmentation.nnunet import TABLE as PAIRS

SCORES = "scores.csv"


def score_nnunet(
    predictions: Path, masks: Path, out: Path, pairs: Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Score label maps that nnU-Net wrote, each at its mask's own size.

    Args:
        predictions: folder of `CASE.png`: what `nnUNetv2_predict` wrote, or the `validation` folder of a fold.
        masks: the folder of pairs that was exported.
        out: gets `masks/NAME.png` (0 background, 1 lesion, or the labels of several classes), `scores.csv` (a line an
            image) and `metrics.json`.
        pairs: the `pairs.csv` of `export-nnunet`; default: the nearest one at or above `predictions`.
        resume: go on with an interrupted call.

    Returns:
        `out`, `images`, `healthy` (in which nothing is seen), `share` (mean share of the image) and `scores`.

    Raises:
        InputError: no predictions, one that is no case of the table, has no mask or another size than it, test cases
            that were not predicted, or an `out` in use.
    """
    require_apart(out, from_nnunet=predictions, masks=masks)
    table = _nearest(predictions) if pairs is None else pairs
    names = {row["case"]: row["name"] for row in read_csv(table, ("case", "kind", "name"))}
    files = {path.stem: path for path in sorted(predictions.glob("*.png"))} if predictions.is_dir() else {}
    _require_cases(files, names, predictions, table)
    truth = _truth(masks, [names[case] for case in files], table)
    inputs = {"command": "predict", **note_files([*files.values(), table])}
    scores: list[SetScores] = []
    shares: list[float] = []
    with hold(out):
        Claim(out, None, {}, inputs, resume, result="metrics.json").write()
        for case, path in progress.track(files.items(), "scoring"):
            found, true = _labels(path), truth[names[case]].read()
            if found.shape != true.shape:
                raise InputError(
                    f"{path}: is {found.shape[1]} x {found.shape[0]}, but its mask {truth[names[case]].path} is "
                    f"{true.shape[1]} x {true.shape[0]}"
                )
            scores.append(_score(found, true, truth[names[case]].decoding.class_names))
            shares.append(float((found != 0).mean()))
            picture = label_png(found if truth[names[case]].decoding.class_names else found > 0)
            write_whole(out / "masks" / f"{names[case]}.png", lambda file, p=picture: p.save(file, "PNG"))  # type: ignore[misc]
        joined = join(scores)
        columns = {key: [f"{value:.6f}" for value in values] for key, values in joined.columns().items()}
        rows = zip([names[case] for case in files], *columns.values(), strict=True)
        write_text(out / SCORES, to_csv(["name", *columns], rows))
        result = {
            "out": str(out),
            "images": len(files),
            "healthy": sum(share == 0 for share in shares),
            "share": float(np.mean(shares)),
            "scores": joined.means(),
        }
        write_json(out / "metrics.json", {"nnunet": str(predictions.resolve()), **result})
    return result


def _nearest(predictions: Path) -> Path:
    for folder in (predictions, *predictions.resolve().parents):
        if (folder / PAIRS).is_file():
            return folder / PAIRS
    raise InputError(f"--from-nnunet {predictions}: no {PAIRS} there or above; name that of export-nnunet with --pairs")


def _require_cases(files: dict[str, Path], names: dict[str, str], predictions: Path, table: Path) -> None:
    if not files:
        raise InputError(f"--from-nnunet {predictions}: holds no CASE.png, which nnUNetv2_predict writes")
    strange = [path for case, path in files.items() if case not in names]
    if strange:
        raise InputError(f"{strange[0]}: {strange[0].stem} is no case of {table}")
    tests = {case for case in names if case.startswith("test_")}
    lost = sorted(tests - files.keys()) if tests & files.keys() else []
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(
            f"--from-nnunet {predictions}: {lost[0]}{more} of {table} was not predicted; predict all of it"
        )


def _score(found: Pixels, true: AnyMask, classes: Sequence[str]) -> SetScores:
    if classes:
        return score_labels(torch.from_numpy(found)[None], torch.from_numpy(true)[None], classes)
    probable = torch.from_numpy((found > 0).astype(np.float32))
    return score(probable[None], torch.from_numpy(true)[None], field=True)


def _truth(masks: Path, names: list[str], table: Path) -> dict[str, MaskFile]:
    """The masks of the pairs, read as they were when they were exported."""
    exported = table.with_name("config.yaml")
    settings = load_config(exported).data if exported.exists() else DataConfig()
    folder = DataFolder(masks, "--masks", settings)
    found = dict(folder.masks())
    if folder.test_sets:
        found.update(folder.masks("test"))
    lost = [name for name in names if name not in found]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(f"--masks {masks}: has no mask called {lost[0]}{more}")
    return found


def _labels(path: Path) -> Pixels:
    """A label map (H, W)."""
    with decoded(path) as image:
        labels = np.asarray(image)
    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.bool_):
        raise InputError(f"{path}: is no label map of nnU-Net (8-bit grey, a label a pixel)")
    return labels.astype(np.uint8)
