"""A stage from its first file to its last: its folder is prepared, the work is done, and what came of it is noted."""

import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

from siamese_diffusion.config import Config, build_config, update
from siamese_diffusion.data.copypaste import copy_paste
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.files import read_json, read_jsonl, write_json, write_text
from siamese_diffusion.plain_yaml import read_plain_yaml
from siamese_diffusion.studies.select import select
from siamese_diffusion.studies.stages import COMMANDS, Stage


class _Noted(TypedDict):
    """What `stage.json` says at least."""

    arguments: dict[str, Any]


class _Logged(TypedDict):
    step: int


def perform(stage: Stage, device: str) -> None:
    """Do a stage in this process.

    Args:
        stage: whose lock is held.
        device: "auto", "cpu", "cuda" ...

    Raises:
        InputError: what the command of the stage says.
        KeyboardInterrupt: interrupted; the stage has saved its state.
    """
    begun = time.monotonic()
    values = prepare(stage)
    result: Any = None
    if stage.kind == "copy-paste":
        arguments = dict(stage.arguments)
        real = DataFolder(arguments.pop("pairs"), settings=_settings(stage, values).data).pairs()
        result = copy_paste(real, stage.folder, **arguments, resume=True)
    elif stage.kind == "filter":
        result = select(out=stage.folder / "pairs", **stage.arguments)
    else:
        import siamese_diffusion

        command = getattr(siamese_diffusion, COMMANDS[stage.kind])
        config = _settings(stage, values)
        result = command(**stage.options, out=stage.folder, config=config, resume=True, device=device)
    finish(stage, time.monotonic() - begun, result)


def _settings(stage: Stage, values: dict[str, Any]) -> Config:
    """The settings of a stage. A manifest of the study names files wherever the data lie; the user's were checked
    before."""
    return update(build_config(values, str(stage.folder / "settings.yaml")), "data", outside=True)


def prepare(stage: Stage) -> dict[str, Any]:
    """Write down what the stage is; one that was begun keeps its settings, which differ in nothing that matters."""
    noted, settings = stage.folder / "stage.json", stage.folder / "settings.yaml"
    arguments = {name: _plain(value) for name, value in stage.arguments.items()}
    if noted.exists() and settings.exists() and read_json(noted, _Noted)["arguments"] == arguments:
        values: dict[str, Any] = read_plain_yaml(settings)
        return values
    for path in stage.folder.iterdir():  # begun with folders that have moved since: what it wrote names the old ones
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
    write_text(settings, yaml.safe_dump(_plain(stage.values), sort_keys=True))
    needs = [need.folder.name for need in stage.needs]
    about = {"kind": stage.kind, "label": stage.label, "depends": stage.depends, "needs": needs, "arguments": arguments}
    write_json(noted, about)
    return stage.values


def finish(stage: Stage, seconds: float, returned: dict[str, Any] | None) -> None:
    """Note that the stage is done: how long it took, and what it returned or left in its folder."""
    result = returned or {}
    for name in ("metrics.json", "summary.json"):
        if (stage.folder / name).exists():
            result = read_json(stage.folder / name, dict[str, Any])
    if stage.kind == "segment":
        rows = read_jsonl(stage.folder / "log.jsonl", _Logged)
        result = {**result, "steps": max((row["step"] for row in rows), default=0)}
    write_json(stage.folder / "done.json", {"label": stage.label, "seconds": round(seconds, 1), "result": result})
    for part in ("checkpoints", "cache"):  # only there to go on from
        shutil.rmtree(stage.folder / part, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
