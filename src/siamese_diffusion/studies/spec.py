"""A study, checked as a whole before anything runs: its arms, networks and settings, with every contradiction refused.

Paths are relative to the file. A setting that makes no difference where it stands is an error, not a silence.
"""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from siamese_diffusion.config import (
    Config,
    MethodConfig,
    Values,
    build_config,
    merge,
    preset_names,
    read_preset,
    read_yaml,
)
from siamese_diffusion.config import nested as nested_settings
from siamese_diffusion.data.masks import MASK_RECIPES
from siamese_diffusion.errors import InputError
from siamese_diffusion.hub import require_source
from siamese_diffusion.segmentation.figures import METRICS
from siamese_diffusion.studies.schema import ArmEntry, DataSource, StudyFile, parse

METHODS: tuple[str, ...] = get_args(MethodConfig.model_fields["name"].annotation)
KINDS = ("real", "copy-paste", *METHODS)

SHIPPED = "phantom"
"""The backbone that ships with the package, learned from phantoms; a folder of that name beside the file comes
first."""

_MANAGED = {
    "data.limit": "pairs",
    "segment.seed": "seeds.segmentation",
    "train.seed": "seeds.diffusion",
    "sample.seed": "seeds.diffusion",
    "method.name": "the arm's kind",
    "segment.network": "networks",
}
"""Settings that the study sets itself, and by what."""

_OF_ARMS = {
    "copy-paste": ("data.resolution", "segment.synthetic_share"),
    "run": ("sample", "segment.synthetic_share"),
    "diffusion": ("backbone", "pretrain", "method", "train", "sample", "segment.synthetic_share", "data"),
}
"""Sections and settings that make a difference to an arm; the segmentation network's are equal for all."""

_EQUAL = ("data.split", "data.limit_seed")
"""Settings of `data` that choose the real pairs, which every arm shares."""


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    name: str
    kind: str
    family: str = ""
    """The name without the ratio: arms of one family make a dose-response curve."""
    recipe: str = "none"
    ratio: float = 0.0
    min_fit: float | None = None
    oversample: float = 1.0
    blend: Literal["poisson", "feather"] = "poisson"
    run: str | None = None
    values: Values = field(default_factory=dict)
    into: bool = False

    @property
    def synthetic(self) -> bool:
        return self.kind != "real"

    @property
    def diffusion(self) -> bool:
        return self.kind in METHODS


@dataclass(frozen=True)
class Study:
    """A validated study."""

    file: StudyFile
    origin: str
    values: Values
    """Settings that all stages start from."""
    arms: tuple[Arm, ...]
    networks: dict[str, Values]

    @property
    def real(self) -> Arm:
        return next(arm for arm in self.arms if not arm.synthetic)

    def diffusion_seed(self, seed: int) -> int:
        """The diffusion seed that goes with a segmentation seed."""
        seeds = self.file.seeds
        return seeds.diffusion[seeds.segmentation.index(seed) if len(seeds.diffusion) > 1 else 0]


