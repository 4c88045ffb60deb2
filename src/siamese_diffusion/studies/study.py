"""The `study` command: plan, run what is not done, write the table; or only say what would be run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_path
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json
from siamese_diffusion.progress import notify
from siamese_diffusion.studies.estimate import hours_left
from siamese_diffusion.studies.page import write_pictures
from siamese_diffusion.studies.place import tables_folder
from siamese_diffusion.studies.plan import Plan, make_plan
from siamese_diffusion.studies.spec import load_study
from siamese_diffusion.studies.stages import Stage
from siamese_diffusion.studies.table import write_tables
from siamese_diffusion.studies.workers import run_stages


def study(
    config: StrPath,
    out: StrPath,
    data: Mapping[str, StrPath] | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Run a study, or go on with it: the same call continues where an earlier one stopped.

    Args:
        config: the YAML file, see docs/study.md.
        out: the study's folder: `stages/KIND-KEY/`, `table.{md,csv,tex,json}`, `dose-*.png`, `grids/`, `report.html`.
            The tables are rewritten after every segmentation run. A second file's lie in `studies/NAME/`.
        data: data set of the file to the folder of training pairs, instead of the file's.
        workers: instead of the file's.
        dry_run: run nothing and write nothing; say what is left, and how many hours it takes here.
        device: "auto", "cpu", "cuda" ...

    Returns:
        `report`, `table`, `runs` (segmentation runs done and planned) and `stages`. Of a dry run `hours` (None: not
        known before a backbone is fetched), `plan`, see `estimate.hours_left`, and the stages' `kind`, `label`,
        `folder` and `state`: done, to run, or not needed (all that builds on it is done).

    Raises:
        InputError: the file or the data are wrong, `out` holds anything but a study or lies among the data, or the
            tables of two other files of the same name, or a stage failed; the others are done then.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    config, out = to_path(config, "--config"), to_path(out)
    loaded = load_study(config, {name: to_path(each, "--data") for name, each in (data or {}).items()}, workers)
    for entry in loaded.file.data.values():
        require_apart(out, data=[entry.train, *(entry.test or []), *([entry.images] if entry.images else [])])
    besides = {config.name} if config.resolve().parent == out.resolve() else set()
    claim = Claim(out, None, {}, {"command": "study"}, None, earlier=lambda: _is_earlier(out), besides=besides)
    plan = make_plan(loaded, out)
    if dry_run:
        return _dry(plan, device)
    claim.write()
    place = tables_folder(out, config)
    if place != out:
        notify(
            f"{out} holds the tables of another study file; this one's go to {place}, and finished stages serve both"
        )
    write_tables(plan, place)

    def finished(stage: Stage) -> None:
        if stage.kind == "segment":
            write_tables(plan, place)

    try:
        failed = run_stages(plan, device, finished)
    finally:
        write_pictures(plan, write_tables(plan, place), place)
    if failed:
        first = next(iter(failed.values()))
        more = f" (and {len(failed) - 1} more stages failed)" if len(failed) > 1 else ""
        raise InputError(f"{first}{more}")
    notify(f"the report: {place / 'report.html'}")
    return {
        "report": str(place / "report.html"),
        "table": str(place / "table.md"),
        "runs": {"done": sum(run.stage.done for run in plan.runs), "planned": len(plan.runs)},
        "stages": len(plan.stages()),
    }


def _is_earlier(out: Path) -> bool:
    """Whether a folder without a mark is a study's of an earlier version: it has stages, or a table without any
    begun."""
    if any(path.exists() for stage in out.glob("stages/*-*") for path in (stage / "stage.json", stage / ".lock")):
        return True
    table = read_json(out / "table.json") if (out / "table.json").exists() else None
    return isinstance(table, dict) and {"rows", "runs"} <= table.keys()


def _dry(plan: Plan, device: str) -> dict[str, Any]:
    """What is done and what is not, and the hours that it takes."""
    wanted = {stage.key for stage in plan.wanted()}
    stages = []
    for stage in plan.stages():
        state = "done" if stage.done else "to run" if stage.key in wanted else "not needed"
        stages.append({"kind": stage.kind, "label": stage.label, "folder": stage.folder.name, "state": state})
    counts = {state: sum(entry["state"] == state for entry in stages) for state in ("done", "to run", "not needed")}
    rows = hours_left(plan, device)
    known = [row["hours"] for row in rows if row["hours"] is not None]
    return {
        **{state.replace(" ", "_"): count for state, count in counts.items()},
        "hours": sum(known) if len(known) == len(rows) else None,
        "hours_known": sum(known),
        "workers": plan.study.file.workers,
        "plan": rows,
        "stages": stages,
    }
