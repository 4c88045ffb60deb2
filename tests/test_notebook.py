"""The notebook: as a file, and executed from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from siamese_diffusion import progress

FILE = Path(__file__).parents[1] / "examples/quickstart.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_it_is_kept_without_results() -> None:
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_step_is_there() -> None:
    code = "\n".join(cells("code"))
    for command in ("prepare", "check", "train", "sample", "evaluate", "filter", "segment", "predict"):
        assert f"sd.{command}(" in code


@pytest.mark.parametrize(("widgets", "moves"), [(True, True), (False, False)])
def test_a_bar_moves_in_a_notebook_that_can_show_it(
    widgets: bool, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: object() if widgets else None)
    notebook = Console(force_jupyter=True)
    assert progress._draws_in_notebook(notebook) is moves
    assert not progress._draws_in_notebook(Console(force_jupyter=False))


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("QUICKSTART_SIZE", "smallest")
    monkeypatch.setenv("QUICKSTART_FOLDER", str(tmp_path / "work"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook: Any = nbformat.read(FILE, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3", resources=_at(tmp_path))
    client.execute()
    shown = [
        kind
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") >= 3  # what was drawn, twice, and the worst pairs
    assert "application/vnd.jupyter.widget-view+json" in shown  # a bar that moves
    for name in ("run/pipeline/README.md", "new/README.md", "scores/report.html", "network/report.html"):
        assert (tmp_path / "work" / name).exists()
    assert list((tmp_path / "work/found/overlays").iterdir())


def _at(folder: Path) -> dict[str, Any]:
    return {"metadata": {"path": str(folder)}}
