"""The demo at its smallest size, whole: every stage runs, and the page opens offline."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import Browser
from PIL import Image

import siamese_diffusion
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.demonstration import SIZES, demo, packaged_study
from siamese_diffusion.errors import InputError
from siamese_diffusion.studies.spec import load_study
from siamese_diffusion.studies.study import study

PACKAGE = Path(siamese_diffusion.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    demo(out, "smallest", "cpu")
    return out


@pytest.mark.parametrize("size", SIZES)
def test_the_study_of_each_size_is_whole(size: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(packaged_study(size))
    loaded = load_study(tmp_path / "study.yaml")
    (source,) = loaded.file.data.values()
    assert source.train == tmp_path / "phantoms"
    assert (Path(source.backbone) / "unet" / "config.json").exists()
    assert [arm.kind for arm in loaded.arms] == ["real", "mask-only", "siamese"]
    assert {arm.min_fit for arm in loaded.arms if arm.synthetic} == {loaded.arms[1].min_fit}
    assert {arm.recipe for arm in loaded.arms if arm.synthetic} == {"flip-scale-shift"}


def test_a_folder_of_ones_own_comes_before_what_ships(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(packaged_study("smallest"))
    (tmp_path / "phantom").mkdir()
    (source,) = load_study(tmp_path / "study.yaml").file.data.values()
    assert source.backbone == str(tmp_path / "phantom")


def test_a_used_folder_and_an_unknown_size_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out, size, words in ((tmp_path, "smallest", "already in use"), (tmp_path / "new", "huge", "smallest, default")):
        with pytest.raises(InputError, match=words):
            demo(out, size, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_not_python_is_packaged_too() -> None:
    """An installed package has the files that pyproject.toml names, where a working tree has all."""
    declared = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    patterns = declared["tool"]["setuptools"]["package-data"]["siamese_diffusion"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert PACKAGE / "studies" / "demo-default.yaml" in others
    assert others <= packaged


@pytest.mark.slow
def test_summary_and_report_agree(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text())
    page = (made / "report.html").read_text()
    assert set(summary["segmentation"]) == {"real", "mask-only", "siamese"}
    for arm in summary["segmentation"].values():
        assert f"<td>{100 * arm['mDice']:.1f}</td>" in page
    table = json.loads((made / "table.json").read_text())
    drawn = {row["arm"]: row for row in table["synthetic"]}
    for method in ("mask-only", "siamese"):
        fit = summary["fit"][method]
        for name, value in {"drawn": fit["dice"]["mean"], "drawn_low": fit["dice"]["low"]}.items():
            assert drawn[method][name] == pytest.approx(value, abs=1e-6)
            assert f"{100 * value:.1f}" in page
        for value in (fit["shuffled"]["mean"], fit["judge"]["dice"]):
            assert f"<td>{100 * value:.1f}</td>" in page
        kept = DataFolder(made / drawn[method]["folder"]).pairs()
        assert summary["kept"][method] == len(kept) == 16  # the smallest size keeps all
        assert all(pair.extra["method"] == method for pair in kept)
        assert page.count("<td>16\u00a0of\u00a016</td>") == 2
    assert summary["seconds"].keys() > {"phantoms"}
    assert len(summary["seconds"]) == 14
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 3
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_it_is_a_study_that_goes_on(made: Path) -> None:
    before = (made / "table.json").read_text()
    done = study(made / "study.yaml", made, device="cpu", dry_run=True)
    assert (done["to_run"], done["done"]) == (0, len(done["stages"]))
    assert study(made / "study.yaml", made, device="cpu")["report"] == str(made / "report.html")
    assert (made / "table.json").read_text() == before


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 800])
def test_page_renders_in_a_browser(made: Path, browser: Browser, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "page.png"
    browser(made / "report.html", "--hide-scrollbars", f"--window-size={width},2400", f"--screenshot={shot}")
    assert len(np.unique(np.asarray(Image.open(shot).convert("L").resize((110, 240))))) > 20
