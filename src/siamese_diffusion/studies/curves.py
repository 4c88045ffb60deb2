"""How the networks of a study were trained: what their logs say, step by step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from siamese_diffusion.files import read_jsonl
from siamese_diffusion.report import Figure, loss_curves
from siamese_diffusion.studies.cells import Cell
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.stages import Stage

TERMS = ("mask", "image", "consistency", "augmentation")

EXPLAINED = (
    "Of a generator: mask is the error of Mask-Diffusion, which sees the mask alone, image that of Image-Diffusion, "
    "which sees the image too; consistency is how far they disagree; augmentation is the error for images that it "
    "made up itself, which counts late in training only. Of a segmentation network: total is its loss on training "
    "pairs, val_dice the overlap on validation pairs, 0 to 1, which picks the step that is tested. The names are "
    "those of each run's log.jsonl."
)


def training_curves(plan: Plan) -> list[Figure]:
    """For each cell the generators' loss terms, and for each network the segmentation runs'; of the first seed of
    each."""
    cells = {id(run.cell): run.cell for run in plan.runs}
    figures = []
    for cell in cells.values():
        figures += _figure(_generators(plan, cell), TERMS, f"{cell.title}: training the generators.")
        for network in plan.study.networks:
            logs = _segmentations(plan, cell, network)
            figures += _figure(logs, ("total", "val_dice"), f"{cell.title}: training {network} for segmentation.")
    return figures


def _generators(plan: Plan, cell: Cell) -> dict[str, Path]:
    """Logs by the families of arms that use the generator."""
    first = plan.study.file.seeds.diffusion[0]
    trained: dict[str, tuple[Stage, list[str]]] = {}
    for made in plan.made:
        for need in made.rounds[0].needs:
            if made.cell is cell and made.diffusion_seed == first and need.kind == "train":
                families = trained.setdefault(need.key, (need, []))[1]
                families += [] if made.arm.family in families else [made.arm.family]
    return {" / ".join(families): stage.folder / "log.jsonl" for stage, families in trained.values() if stage.done}


def _segmentations(plan: Plan, cell: Cell, network: str) -> dict[str, Path]:
    seed = plan.study.file.seeds.segmentation[0]
    runs = [run for run in plan.runs if run.cell is cell and run.network == network and run.seed == seed]
    return {run.arm.name: run.stage.folder / "log.jsonl" for run in runs if run.stage.done}


def _figure(logs: Mapping[str, Path], names: Sequence[str], caption: str) -> list[Figure]:
    """Nothing where nothing was logged."""
    existing = {name: path for name, path in logs.items() if path.exists()}
    rows = [row for path in existing.values() for row in read_jsonl(path)]
    drawn = [name for name in names if any(row.get(name) for row in rows)]
    return [Figure(loss_curves(existing, drawn), caption)] if drawn else []
