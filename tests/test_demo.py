"""The demo at its smallest size, whole: every stage runs, and the page opens offline."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Browser
from PIL import Image

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.demonstration import MIN_DICE, demo
from siamese_diffusion.evaluation.scores import read_fits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    demo(out, "smallest", "cpu")
    return out


@pytest.mark.slow
def test_summary_and_report_agree(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text())
    page = (made / "report.html").read_text()
    assert set(summary["segmentation"]) == {"real", "mask-only", "siamese"}
    for arm in summary["segmentation"].values():
        assert f"{100 * arm['mDice']:.1f}" in page
    for method in ("mask-only", "siamese"):
        assert f"{100 * summary['fit'][method]['dice']['mean']:.1f}" in page
        pairs = DataFolder(made / f"{method}-pairs").pairs()
        assert len(pairs) == 16
        assert all(pair.extra["method"] == method for pair in pairs)
        fits = {name: dice for name, (dice, _) in read_fits(made / f"score-{method}" / "fit.csv").items()}
        obedient = {name for name, dice in fits.items() if dice >= min(MIN_DICE, max(fits.values()))}
        assert {pair.name for pair in DataFolder(made / f"{method}-kept").pairs()} == obedient
        assert summary["kept"][method] == len(obedient) > 0
        assert f"{len(obedient)} of 16" in page
        assert f"{method}-kept" in (made / f"segment-{method}" / "metrics.json").read_text()
    assert len(summary["seconds"]) == 10
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
@pytest.mark.browser
def test_page_renders_in_a_browser(made: Path, browser: Browser, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    browser(made / "report.html", "--hide-scrollbars", "--window-size=1100,2400", f"--screenshot={shot}")
    assert len(np.unique(np.asarray(Image.open(shot).convert("L").resize((110, 240))))) > 20
