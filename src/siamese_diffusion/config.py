"""Settings are read and merged here; `settings.py` says which there are, and its names are names of this module too.

Settings are merged as plain dicts and validated once. Later wins: the defaults, the recipe of the segmentation network,
the preset or file given with `--config`, `--set section.key=value`, a command's own options. The resolved settings of a
run are in its `config.yaml`.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.plain_yaml import parse_yaml, read_plain_yaml
from siamese_diffusion.settings import HARMLESS as HARMLESS
from siamese_diffusion.settings import READING as READING
from siamese_diffusion.settings import READING_IMAGES as READING_IMAGES
from siamese_diffusion.settings import BackboneConfig as BackboneConfig
from siamese_diffusion.settings import Config as Config
from siamese_diffusion.settings import DataConfig as DataConfig
from siamese_diffusion.settings import DiffusionLoopConfig as DiffusionLoopConfig
from siamese_diffusion.settings import EvaluateConfig as EvaluateConfig
from siamese_diffusion.settings import FirstStageConfig as FirstStageConfig
from siamese_diffusion.settings import LoopConfig as LoopConfig
from siamese_diffusion.settings import MethodConfig as MethodConfig
from siamese_diffusion.settings import SampleConfig as SampleConfig
from siamese_diffusion.settings import SegmentConfig as SegmentConfig
from siamese_diffusion.settings import SettingsSection as SettingsSection
from siamese_diffusion.settings import TrainConfig as TrainConfig
from siamese_diffusion.settings import reading_settings as reading_settings
from siamese_diffusion.settings import sections

Values = dict[str, Any]
"""Settings by section, as `build_config` takes them: `{"train": {"steps": 5}}`."""

_DEFAULTS: Values = {**Config().model_dump(), "segment": {}}
"""The bottom layer. Those of `segment` are left to `SegmentConfig`, which puts the network's recipe over them."""


def load_config(source: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Resolve settings.

    Args:
        source: a preset's name, a YAML file, or None for the defaults.
        overrides: `section.key=value` strings; values are YAML.

    Raises:
        InputError: no such preset or file, bad YAML, an unknown setting or a value out of range.
    """
    values = _read(source) if source is not None else {}
    origin = str(source) if source is not None else "--set"
    for override in overrides or []:
        section, name, value = _parse(override)
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"{origin}: section {section!r} must be a mapping")
        values = merge(values, {section: {name: value}})
    return build_config(values, origin)


def build_config(values: Values, origin: str) -> Config:
    """Validate `values` over the defaults. A section given in part keeps its other defaults.

    Raises:
        InputError: an unknown setting or a value out of range; the line names `origin` and the setting.
    """
    try:
        return Config.model_validate(merge(_DEFAULTS, values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{origin}: unknown setting {where}{_suggest(where)}") from None
        if first["type"] == "value_error" and where in Config.model_fields:  # settings that do not go together
            raise InputError(f"{origin}: {first['ctx']['error']}") from None
        raise InputError(f"{origin}: {where} = {brief(repr(first['input']))}: {first['msg']}") from None


def default_config(backbone: str) -> Config:
    """The settings a command starts from when none are given: the paper's for Stable Diffusion, else the small ones."""
    return load_config("sd15-paper") if backbone == "sd15" else Config()


def update(config: Config, section: str, **entries: Any) -> Config:
    """A copy of `config` with `entries` (those that are not None) set in `section`, validated."""
    values = {**config.model_dump(), "segment": config.segment.given()}
    changes = {name: value for name, value in entries.items() if value is not None}
    return build_config(merge(values, {section: changes}), "option")


def merge(*layers: Values) -> Values:
    """Settings over settings: later wins, key by key. A section that is no mapping is refused later."""
    merged: Values = {}
    for layer in layers:
        for section, entries in layer.items():
            known = merged.get(section)
            if isinstance(known, dict) and isinstance(entries, dict):
                entries = {**known, **entries}
            merged[section] = entries
    return merged


def dump_config(config: Config) -> str:
    """The settings as YAML that `load_config` reads back to an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    folder = resources.files("siamese_diffusion") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> Values:
    """The settings of a preset; `name` is one of `preset_names()`."""
    text = (resources.files("siamese_diffusion") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    values: Values = parse_yaml(text, name) or {}
    return values


def read_yaml(path: Path, expected: Iterable[str], otherwise: str = "") -> Values:
    """The mapping that a YAML file holds; an empty file is an empty one.

    Args:
        path: the file, as given with `--config`.
        expected: what the file should hold, for the error.
        otherwise: what else the option may name.

    Raises:
        InputError: no such file, or not a YAML mapping.
    """
    try:
        values = read_plain_yaml(path)
    except InputError as error:
        absent = not path.exists()
        raise InputError(f"--config {error}{otherwise if absent else ''}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected sections ({', '.join(expected)})")
    return values


def _read(source: str | Path) -> Values:
    if str(source) in preset_names():
        return read_preset(str(source))
    return read_yaml(Path(source), Config.model_fields, f" or preset (presets: {', '.join(preset_names())})")


def _parse(override: str) -> tuple[str, str, Any]:
    """Section, name and value of `section.name=value`."""
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot and name):
        raise InputError(f"--set {override}: expected section.key=value, for example train.steps=500")
    return section, name, parse_yaml(text, f"--set {brief(override)}")


def _suggest(where: str) -> str:
    import difflib

    known = [f"{section}.{name}" for section, model in sections().items() for name in model.model_fields]
    close = difflib.get_close_matches(where, [*known, *sections()], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
