"""The `demo` command: phantoms, and a study of them that ships with the package; minutes on a laptop, one page to open.

The small backbone it starts from was trained on phantoms of other seeds and ships too (the command is in
docs/backbones.md); on real data `train` makes its own.
"""

import time
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.claim import mark
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.phantom import make_phantoms
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_json, write_text
from siamese_diffusion.studies.plan import Plan, make_plan
from siamese_diffusion.studies.spec import load_study
from siamese_diffusion.studies.study import study

RESOLUTION = 64


class Counts(NamedTuple):
    """Numbers of phantoms."""

    train: int
    val: int
    test: int


SIZES = {"smallest": Counts(16, 4, 12), "default": Counts(64, 16, 64)}
"""Each has its study file, `studies/demo-SIZE.yaml`."""


def demo(out: StrPath = "demo", size: str = "default", device: str = "auto", kinds: int = 1) -> dict[str, Any]:
    """Run the study that ships with the package: both methods on phantoms, pairs drawn, judged, filtered, segmented.

    Args:
        out: folder to write, a study's; `report.html` in it is the page, `summary.json` the figures, `study.yaml` the
            study, which `study` goes on with.
        size: "smallest" (the whole chain at its shortest; its images and scores mean nothing) or "default".
        device: "auto", "cpu", "cuda" ...
        kinds: of polyps: 1, or 2 for two classes in one mask.

    Returns:
        `report`; `fit` of all drawn pairs and `kept` (how many went into segmentation) by method; `segmentation` by
        arm; `seconds` by stage.

    Raises:
        InputError: an unknown size, or `out` is in use.
    """
    out = to_path(out)
    if size not in SIZES:
        raise InputError(f"--size {size}: unknown; sizes: {', '.join(SIZES)}")
    if kinds not in (1, 2):
        raise InputError(f"--kinds {kinds}: must be 1 or 2")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already in use; name an empty or a new folder")
    mark(out, "study")
    begun = time.monotonic()
    _phantoms(out / "phantoms", SIZES[size], kinds)
    file = out / "study.yaml"
    text = packaged_study(size)
    write_text(file, text if kinds == 1 else text.replace(_DATA, _DATA_OF_KINDS))
    made = time.monotonic() - begun
    study(file, out, device=device)
    summary = {"report": str(out / "report.html"), "size": size, **_figures(make_plan(load_study(file), out))}
    summary["seconds"] = {"phantoms": round(made, 1), **summary["seconds"]}
    write_json(out / "summary.json", summary)
    return summary


def packaged_study(size: str) -> str:
    """The study file of a size, as text."""
    return (resources.files("siamese_diffusion") / "studies" / f"demo-{size}.yaml").read_text(encoding="utf-8")


_DATA, _DATA_OF_KINDS = "data: {resolution: 64}", "data: {resolution: 64, classes: all}"
"""The line of the study file that says how pairs are read."""


def _phantoms(folder: Path, counts: Counts, kinds: int) -> None:
    """Training, validation and test pairs in one folder, with the lists in `splits.json`."""
    make_phantoms(folder, sum(counts), RESOLUTION, seed=1, kinds=kinds)
    names = iter([pair.name for pair in DataFolder(folder).pairs()])
    write_json(
        folder / "splits.json", {split: [next(names) for _ in range(n)] for split, n in counts._asdict().items()}
    )


def _figures(plan: Plan) -> dict[str, Any]:
    """What a finished study of one cell and one seed found."""
    return {
        "fit": {made.arm.name: made.scores[0].result["fit"] for made in plan.made},
        "kept": {made.arm.name: made.chosen.result["kept"] for made in plan.made},
        "segmentation": {run.arm.name: run.stage.result["mean"] for run in plan.runs},
        "seconds": {stage.label.partition(": ")[2]: stage.seconds for stage in plan.stages()},
    }
