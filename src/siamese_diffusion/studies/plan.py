"""From a study to its stages: which segmentation runs there are, what each builds on, and under which key.

Nothing is run here. Folders are listed, files are hashed, settings are validated, and what could only fail later (too
few pairs, a test image among the training ones, a run of another method) fails now.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_diffusion.config import Config, Values, build_config, load_config, merge
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.studies.cells import (
    OUT_OF_FOLD,
    Cell,
    SourceFolders,
    fold_cells,
    given_run,
    make_cell,
    open_folders,
)
from siamese_diffusion.studies.schema import DataSource
from siamese_diffusion.studies.spec import Arm, Study, nested
from siamese_diffusion.studies.stages import FileHashes, Stage, settings_of

ROUND_SEEDS = 10_000
"""Round k of a diffusion seed s is drawn with the sampling seed s + ROUND_SEEDS * k."""


@dataclass(frozen=True)
class Made:
    """The synthetic pairs of an arm in a cell."""

    cell: Cell
    arm: Arm
    diffusion_seed: int
    rounds: tuple[Stage, ...]
    scores: tuple[Stage, ...]
    """Mask fit of each round; empty where it is not measured."""
    chosen: Stage


@dataclass(frozen=True)
class Run:
    """One segmentation run."""

    cell: Cell
    network: str
    arm: Arm
    seed: int
    diffusion_seed: int | None
    made: Made | None
    stage: Stage


@dataclass
class Plan:
    """All that a study consists of."""

    study: Study
    root: Path
    runs: list[Run] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    manifests: dict[Path, list[Pair]] = field(default_factory=dict)
    """Folders to write that name the real pairs of a cell, so that a judge sees these and nothing else."""
    targets: list[Stage] = field(default_factory=list)
    """What the table is made of, in the order in which it is to be had."""

    def stages(self) -> list[Stage]:
        """Every stage once, each after those that it needs."""
        ordered: dict[str, Stage] = {}
        for target in self.targets:
            for stage in _with_needs(target):
                ordered.setdefault(stage.key, stage)
        return list(ordered.values())

    def wanted(self) -> list[Stage]:
        """The stages that are still to be done: targets that are not, and what these need."""
        ordered: dict[str, Stage] = {}
        for target in self.targets:
            if target.key not in ordered:
                for stage in _missing(target):
                    ordered.setdefault(stage.key, stage)
        return list(ordered.values())


def make_plan(study: Study, root: Path) -> Plan:
    """Plan a study.

    Args:
        study: what to do.
        root: the study's folder; stages go to `root/stages`.

    Raises:
        InputError: the data, a given run or a setting is not what the study needs.
    """
    plan = Plan(study, root.absolute())
    planner = _Planner(plan)
    for data, source in study.file.data.items():
        values = merge(study.values, nested(source.settings, study.origin))
        folders = open_folders(source, build_config(values, f"{study.origin}: data.{data}").data)
        for limit in study.file.pairs:
            make = fold_cells if study.file.folds is not None else _only_cell
            for cell in make(study, data, source, folders, None if limit == "all" else limit):
                planner.add_cell(cell)
    return plan


def _only_cell(study: Study, data: str, source: DataSource, folders: SourceFolders, limit: int | None) -> list[Cell]:
    return [make_cell(study, data, source, folders, limit)]


class _Planner:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.study, self.hashes = plan, plan.study, FileHashes()
        self._stages: dict[str, Stage] = {}

    def add_cell(self, cell: Cell) -> None:
        """All runs of a cell, seed by seed, so that differences to `real` are there early; then the scores."""
        made: dict[tuple[str, int], Made] = {}
        for seed in self.study.file.seeds.segmentation:
            drawn = self.study.diffusion_seed(seed)
            for arm in self.study.arms:
                if arm.synthetic and (arm.name, drawn) not in made:
                    made[arm.name, drawn] = self._made(cell, arm, drawn)
            for network in self.study.networks:
                for arm in self.study.arms:
                    own = made.get((arm.name, drawn))
                    stage = self._segment(cell, network, arm, seed, own)
                    self.plan.runs.append(Run(cell, network, arm, seed, drawn if own else None, own, stage))
                    self.plan.targets.append(stage)
        self.plan.made += made.values()
        self.plan.targets += [score for one in made.values() for score in one.scores]

    def _stage(self, kind: str, label: str, depends: dict[str, Any], **entries: Any) -> Stage:
        stage = Stage(kind, label, self.plan.root, depends, **entries)
        return self._stages.setdefault(stage.key, stage)

    def _segment(self, cell: Cell, network: str, arm: Arm, seed: int, made: Made | None) -> Stage:
        own = {"segment": arm.values.get("segment", {})}
        values = merge(cell.values, self.study.networks[network], own, {"segment": {"seed": seed}})
        config = self._config(values)
        return self._stage(
            "segment",
            f"{cell.title}: segment, {network}, {arm.name}, seed {seed}",
            {
                "real": self.hashes.pairs(cell.real),
                "validation": self.hashes.pairs(cell.validation) if cell.validation is not None else None,
                "test": {name: self.hashes.pairs(pairs) for name, pairs in cell.tests.items()},
                "segment": settings_of(config, "segment", *([] if made else ["synthetic_share"])),
                **({"share": "no pair more often than a real one"} if made and _may_be_few(arm) else {}),
            },
            needs=(made.chosen,) if made else (),
            arguments={
                "train": self._real(cell),
                "test": cell.source.test if cell.fold is None else [self._held(cell)],
                "synthetic": [made.chosen.folder / "pairs"] if made else None,
            },
            values=values,
        )

    def _made(self, cell: Cell, arm: Arm, seed: int) -> Made:
        count = max(1, round(arm.ratio * len(cell.real)))
        number = math.ceil(count * arm.oversample / len(cell.real) - 1e-9)
        draw = self._pasted if arm.kind == "copy-paste" else self._drawn
        rounds = tuple(draw(cell, arm, seed, i) for i in range(number))
        scored = self.study.file.score or arm.min_fit is not None
        scores = tuple(self._score(cell, stage) for stage in rounds) if scored else ()
        filtered = arm.min_fit is not None
        chosen = self._stage(
            "filter",
            f"{cell.title}: choose {count} pairs, {arm.name}, diffusion seed {seed}",
            {"count": count, "min_fit": arm.min_fit},
            needs=(*rounds, *(scores if filtered else ())),
            arguments={
                "rounds": [stage.folder for stage in rounds],
                "count": count,
                "scores": [stage.folder for stage in scores] if filtered else None,
                "min_fit": arm.min_fit,
            },
        )
        return Made(cell, arm, seed, rounds, scores, chosen)

    def _drawn(self, cell: Cell, arm: Arm, seed: int, number: int) -> Stage:
        values = merge(cell.values, arm.values, {"train": {"seed": seed}})
        values = merge(values, {"sample": {"seed": seed + ROUND_SEEDS * number}})
        config = self._config(values)
        depends: dict[str, Any] = {
            "masks": self.hashes.masks(cell.real),
            "recipe": arm.recipe,
            "label": config.data.label,
            "sample": settings_of(config, "sample"),
        }
        arguments: dict[str, Any] = {}
        if arm.into:
            depends["into"] = self.hashes.pairs(cell.real)
            arguments["into"] = self._manifest(cell.real)
        needs: tuple[Stage, ...] = ()
        if arm.run is not None:
            checkpoint = given_run(arm, cell, config, seed)
            weights = self.hashes.folder(checkpoint / "pipeline", ("*.safetensors", "*.json", "*.txt"))
            depends["run"] = [weights, load_config(checkpoint / "config.yaml").data.resolution]
        else:
            needs = (self._trained(cell, arm, values, seed),)
            checkpoint = needs[0].folder
        return self._stage(
            "sample",
            f"{cell.title}: draw round {number + 1}, {arm.name}, diffusion seed {seed}",
            depends,
            needs=needs,
            arguments={
                "checkpoint": checkpoint,
                "masks": self._real(cell),
                "random_masks": arm.recipe if arm.recipe != "none" else None,
                **arguments,
            },
            values=values,
        )

    def _trained(self, cell: Cell, arm: Arm, values: Values, seed: int) -> Stage:
        config = self._config(values)
        depends = {
            "pairs": self.hashes.pairs(cell.real),
            "data": settings_of(config, "data", "split", "limit", "limit_seed"),
            "backbone": settings_of(config, "backbone"),
            "method": settings_of(config, "method"),
            "train": settings_of(config, "train", "sample_every"),
        }
        values = merge(values, {"train": {"set_aside": 0}})  # an arm has all the pairs that its row says
        given = cell.source.backbone
        needs: tuple[Stage, ...] = ()
        if given == "small":
            needs = (self._backbone(cell, values),)
            given = str(needs[0].folder)
        elif Path(given).exists():
            path = Path(given)
            patterns = ("*.safetensors", "*.bin", "*.json", "*.txt")
            inner = path / "backbone" if (path / "backbone").is_dir() else path
            files = self.hashes.files([path])[0] if path.is_file() else self.hashes.folder(inner, patterns)
            depends["given"] = files
        else:
            depends["given"] = given
        return self._stage(
            "train",
            f"{cell.title}: train {arm.kind} for {arm.name}, diffusion seed {seed}",
            depends,
            needs=needs,
            arguments={"data": self._real(cell), "backbone": given},
            values=values,
        )

    def _backbone(self, cell: Cell, values: Values) -> Stage:
        config = self._config(values)
        images = cell.images
        learned = config.backbone.first_stage == "learned"
        folds = cell.fold is not None and cell.source.images == cell.source.train
        return self._stage(
            "backbone",
            f"{cell.data}: backbone, {len(images)} images",
            {
                "images": self.hashes.images(images),
                "data": settings_of(config, "data", "split", "limit", "limit_seed"),
                "backbone": settings_of(config, "backbone"),
                "pretrain": settings_of(config, "pretrain", "sample_every"),
                **({"first_stage": settings_of(config, "first_stage", "sample_every")} if learned else {}),
            },
            arguments={"images": self._real(cell) if folds else cell.source.images},
            values=values,
        )

    def _pasted(self, cell: Cell, arm: Arm, seed: int, number: int) -> Stage:
        config = self._config(merge(cell.values, arm.values))
        sizes = [
            self._config(merge(cell.values, changed)).segment.resolution for changed in self.study.networks.values()
        ]
        resolution = arm.values.get("data", {}).get("resolution") or max(config.data.resolution, *sizes)
        arguments = {
            "resolution": resolution,
            "label": config.data.label,
            "recipe": arm.recipe,
            "blend": arm.blend,
            "seed": seed,
            "copy": number,
        }
        return self._stage(
            "copy-paste",
            f"{cell.title}: paste round {number + 1}, {arm.name}, seed {seed}",
            {"pairs": self.hashes.pairs(cell.real), **arguments},
            arguments={"pairs": self._manifest(cell.real), **arguments},
            values=cell.values,
        )

    def _score(self, cell: Cell, drawn: Stage) -> Stage:
        values = merge(cell.values, {"data": {"limit": None}})
        config = self._config(values)
        return self._stage(
            "score",
            f"{drawn.label}: mask fit",
            {
                "real": self.hashes.pairs(cell.real),
                "resolution": config.data.resolution,
                "evaluate": settings_of(config, "evaluate", "fit_network", "fit_steps"),
            },
            needs=(drawn, judge := self._judge(cell)),
            arguments={"real": self._manifest(cell.real), "synthetic": drawn.folder, "judge": judge.folder},
            values=values,
        )

    def _judge(self, cell: Cell) -> Stage:
        everything = self.study.file.judge.pairs == "all"
        everything = everything and cell.fold is None  # the fold is nobody's to learn from
        pairs = cell.folders.train.pairs(self._config(cell.values).data.split) if everything else cell.real
        evaluate = self._config(cell.values).evaluate
        values = merge(
            cell.values,
            {"data": {"limit": None}, "segment": {"network": evaluate.fit_network, "steps": evaluate.fit_steps}},
            nested(self.study.file.judge.settings, self.study.origin),
        )
        return self._stage(
            "judge",
            f"{cell.data}: judge, {len(pairs)} pairs",
            {
                "pairs": self.hashes.pairs(pairs),
                "segment": settings_of(self._config(values), "segment", "synthetic_share"),
            },
            arguments={"train": self._manifest(pairs), "test": [], "synthetic": None},
            values=values,
        )

    def _real(self, cell: Cell) -> Path:
        """The folder of a cell's training pairs: the user's, or with folds one that names those outside the fold."""
        return cell.source.train if cell.fold is None else self._manifest(cell.real)

    def _held(self, cell: Cell) -> Path:
        """A folder that names the pairs of the fold, called as the test set is to be."""
        pairs = cell.tests[OUT_OF_FOLD]
        return self._manifest(pairs, OUT_OF_FOLD)

    def _manifest(self, pairs: list[Pair], name: str = "") -> Path:
        folder = self.plan.root / "pairs" / self.hashes.pairs(pairs) / name
        self.plan.manifests[folder] = pairs
        return folder

    def _config(self, values: Values) -> Config:
        return build_config(values, self.study.origin)


def _with_needs(stage: Stage) -> Iterator[Stage]:
    for need in stage.needs:
        yield from _with_needs(need)
    yield stage


def _missing(stage: Stage) -> Iterator[Stage]:
    if not stage.done:
        for need in stage.needs:
            yield from _missing(need)
        yield stage


def _may_be_few(arm: Arm) -> bool:
    """Whether an arm may have fewer synthetic pairs than real ones, whose share of a batch earlier versions did not
    bound: a stage of theirs is another one."""
    return arm.ratio < 1 or arm.min_fit is not None
