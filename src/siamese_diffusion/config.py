"""Settings are read and merged here; `settings.py` says which there are, and its names are names of this module too.

Settings are merged as plain dicts and validated once. Later wins: the defaults, the recipe of the segmentation network,
the preset or file given with `--config`, `--set section.key=value`, a command's own options. The resolved settings of a
run are in its `config.yaml`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from os import PathLike
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
from siamese_diffusion.settings import MaskPriorConfig as MaskPriorConfig
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


def load_config(
    source: "str | PathLike[str] | Mapping[str, Any] | Config | None" = None,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
) -> Config:
    """Resolve settings.

    Args:
        source: a preset's name, a YAML file, a mapping, or None for the defaults; a `Config` is taken as it is. A
            mapping and a file have sections (`train: {steps: 5}`) or dotted keys (`train.steps: 5`).
        overrides: what wins over it: `section.key=value` strings, whose values are YAML, or a mapping.

    Raises:
        InputError: no such preset or file, bad YAML, an unknown setting, one that is given twice, or a value out of
            range; the line names the file or `--set`, whichever holds it.

    Example:
        >>> load_config("sd15-paper", {"train.steps": 500}).train.steps
        500
    """
    if isinstance(source, Config):
        if not overrides:
            return source
        layers = [("settings", _whole(source))]
    elif isinstance(source, Mapping):
        layers = [("config", nested(source, "config"))]
    else:
        layers = [(str(source), _read(source))] if source is not None else []
    if isinstance(overrides, Mapping):
        layers.append(("config", nested(overrides, "config")))
    elif overrides:
        layers.append(("--set", read_overrides(overrides)))
        for origin, known in layers[:-1]:
            for section in layers[-1][1]:
                if not isinstance(known.get(section, {}), dict):
                    raise InputError(f"{origin}: section {section!r} must be a mapping")
    return _validated(layers or [("settings", {})])


def build_config(values: Values, origin: str) -> Config:
    """Validate `values` over the defaults. A section given in part keeps its other defaults.

    Raises:
        InputError: an unknown setting or a value out of range; the line names `origin` and the setting.
    """
    return _validated([(origin, values)])


def _validated(layers: Sequence[tuple[str, Values]]) -> Config:
    """The settings of all layers, each with where it comes from, over the defaults."""
    try:
        return Config.model_validate(merge(_DEFAULTS, *(values for _, values in layers)))
    except ValidationError as error:
        first = error.errors()[0]
    origin = _at_fault(layers, first["loc"])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise InputError(f"{origin}: unknown setting {where}{_suggest(where)}")
    if first["type"] == "value_error" and where in Config.model_fields:  # settings that do not go together
        raise InputError(f"{origin}: {first['ctx']['error']}")
    raise InputError(f"{origin}: {where} = {brief(repr(first['input']))}: {_said(first)}")


def _at_fault(layers: Sequence[tuple[str, Values]], place: tuple[str | int, ...]) -> str:
    """Where the setting comes from that is wrong at `place`: the first layer with which it is."""
    for number, (origin, _) in enumerate(layers):
        try:
            Config.model_validate(merge(_DEFAULTS, *(values for _, values in layers[: number + 1])))
        except ValidationError as error:
            if any(each["loc"] == place for each in error.errors()):
                return origin
    return layers[-1][0]


def _said(error: Any) -> str:
    """What is wrong with a value, and for a misspelt word which one may be meant."""
    message = str(error["msg"]).removeprefix("Value error, ")
    known = re.findall(r"'([^']+)'", message) if error["type"] == "literal_error" else []
    close = difflib.get_close_matches(str(error["input"]), known, n=1)
    return f"{message}{f' (did you mean {close[0]}?)' if close else ''}"


def default_config(backbone: str) -> Config:
    """The settings a command starts from when none are given: the paper's for Stable Diffusion, else the small ones."""
    return load_config("sd15-paper") if backbone == "sd15" else Config()


def update(config: Config, section: str, **entries: Any) -> Config:
    """A copy of `config` with `entries` (those that are not None) set in `section`, validated.

    Raises:
        InputError: a value out of range; the line names the option that brought it.
    """
    changes = {name: value for name, value in entries.items() if value is not None}
    try:
        return Config.model_validate(merge(_DEFAULTS, _whole(config), {section: changes}))
    except ValidationError as error:
        first = error.errors()[0]
    blamed = {name: value for name, value in changes.items() if name in first["loc"]} or changes
    options = [
        f"--{_OPTIONS.get((section, name), name.replace('_', '-'))} {brief(str(value))}"
        for name, value in blamed.items()
    ]
    raise InputError(f"{', '.join(options)}: {_said(first)}")


_OPTIONS = {("method", "name"): "method"}
"""Options that are not called as their setting is."""


def _whole(config: Config) -> Values:
    """All settings of a `Config`, but for what follows from the segmentation network."""
    return {**config.model_dump(), "segment": config.segment.given()}


def nested(flat: Mapping[str, Any], origin: str) -> Values:
    """`{"train.steps": 5}` as `{"train": {"steps": 5}}`; sections are taken as they are.

    Raises:
        InputError: a setting is given twice, or a key is neither `section.key` nor a section.
    """
    result: Values = {}
    for key, value in flat.items():
        section, dot, name = str(key).partition(".")
        if not dot and not isinstance(value, Mapping):
            result.setdefault(section, value)  # whoever validates says what is wrong with it
            continue
        known = result.setdefault(section, {})
        entries = {name: value} if dot else value
        if not isinstance(known, dict):
            raise InputError(f"{origin}: section {section!r} must be a mapping")
        twice = sorted(str(each) for each in known.keys() & entries.keys())
        if twice:
            raise InputError(f"{origin}: {section}.{twice[0]} is given twice")
        known.update(entries)
    return result


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


def _read(source: str | PathLike[str]) -> Values:
    if str(source) in preset_names():
        return read_preset(str(source))
    close = difflib.get_close_matches(str(source), preset_names(), n=1)
    otherwise = f" or preset (presets: {', '.join(preset_names())}{f'; did you mean {close[0]}?' if close else ''})"
    return nested(read_yaml(Path(source), Config.model_fields, otherwise), str(source))


def read_overrides(overrides: Sequence[str]) -> Values:
    """The settings of `section.key=value` strings, of which the later one wins.

    Raises:
        InputError: one is not written so, or its value is not YAML.
    """
    values: Values = {}
    for override in overrides:
        section, name, value = _parse(override)
        values = merge(values, {section: {name: value}})
    return values


def _parse(override: str) -> tuple[str, str, Any]:
    """Section, name and value of `section.name=value`."""
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot and name):
        raise InputError(f"--set {override}: expected section.key=value, for example train.steps=500")
    return section, name, parse_yaml(text, f"--set {brief(override)}")


def _suggest(where: str) -> str:
    known = [f"{section}.{name}" for section, model in sections().items() for name in model.model_fields]
    close = difflib.get_close_matches(where, [*known, *sections()], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
