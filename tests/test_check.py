import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.data.check import check
from siamese_diffusion.data.check_text import render
from siamese_diffusion.errors import InputError


def pair(folder: Path, name: str, mask: object = None, shade: int = 0) -> None:
    disc = np.zeros((20, 20), np.uint8)
    disc[5:15, 5:15] = 255
    image = np.full((20, 20, 3), 50 + shade, np.uint8)
    image[:10] += 100
    for part, array in (("images", image), ("masks", disc if mask is None else np.asarray(mask))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.png")


def test_a_good_folder(tmp_path: Path) -> None:
    for i in range(3):
        pair(tmp_path, str(i), shade=i)
    report = check(tmp_path)
    assert report.pairs == 3
    assert report.problems == []
    assert report.coverage["median"] == 0.25
    assert report.sizes["median"] == (20, 20)
    assert report.as_dict()["usable"] is True
    assert "no problems" in render(report)
    json.dumps(report.as_dict())


def test_every_problem_is_found_with_its_file(tmp_path: Path) -> None:
    pair(tmp_path, "good")
    pair(tmp_path, "twin")
    pair(tmp_path, "empty", np.zeros((20, 20), np.uint8), shade=1)
    pair(tmp_path, "full", np.full((20, 20), 255, np.uint8), shade=2)
    pair(tmp_path, "grey", np.tile(np.linspace(0, 255, 20).astype(np.uint8), (20, 1)), shade=3)
    pair(tmp_path, "sizes", np.eye(9, dtype=np.uint8) * 255, shade=4)
    pair(tmp_path, "torn", shade=5)
    (tmp_path / "images/torn.png").write_bytes(b"\x89PNG\r\n")
    pair(tmp_path, "lonely", shade=6)
    (tmp_path / "masks/lonely.png").unlink()
    pair(tmp_path, "widow", shade=7)
    (tmp_path / "images/widow.png").unlink()
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["good", "twin"], "test": ["good", "nobody"]}))
    report = check(tmp_path)
    found = {(problem.kind, Path(problem.file).name) for problem in report.problems}
    assert found == {
        ("same image", "twin.png"),
        ("empty mask", "empty.png"),
        ("full mask", "full.png"),
        ("not binary", "grey.png"),
        ("size mismatch", "sizes.png"),
        ("unreadable", "torn.png"),
        ("unpaired", "lonely.png"),
        ("unpaired", "widow.png"),
        ("split", "splits.json"),
    }
    details = " ".join(problem.detail for problem in report.problems if problem.kind == "split")
    assert "nobody" in details
    assert "good is in train and test" in details
    assert report.as_dict()["usable"] is False
    text = render(report)
    assert "error: unpaired, 2" in text
    assert "warning: empty mask, 1" in text


def test_long_lists_are_cut_in_the_text_only(tmp_path: Path) -> None:
    for i in range(15):
        pair(tmp_path, str(i), np.zeros((20, 20), np.uint8), shade=i)
    report = check(tmp_path)
    assert [problem.kind for problem in report.problems] == ["empty mask"] * 15 + ["no lesion"]
    assert "and 5 more" in render(report)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        check(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "absent")


def test_rows_that_name_no_file_are_listed(tmp_path: Path) -> None:
    pair(tmp_path, "good")
    rows = [{"image": f"images/{name}.png", "mask": f"masks/{name}.png"} for name in ("good", "lost")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(tmp_path)
    assert report.pairs == 1
    assert [(problem.kind, problem.fatal) for problem in report.problems] == [("manifest", True)] * 2
    assert "line 2 names masks/lost.png" in report.problems[1].detail


def test_every_set_of_a_pranet_release(tmp_path: Path) -> None:
    for shade, inner in enumerate(("TrainDataset", "TestDataset/A", "TestDataset/B")):
        pair(tmp_path / inner, "x", shade=shade)
    assert check(tmp_path).pairs == 3
    assert check(tmp_path / "TestDataset").pairs == 2
