"""The `status` command: what a run folder is doing, or where it stopped, read without touching it."""

import time
from pathlib import Path
from typing import Any

from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none
from siamese_diffusion.checkpoints import latest_checkpoint
from siamese_diffusion.claim import marked_by
from siamese_diffusion.config import Config, load_config
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl, write_whole
from siamese_diffusion.lock import writer_of
from siamese_diffusion.progress import clock

SECTIONS = {"pretrain": "pretrain", "train": "train", "train-masks": "train_masks", "segment": "segment"}
"""Section of the settings that says how many steps a command takes."""

FINISHED = {
    "pretrain": ("summary.json",),
    "train": ("summary.json",),
    "train-masks": ("summary.json",),
    "segment": ("metrics.json",),
    "segment --folds": ("summary.json",),
    "segment --arms": ("arms.json",),
    "evaluate": ("metrics.json",),
    "evaluate --masks": ("metrics.json",),
    "run": ("summary.json",),
    "predict": ("predictions.csv",),
}
"""Files that a command writes last."""

SHOWN = ("total", "held_out", "seen", "val_dice", "val_iou", "hint")
"""Figures of the log that are shown, and drawn."""


def status(run: StrPath, picture: StrPath | None = None) -> dict[str, Any]:
    """What a run folder is doing, how far it is and what its last figures are.

    Args:
        run: a folder that a command writes, or wrote; those of the runs inside it are looked at too.
        picture: a PNG of the curves to write.

    Returns:
        `run`, `command`, `state` ("running", "finished", "stopped", or "not running" where the folder does not tell),
        `process` (its number; None unless it runs on this host), and for a run that is trained `step`, `of`, `figures`
        (the last of each), `speed` (the last line of `speed.jsonl`, or None), `seconds_left` (None where the log does
        not tell), `checkpoint` and `since` (seconds since the log was written); `runs`, the same of the folders inside.

    Raises:
        InputError: there is no such folder, no command of this package wrote it, or `picture` has no curves to show.
    """
    run, picture = to_path(run, "RUN"), to_path_or_none(picture, "--picture")
    if not run.is_dir():
        raise InputError(f"{run}: no such folder")
    command = marked_by(run)
    if command is None:
        raise InputError(f"{run}: is no folder that a command of this program wrote (it has no inputs.json of ours)")
    found = _one(run, command)
    inner = [
        path.parent for path in sorted(run.rglob("inputs.json")) if path.parent != run and "cache" not in path.parts
    ]
    found["runs"] = [_one(each, name) for each in inner if (name := marked_by(each)) is not None]
    if picture is not None:
        _draw([each for each in [run, *inner] if (each / "log.jsonl").exists()], run, picture)
        found["picture"] = str(picture)
    return found


def _one(run: Path, command: str) -> dict[str, Any]:
    process = writer_of(run)
    names = FINISHED.get(command, ())
    done = bool(names) and all((run / name).exists() for name in names)
    found: dict[str, Any] = {
        "run": str(run),
        "command": command,
        "state": _state(process is not None, done, bool(names)),
        "process": process,
    }
    log = run / "log.jsonl"
    if not log.exists() or command not in SECTIONS:
        return found
    rows = [dict(row) for row in read_jsonl(log)]
    config = load_config(run / "config.yaml") if (run / "config.yaml").exists() else Config()
    steps = getattr(config, SECTIONS[command]).steps
    last = max((int(row["step"]) for row in rows), default=0)
    newest = latest_checkpoint(run)
    figures = {name: row[name] for row in rows for name in SHOWN if isinstance(row.get(name), int | float)}
    return found | {
        "step": last,
        "of": steps,
        "figures": figures,
        "speed": _speed(run),
        "seconds_left": _left(run, newest, last, steps) if process is not None else None,
        "checkpoint": str(newest) if newest is not None else None,
        "since": round(time.time() - log.stat().st_mtime, 1),
    }


def _speed(run: Path) -> dict[str, Any] | None:
    rows = read_jsonl(run / "speed.jsonl") if (run / "speed.jsonl").exists() else []
    return {name: value for name, value in dict(rows[-1]).items() if name != "step"} if rows else None


def _state(running: bool, done: bool, tells: bool) -> str:
    if running:
        return "running"
    return "finished" if done else "stopped" if tells else "not running"


def _left(run: Path, newest: Path | None, last: int, steps: int) -> float | None:
    """By the steps since the newest checkpoint, to the last line of the log. They began with it, or, where the settings
    are newer, which are written as a run begins or goes on, with those."""
    places = [run / "config.yaml", *([newest] if newest is not None else [])]
    begun, now = max(path.stat().st_mtime for path in places), (run / "log.jsonl").stat().st_mtime
    done = last - (int(newest.name.removeprefix("step-")) if newest is not None else 0)
    return round((now - begun) / done * (steps - last), 1) if done > 0 and now > begun else None


def _draw(runs: list[Path], root: Path, picture: Path) -> None:
    from siamese_diffusion.report import loss_curves

    if not runs:
        raise InputError(f"{root}: has no log yet, so there are no curves for --picture")
    logs = {"" if each == root else each.relative_to(root).as_posix(): each / "log.jsonl" for each in runs}
    named = {name for path in logs.values() for row in read_jsonl(path) for name in dict(row)}
    png = loss_curves(logs, [name for name in SHOWN if name in named])
    write_whole(picture, lambda path: path.write_bytes(png))


def render(found: dict[str, Any]) -> str:
    """What `status` returned, a line a folder."""
    lines = [_line(found), *(f"  {_line(each)}" for each in found["runs"])]
    if "picture" in found:
        lines.append(f"curves: {found['picture']}")
    return "\n".join(lines)


def _line(one: dict[str, Any]) -> str:
    told = f"{one['run']}: {one['command']}, {one['state']}"
    told += f" (process {one['process']})" if one["process"] else ""
    if "step" in one:
        told += f", step {one['step']} of {one['of']}"
        told += f", about {clock(one['seconds_left'])} left" if one["seconds_left"] is not None else ""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in one["figures"].items())
        told += f"; {figures}" if figures else ""
        told += _fast(one["speed"]) if one["speed"] else ""
    return told


def _fast(speed: dict[str, Any]) -> str:
    """How fast a run is. What waiting is depends on the device: without a GPU it is the making of batches itself."""
    told = f"; {speed['samples_a_second']:.3g} images a second"
    if "peak_gib" in speed:
        told += f", the device waits {100 * speed['waiting']:.0f} % of the time, {speed['peak_gib']:.1f} GiB at most"
    return told
