"""The wheel and the source distribution: built, checked, and run from where nothing else of the repository is."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import siamese_diffusion

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOOSE = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "MANIFEST.in")

NEEDED = (
    "__init__.pyi",
    "py.typed",
    "presets/sd15-paper.yaml",
    "studies/demo-smallest.yaml",
    "templates/report.html",
    "templates/rate.html",
    "templates/model-card.md",
    "templates/data-card.md",
    "templates/study.yaml",
)
"""Files that are no Python and that the package does not work without."""


def test_one_version_everywhere() -> None:
    assert PROJECT["version"] == siamese_diffusion.__version__
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_is_imported_late_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_diffusion import extras
    from siamese_diffusion.errors import InputError

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"--features lpips: needs torchmetrics; pip install 'siamese-diffusion\[metrics\]'"
    ):
        extras.require(("torchmetrics",), "metrics", "--features lpips")
    assert not extras.has_tensorboard()


def test_every_extra_that_a_line_names_is_there() -> None:
    named = {
        extra
        for path in (ROOT / "src").rglob("*.py")
        for extra in re.findall(r"siamese-diffusion\[(\w+)\]", path.read_text(encoding="utf-8"))
    }
    assert {"clinical", "imagenet"} <= named <= PROJECT["optional-dependencies"].keys()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, the wheel made of the source distribution; built without the network where that can be."""
    tree = tmp_path_factory.mktemp("tree")
    for name in LOOSE:
        shutil.copyfile(ROOT / name, tree / name)
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=leave)
    command = [sys.executable, "-m", "build", "--no-isolation", str(tree)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return tree / "dist"


@pytest.mark.slow
class TestBuilt:
    def test_they_are_fit_to_be_uploaded(self, built: Path) -> None:
        files = [str(path) for path in sorted(built.iterdir())]
        assert [Path(file).name.partition("-")[0] for file in files] == ["siamese_diffusion"] * 2
        command = [sys.executable, "-m", "twine", "check", "--strict", *files]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout

    def test_all_that_is_needed_is_inside_and_nothing_else(self, built: Path) -> None:
        with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
            inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        with tarfile.open(next(built.glob("*.tar.gz"))) as source:
            packed = {name.partition("/")[2] for name in source.getnames()}
        package = ROOT / "src/siamese_diffusion"
        own = {
            f"siamese_diffusion/{path.relative_to(package).as_posix()}"
            for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert inside == own
        assert {f"siamese_diffusion/{name}" for name in NEEDED} <= inside
        assert any(name.startswith("siamese_diffusion/weights/") and name.endswith(".safetensors") for name in inside)
        assert {"LICENSE", "CITATION.cff", "CHANGELOG.md"} <= packed
        assert not any(name.startswith(("tests", "benchmarks", "docs")) for name in packed)

    def test_the_wheel_runs_where_it_is_unpacked(self, built: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
            wheel.extractall(tmp_path / "site")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

        def call(*arguments: str) -> str:
            command = [sys.executable, "-m", "siamese_diffusion", *arguments]
            return subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
            ).stdout

        where = [sys.executable, "-c", "import siamese_diffusion; print(siamese_diffusion.__file__)"]
        found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        assert Path(found.strip()).is_relative_to(tmp_path)
        assert call("--version").strip() == f"siamese-diffusion {PROJECT['version']}"
        call("phantoms", "--out", "phantoms", "--count", "24", "--resolution", "64")
        (tmp_path / "study.yaml").write_text(call("study", "--example", "--data", "mine=phantoms"))
        call("check", "phantoms", "--report", "check.html")
        settings = ["--set", "train.steps=2", "--set", "data.resolution=64"]
        backbone = str(tmp_path / "site/siamese_diffusion/weights/phantom")
        call("train", "--data", "phantoms", "--out", "run", "--backbone", backbone, *settings)
        assert (tmp_path / "run/pipeline/README.md").exists()
