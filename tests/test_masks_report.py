"""`evaluate --masks`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_mask_prior import discs, mask_folder

from siamese_diffusion.config import Config, build_config
from siamese_diffusion.errors import InputError
from siamese_diffusion.evaluation.evaluate import evaluate
from siamese_diffusion.evaluation.masks_page import painted, render

SETTINGS = build_config({"data": {"resolution": 32, "split": None}}, "tests")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    return (
        mask_folder(tmp_path / "drawn", discs(45, seed=1)),
        mask_folder(tmp_path / "real", discs(60, seed=2)),
        mask_folder(tmp_path / "held", discs(50, seed=3)),
    )


def test_the_report(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    drawn, real, held = folders
    out = tmp_path / "out"
    found = evaluate(real, None, out, SETTINGS, masks=drawn, held_out=held)
    assert found["counts"] == {"drawn": 45, "real": 60, "held_out": 50}
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(found))
    assert set(found["held_out"]) == {"area", "x", "y", "compactness", "parts", "border"}
    page = (out / "report.html").read_text()
    for words in ("Do they look alike?", "Are they new?", found["verdict"]["because"], "held-out masks"):
        assert words in page
    text = render(found)
    assert text.startswith(f"Are the drawn masks like real ones, and new? {found['verdict']['word']}.")
    assert evaluate(real, None, out, SETTINGS, masks=drawn, held_out=held, resume=True) == found
    with pytest.raises(InputError, match="already holds results; add --resume"):
        evaluate(real, None, out, SETTINGS, masks=drawn, held_out=held)
    with pytest.raises(InputError, match="begun from other input"):
        evaluate(real, None, out, SETTINGS, masks=drawn, resume=True)


def test_without_a_folder_of_others_they_are_the_rest_of_the_real_ones(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    drawn, real, _ = folders
    limited = build_config({"data": {"resolution": 32, "split": None, "limit": 40}}, "tests")
    found = evaluate(real, None, tmp_path / "limited", limited, masks=drawn)
    assert found["counts"] == {"drawn": 45, "real": 40, "held_out": 20}
    assert found["copies"]["measured_on"] == {"masks": "held-out", "count": 20}
    whole = evaluate(real, None, tmp_path / "whole", SETTINGS, masks=drawn)
    assert whole["counts"]["held_out"] == 0
    assert whole["held_out"] is None
    assert "from training ones" in whole["verdict"]["because"] or "training ones" in whole["verdict"]["because"]


def test_copies_are_called_so(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, real, held = folders
    copies = mask_folder(tmp_path / "copies", discs(60, seed=2)[:, :, ::-1])
    found = evaluate(real, None, tmp_path / "out", SETTINGS, masks=copies, held_out=held)
    assert found["copies"]["share"] == 1
    assert found["verdict"]["word"] == "not good"


def test_what_is_wrong_is_a_line(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    drawn, real, held = folders
    empty = mask_folder(tmp_path / "empty", np.zeros((4, 32, 32), np.uint8))
    out = tmp_path / "out"
    wrong: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: evaluate(real, None, out), "give --synthetic, a folder of pairs, or --masks"),
        (lambda: evaluate(real, drawn, out, masks=drawn), "and not both"),
        (lambda: evaluate(real, drawn, out, held_out=held), "--held-out: goes with --masks"),
        (lambda: evaluate(real, None, out, masks=drawn, features="clip"), "--features: is of images"),
        (lambda: evaluate(real, None, out, SETTINGS, masks=drawn, held_out=real), "each of its masks is a training"),
        (lambda: evaluate(real, None, tmp_path / "o", SETTINGS, masks=empty), "0 masks with a lesion"),
        (lambda: evaluate(real, None, drawn / "in", Config(), masks=drawn), "lies inside --masks"),
    )
    for call, words in wrong:
        with pytest.raises(InputError, match=words) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert not out.exists()


def test_a_prior_is_no_folder_of_masks(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from siamese_diffusion.claim import mark

    mark(tmp_path / "prior", "train-masks")
    with pytest.raises(InputError, match="is a prior, and its own report is"):
        evaluate(folders[1], None, tmp_path / "out", SETTINGS, masks=tmp_path / "prior")


def test_classes_are_painted_apart() -> None:
    labels = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    picture = painted(labels, 3, 2)[0]
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)}) == 4
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert painted(labels.clip(max=1), 1, 2)[0][0, 1].tolist() == [255, 255, 255]
