import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from siamese_diffusion.config import DataConfig
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


def textured(folder: Path, count: int = 6) -> None:
    for i in range(count):
        random = np.random.default_rng(i)
        pair(folder, str(i))
        Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8)).save(folder / f"images/{i}.png")


def test_the_page_holds_what_was_found(tmp_path: Path) -> None:
    data, page = tmp_path / "a & <b>", tmp_path / "out/check.html"
    textured(data)
    pair(data, "<script>x", np.eye(9, dtype=np.uint8) * 255)
    pair(data, "torn")
    (data / "images/torn.png").write_bytes(b"\x89PNG\r\n")
    (data / "splits.json").write_text(json.dumps({"train": ["0", "1", "torn"], "test": ["2", "3", "4", "<script>x"]}))
    report = check(data, report=page)
    text = page.read_text()
    assert "<script>" not in text
    assert "a &amp; &lt;b&gt;" in text
    assert "masks/&lt;script&gt;x.png" in text
    assert text.count("<figure>") == 2 + 2 + 1 + 6  # two charts; the pages of problems; pairs that can be read
    for words in ("Error: size mismatch (1)", "Error: unreadable (1)", "binary, 0 and 255", "no list", report.next):
        assert (str(escape(words)) in text) == (words != "no list")
    assert not re.search(r'(src|href)="(?!data:)', text)
    again = page.read_bytes()
    assert check(data, report=page) == report
    assert page.read_bytes() == again


def test_the_page_is_written_over_nothing_of_anybody_elses(tmp_path: Path) -> None:
    textured(tmp_path / "data")
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for page, words in (
        (tmp_path / "mine.html", "did not write"),
        (tmp_path, "is a folder"),
        (tmp_path / "data/check.html", "lies in the data folder"),
        (tmp_path / "data/images/new/check.html", "lies in the data folder"),
        (tmp_path / "link/check.html", "lies in the data folder"),
    ):
        with pytest.raises(InputError, match=f"--report .*{words}"):
            check(tmp_path / "data", report=page)
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"
    assert not (tmp_path / "data/images/new").exists()


def test_the_page_of_a_folder_whose_masks_have_no_meaning(tmp_path: Path) -> None:
    textured(tmp_path / "data")
    rim = np.zeros((20, 20), np.uint8)
    rim[5:15, 5:15], rim[5, 5:15] = 1, 255
    Image.fromarray(rim).save(tmp_path / "data/masks/0.png")
    report = check(tmp_path / "data", report=tmp_path / "check.html")
    assert "could not be decided" in (tmp_path / "check.html").read_text()
    assert report.next.endswith(f"siamese-diffusion check {tmp_path / 'data'} --set 'data.void=[255]'")


def test_what_to_type_next(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    textured(data)
    assert check(data).next == f"siamese-diffusion train --data '{data}' --out RUN"
    settings = DataConfig(fit="pad", void=(3,))
    assert check(data, settings).next.endswith("--out RUN --set data.fit=pad --set 'data.void=[3]'")
    for i in range(6):
        speck = np.zeros((400, 400), np.uint8)
        speck[100:103, 90 + i : 93 + i] = 255
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (400, 400, 3), np.uint8)).save(
            data / f"images/{i}.png"
        )
        Image.fromarray(speck).save(data / f"masks/{i}.png")
    report = check(data, DataConfig(resolution=64))
    assert report.next.endswith(f"--set data.resolution={report.lesions['keeping']}")
    (data / "masks/0.png").unlink()
    assert check(data).next == f"mend the error above, then: siamese-diffusion check '{data}'"


def test_masks_inverted_among_others_are_named(tmp_path: Path) -> None:
    textured(tmp_path)
    disc = np.asarray(Image.open(tmp_path / "masks/0.png"))
    for i in (2, 4):
        Image.fromarray(255 - disc).save(tmp_path / f"masks/{i}.png")
    problems = [problem for problem in check(tmp_path).problems if problem.kind == "inverted alone"]
    assert [Path(problem.file).name for problem in problems] == ["2.png", "4.png"]


def test_check_needs_no_torch(tmp_path: Path) -> None:
    textured(tmp_path / "data")
    (tmp_path / "data/splits.json").write_text(json.dumps({"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]}))
    code = (
        "import sys; from pathlib import Path; from siamese_diffusion import check; "
        f"check(Path({str(tmp_path / 'data')!r}), report=Path({str(tmp_path / 'page.html')!r})); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