def load_study(path: Path, folders: dict[str, Path] | None = None, workers: int | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: the YAML file.
        folders: data set to a folder of training pairs (and of test pairs, where the file names none), instead of the
            file's.
        workers: instead of the file's.

    Raises:
        InputError: one line: no such file, not YAML, an unknown or contradictory setting.
    """
    raw = read_yaml(path, StudyFile.model_fields)
    for name, folder in (folders or {}).items():
        entry = raw.get("data", {}).get(name) if isinstance(raw.get("data"), dict) else None
        if not isinstance(entry, dict):
            known = ", ".join(raw["data"]) if isinstance(raw.get("data"), dict) else "none"
            raise InputError(f"--data {name}={folder}: {path} has no such data set (it has {known})")
        entry["train"] = str(folder.absolute())
    if workers is not None:
        raw["workers"] = workers
    file = parse(raw, path)
    tested = [name for name, entry in file.data.items() if entry.test is not None]
    if file.folds is not None and tested:
        raise InputError(
            f"{path}: folds = {file.folds}: hold out the pairs themselves in turn; leave out data.{tested[0]}.test"
        )
    file = file.model_copy(update={"data": {name: _located(entry, path.parent) for name, entry in file.data.items()}})
    origin = str(path)
    for name, entry in file.data.items():
        if "/" in entry.backbone:  # may be made before the study is run
            continue
        require_source(entry.backbone, f"{origin}: data.{name}.backbone =", ("small", "sd15", SHIPPED))
    values = merge(_preset(file.preset, origin), nested(file.settings, f"{origin}: settings"))
    _check_settings(file, values, origin)
    arms = tuple(arm for name, entry in file.arms.items() for arm in _arms(name, entry, path.parent, origin))
    arms = tuple(sorted(arms, key=lambda arm: arm.synthetic))  # first what the others are compared with
    if sum(not arm.synthetic for arm in arms) != 1:
        raise InputError(f"{origin}: arms: exactly one must be of kind real, which the others are compared with")
    doubled = {arm.name for arm in arms if sum(other.name == arm.name for other in arms) > 1}
    if doubled:
        raise InputError(
            f"{origin}: arms: two are called {min(doubled)}; ratios are named in the arm, as in 'siamese x2'"
        )
    synthetic = [arm.name for arm in arms if arm.synthetic]
    if file.against is not None and file.against not in synthetic:
        raise InputError(
            f"{origin}: against = {file.against!r}: no such arm besides real; arms: {', '.join(synthetic)}"
        )
    unknown = [name for name in file.metrics if name not in METRICS]
    if unknown:
        raise InputError(f"{origin}: metrics: {unknown[0]!r} is unknown; metrics: {', '.join(METRICS)}")
    networks = {name: _network(name, entry, origin) for name, entry in file.networks.items()}
    study = Study(file, origin, values, arms, networks)
    for name, source in file.data.items():
        for arm in arms:
            build_config(
                merge(values, nested(source.settings, origin), arm.values), f"{origin}: data.{name}, arms.{arm.name}"
            )
        for network, changed in networks.items():
            build_config(merge(values, nested(source.settings, origin), changed), f"{origin}: networks.{network}")
    return study


def nested(flat: dict[str, Any], origin: str) -> Values:
    """As `config.nested`, of which every key must be a setting or a section.

    Raises:
        InputError: a key is neither `section.key` nor a section, or a setting is given twice.
    """
    for key, value in flat.items():
        section, dot, _ = str(key).partition(".")
        if section not in Config.model_fields or not (dot or isinstance(value, dict)):
            raise InputError(
                f"{origin}: {key}: expected section.key, with a section of {', '.join(Config.model_fields)}"
            )
    return nested_settings(flat, origin)


def _check_settings(file: StudyFile, values: Values, origin: str) -> None:
    for where, flat in [
        ("settings", file.settings),
        *((f"data.{name}.settings", source.settings) for name, source in file.data.items()),
        *((f"arms.{name}.settings", entry.settings) for name, entry in file.arms.items()),
        *((f"networks.{name}", entry) for name, entry in file.networks.items()),
        ("judge.settings", file.judge.settings),
    ]:
        found = nested(flat, f"{origin}: {where}")
        for key, instead in _MANAGED.items():
            section, name = key.split(".")
            if name in found.get(section, {}):
                raise InputError(f"{origin}: {where}: {key} is set by the study; use {instead}")
        if found.get("segment", {}).get("patience") is not None:
            raise InputError(f"{origin}: {where}: segment.patience: all runs of a study take equally many steps")
        if where.startswith(("networks", "judge")):
            for section in found.keys() - {"segment"}:
                raise InputError(f"{origin}: {where}: {section} makes no difference here; only segment does")
    build_config(values, f"{origin}: settings")
    build_config(merge(values, nested(file.judge.settings, origin)), f"{origin}: judge.settings")
    seeds = file.seeds
    for kind, listed in (("segmentation", seeds.segmentation), ("diffusion", seeds.diffusion)):
        if len(set(listed)) < len(listed):
            raise InputError(f"{origin}: seeds.{kind}: {listed} names one twice")
    if len(seeds.diffusion) not in (1, len(seeds.segmentation)):
        raise InputError(
            f"{origin}: seeds.diffusion: give one, or as many as seeds.segmentation ({len(seeds.segmentation)}); "
            f"there are {len(seeds.diffusion)}"
        )
    if len(set(map(str, file.pairs))) < len(file.pairs):
        raise InputError(f"{origin}: pairs: {file.pairs} names one twice")


def _arms(name: str, entry: ArmEntry, folder: Path, origin: str) -> list[Arm]:
    kind = entry.kind or name
    where = f"{origin}: arms.{name}"
    if kind not in KINDS:
        raise InputError(f"{where}: kind {kind!r} is unknown; kinds: {', '.join(KINDS)}")
    given = entry.model_fields_set - {"kind"}
    if kind == "real":
        if given:
            raise InputError(f"{where}: {min(given)} makes no difference to the real pairs")
        return [Arm(name, kind, name)]
    idle = {"blend"} if kind != "copy-paste" else {"run", "into"}
    if given & idle:
        raise InputError(f"{where}: {min(given & idle)} makes no difference to kind {kind}")
    masks = entry.masks or ("random" if kind == "copy-paste" else "real")
    if "recipe" in given and masks == "real":
        raise InputError(f"{where}: recipe makes no difference to masks: real")
    if entry.recipe not in MASK_RECIPES:
        raise InputError(f"{where}: recipe {entry.recipe!r} is unknown; recipes: {', '.join(MASK_RECIPES)}")
    if entry.oversample > 1 and entry.min_fit is None:
        raise InputError(f"{where}: oversample makes no difference without min_fit")
    if len(set(entry.ratio)) < len(entry.ratio):
        raise InputError(f"{where}: ratio: {entry.ratio} names one twice")
    values = nested(entry.settings, f"{where}: settings")
    _check_relevant(values, "copy-paste" if kind == "copy-paste" else "run" if entry.run else "diffusion", where)
    if kind in METHODS:
        values = merge(values, {"method": {"name": kind}})
    several = len(entry.ratio) > 1
    run = str((folder / Path(entry.run).expanduser()).absolute()) if entry.run else None
    return [
        Arm(
            f"{name} x{ratio:g}" if several else name,
            kind,
            name,
            entry.recipe if masks == "random" else "none",
            ratio,
            entry.min_fit,
            entry.oversample,
            entry.blend,
            run,
            values,
            entry.into,
        )
        for ratio in entry.ratio
    ]


def _check_relevant(values: Values, what: str, where: str) -> None:
    for section, entries in values.items():
        for name in entries:
            key = f"{section}.{name}"
            if section == "segment" and name != "synthetic_share":
                raise InputError(f"{where}: {key} is the same for all arms; put it under settings or networks")
            if key in _EQUAL:
                raise InputError(f"{where}: {key} is the same for all arms; put it under settings")
            if section not in _OF_ARMS[what] and key not in _OF_ARMS[what]:
                raise InputError(f"{where}: {key} makes no difference to this arm")


def _preset(name: str | None, origin: str) -> Values:
    if name is None:
        return {}
    if name not in preset_names():
        raise InputError(f"{origin}: preset = {name}: unknown; presets: {', '.join(preset_names())}")
    return read_preset(name)


def _network(name: str, flat: dict[str, Any], origin: str) -> Values:
    from siamese_diffusion.segmentation import networks

    values = nested(flat, f"{origin}: networks.{name}")
    if name in networks.names():
        return merge(values, {"segment": {"network": name}})
    if not {"encoder", "architecture"} & values.get("segment", {}).keys():
        raise InputError(
            f"{origin}: networks: {name!r} is unknown; networks: {', '.join(networks.names())}, or a name of your own "
            "with segment.encoder or segment.architecture"
        )
    return merge(values, {"segment": {"network": "smp"}})


def _located(source: DataSource, folder: Path) -> DataSource:
    """Paths of the file from where the file lies; what it leaves out lies with the training pairs."""

    def at(path: Path) -> Path:
        return (folder / path.expanduser()).absolute()

    return source.model_copy(
        update={
            "train": at(source.train),
            "test": [at(path) for path in source.test] if source.test else [at(source.train)],
            "images": at(source.images) if source.images else at(source.train),
            "backbone": _backbone(source.backbone, at(Path(source.backbone))),
        }
    )


def _backbone(name: str, path: Path) -> str:
    if name in ("small", "sd15"):
        return name
    if path.exists():
        return str(path)
    return str(resources.files("siamese_diffusion") / "weights" / name) if name == SHIPPED else name
