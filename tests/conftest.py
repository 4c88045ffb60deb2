import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

# Several workers share the cores; each with threads for all of them would wait for the others. Before numpy and torch.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from siamese_diffusion.config import Config, build_config

DiscPairs = Callable[..., Path]
Browser = Callable[..., str]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
HEADLESS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)  # as root, and in a small container
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@pytest.fixture
def disc_pairs(tmp_path: Path) -> DiscPairs:
    """Make a folder of pairs: one bright disc on dark noise each; `shift` puts the masks beside their discs."""

    def make(
        count: int = 12,
        resolution: int = 32,
        name: str = "discs",
        seed: int = 0,
        splits: dict[str, list[str]] | None = None,
        shift: int = 0,
    ) -> Path:
        folder = tmp_path / name
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        random = np.random.default_rng(seed)
        y, x = np.mgrid[:resolution, :resolution]
        for i in range(count):
            radius = random.uniform(0.15, 0.25) * resolution
            cy, cx = random.uniform(0.3, 0.7, 2) * resolution
            mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            image = random.integers(0, 80, (resolution, resolution, 3))
            image[mask] += (150, 90, 60)
            Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{i:03d}.png")
            moved = np.roll(mask, shift, 1)
            Image.fromarray(moved.astype(np.uint8) * 255).save(folder / "masks" / f"{i:03d}.png")
        if splits is not None:
            (folder / "splits.json").write_text(json.dumps(splits))
        return folder

    return make


@pytest.fixture(scope="session")
def chromium() -> str:
    """The first Chromium of the PATH that starts; a program of that name may only ask for a package to be installed."""
    for path in filter(None, map(shutil.which, CHROMIUM)):
        if subprocess.run([path, "--version"], capture_output=True, timeout=120, check=False).returncode == 0:
            return path
    pytest.skip("no Chromium here")


@pytest.fixture
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Open a page in headless Chromium, which leaves nothing for the next page; what it writes to standard output."""

    def open_page(page: Path, *flags: str) -> str:
        for last in (False, False, True):  # on a crowded machine it hangs now and then as it ends
            folder = tmp_path_factory.mktemp("browser")
            profile = f"--user-data-dir={folder / 'profile'}"
            command = [chromium, *HEADLESS, *QUIET, profile, *flags, page.resolve().as_uri()]
            try:
                run = subprocess.run(
                    command, capture_output=True, encoding="utf-8", timeout=120, check=True, cwd=folder
                )
            except subprocess.TimeoutExpired:
                if last:
                    raise
            else:
                return run.stdout
        raise AssertionError("not reached")

    return open_page


@pytest.fixture(scope="session")
def tiny() -> Config:
    return build_config(TINY, "tests")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pairs"
    from siamese_diffusion.data.phantom import make_phantoms

    make_phantoms(folder, 8, 32, seed=3)
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory, pairs: Path, tiny: Config) -> Path:
    from siamese_diffusion.diffusion.pretrain import pretrain

    folder = tmp_path_factory.mktemp("backbone") / "run"
    result = pretrain(pairs, folder, tiny, device="cpu")
    assert result["images"] == 8
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, pairs: Path, backbone: Path, tiny: Config) -> Path:
    from siamese_diffusion.diffusion.train import train

    folder = tmp_path_factory.mktemp("train") / "run"
    train(pairs, folder, str(backbone), config=tiny, device="cpu")
    return folder
