"""A cell of the table: a data set with so many of its training pairs; and diffusion runs that were made for it
elsewhere."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_diffusion.config import Config, DataConfig, Values, build_config, load_config, merge
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.folds import draw_folds
from siamese_diffusion.data.pairs import ImageFile, Pair
from siamese_diffusion.data.splits import require_disjoint, require_enough, sets_for_testing, validation_list
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json
from siamese_diffusion.studies.schema import DataSource
from siamese_diffusion.studies.spec import SHIPPED, Arm, Study, nested


@dataclass(frozen=True)
class SourceFolders:
    """The folders of a data set, each opened once for all its cells."""

    train: DataFolder
    test: list[DataFolder]
    images: DataFolder


@dataclass(frozen=True)
class Cell:
    """A data set with so many of its training pairs."""

    data: str
    source: DataSource
    folders: SourceFolders
    limit: int | None
    real: list[Pair]
    validation: list[Pair] | None
    """None: `segment` draws them from the training pairs."""
    tests: dict[str, list[Pair]]
    values: Values
    fold: int | None = None
    """Which fold of the pairs is held out; None: there are test sets."""
    whole: int | None = None
    """Pairs in all folds."""

    @property
    def count(self) -> int:
        """Number of pairs, as the table has it: with folds those held out too."""
        return self.whole if self.whole is not None else len(self.real)

    @property
    def title(self) -> str:
        held = "" if self.fold is None else f", fold {self.fold} held out"
        return f"{self.data}, {self.count} pairs{held}"

    @property
    def images(self) -> list[ImageFile]:
        """What a backbone of its own learns from."""
        if self.fold is not None and self.source.images == self.source.train:
            return [pair.image for pair in self.real]
        return self.folders.images.images(build_config(self.values, self.data).data.split)

    @property
    def leaks(self) -> bool:
        """Whether a generator may have seen images of the fold that is held out."""
        return self.fold is not None and (
            self.source.images != self.source.train
            or (Path(self.source.backbone).exists() and Path(self.source.backbone).name != SHIPPED)
        )


def open_folders(source: DataSource, settings: DataConfig) -> SourceFolders:
    """Open the folders of a data set, to be read as `settings` say.

    Raises:
        InputError: one is not there, or its manifest cannot be read.
    """
    assert source.test is not None
    assert source.images is not None
    opened = {
        path: DataFolder(path, settings=settings).require_real() for path in {source.train, *source.test, source.images}
    }
    return SourceFolders(opened[source.train], [opened[path] for path in source.test], opened[source.images])


def make_cell(study: Study, data: str, source: DataSource, folders: SourceFolders, limit: int | None) -> Cell:
    """List the pairs of a cell.

    Args:
        study: of which the settings are taken.
        data: name of the data set.
        source: as the study's file has it.
        folders: its folders.
        limit: number of training pairs; None: all.

    Raises:
        InputError: too few pairs, a folder that cannot be used, or a test image among the training ones.
    """
    values = merge(study.values, nested(source.settings, study.origin), {"data": {"limit": limit}})
    settings = build_config(values, f"{study.origin}: data.{data}").data
    real = folders.train.pairs(settings.split)
    if limit is not None and limit > len(real):
        raise InputError(
            f"{study.origin}: pairs: {limit} are more than the {len(real)} training pairs of {source.train}"
        )
    real = folders.train.pairs(settings.split, limit, settings.limit_seed)
    validation = validation_list(folders.train)
    require_enough(folders.train, real, validation)
    tests = sets_for_testing(folders.test)
    require_disjoint([*real, *(validation or [])], tests, f"{study.origin}: data.{data}: ")
    return Cell(data, source, folders, limit, real, validation, tests, values)


OUT_OF_FOLD = "out of fold"
"""The test set of a fold."""


def fold_cells(study: Study, data: str, source: DataSource, folders: SourceFolders, limit: int | None) -> list[Cell]:
    """The cells of a cross-validation: in each one fold of the pairs, those of a `val` list too, is held out.

    A run's best step is picked by a share of the other pairs, never by the fold; a generator is trained on the others.

    Args, Raises: as `make_cell`; and there are too few pairs or groups for so many folds.
    """
    assert study.file.folds is not None
    values = merge(study.values, nested(source.settings, study.origin))
    settings = build_config(values, f"{study.origin}: data.{data}").data
    everything = folders.train.pairs(settings.split)
    listed = {pair.name: pair for pair in [*everything, *(validation_list(folders.train) or [])]}
    pairs = [listed[name] for name in sorted(listed)]
    if limit is not None:
        if limit > len(pairs):
            raise InputError(f"{study.origin}: pairs: {limit} are more than the {len(pairs)} pairs of {source.train}")
        order = np.random.default_rng(settings.limit_seed).permutation(len(pairs))[:limit]
        pairs = [pairs[i] for i in sorted(order)]
    folds = draw_folds(pairs, study.file.folds, study.file.seeds.segmentation[0])
    values = merge(values, {"data": {"limit": None, "split": None}})
    cells = []
    for i, held in enumerate(folds):
        real = [pair for j, fold in enumerate(folds) if j != i for pair in fold]
        require_enough(folders.train, real, None)
        require_disjoint(real, {OUT_OF_FOLD: held}, f"{study.origin}: data.{data}: ")
        cells.append(Cell(data, source, folders, limit, real, None, {OUT_OF_FOLD: held}, values, i, len(pairs)))
    return cells


def given_run(arm: Arm, cell: Cell, config: Config, seed: int) -> Path:
    """The folder of the diffusion run that an arm names, for this cell and seed.

    Raises:
        InputError: it is no finished run, or one of another method or of other pairs than the cell's.
    """
    assert arm.run is not None
    where = f"arms.{arm.name}: run"
    try:
        path = Path(arm.run.format(dataset=cell.data, pairs=len(cell.real), seed=seed))
    except (KeyError, IndexError, ValueError):
        raise InputError(f"{where}: {arm.run}: may hold {{dataset}}, {{pairs}} and {{seed}}, no other braces") from None
    if not (path / "pipeline").is_dir() or not (path / "config.yaml").exists():
        raise InputError(f"{where}: {path} is not a finished run of train")
    own = load_config(path / "config.yaml")
    if own.method.name != arm.kind:
        raise InputError(f"{where}: {path} was trained with {own.method.name}, not {arm.kind}")
    summary = path / "summary.json"
    pairs = read_json(summary, dict[str, object]).get("pairs") if summary.exists() else own.data.limit
    if pairs is not None and pairs != len(cell.real):
        raise InputError(
            f"{where}: {path} was trained on {pairs} pairs, and this row of the table has {len(cell.real)}"
        )
    if cell.limit is not None and own.data.limit_seed != config.data.limit_seed:
        raise InputError(
            f"{where}: {path} drew its pairs with data.limit_seed = {own.data.limit_seed}; set the same here"
        )
    return path
