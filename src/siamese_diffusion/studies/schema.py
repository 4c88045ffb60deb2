"""The shape of a study file: what may stand where, and one line about what is wrong.

`settings` are those of `siamese_diffusion.settings`, written `section.key: value` or as sections; `spec.py` checks
them.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from siamese_diffusion.config import SettingsSection
from siamese_diffusion.errors import InputError


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


def _named(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return {name: {} for name in names}
    return {name: entry or {} for name, entry in names.items()} if isinstance(names, dict) else value


def _filled(value: Any) -> Any:
    return {name: {} if entry is None else entry for name, entry in value.items()} if isinstance(value, dict) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w .+-]*$", max_length=60)]
Label = Annotated[str, Field(pattern=r"^[^\s|][^|\r\n]*$", max_length=60)]
"""An arm is called what it is to be called in the table; no file is."""

Settings = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]


class DataSource(SettingsSection):
    train: Path = Field(description="folder of real pairs")
    test: Annotated[list[Path] | None, BeforeValidator(_listed)] = Field(
        None, min_length=1, description="folders of test pairs; default: the test split of `train`"
    )
    images: Path | None = Field(None, description="images that the backbone learns from; default: those of `train`")
    backbone: str = Field(
        "small", description="small (trained here), sd15, phantom, a finished `pretrain` run, or a hub id"
    )
    settings: Settings = Field(default_factory=dict, description="for this data set")


class Seeds(SettingsSection):
    segmentation: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_listed)] = Field(
        [0, 1, 2], min_length=1
    )
    diffusion: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_listed)] = Field(
        [0], min_length=1, description="one for all segmentation seeds, or one for each"
    )


class JudgeEntry(SettingsSection):
    pairs: Literal["arm", "all"] = Field("arm", description="trained on the row's own real training pairs, or on all")
    settings: Settings = Field(default_factory=dict, description="of `segment`, for the judge only")


class ArmEntry(SettingsSection):
    kind: str | None = Field(None, description="what the arm is; default: its name")
    masks: Literal["real", "random"] | None = Field(None, description="default: real; copy-paste: random")
    recipe: str = Field("flip-scale-shift", description="of data.masks, for random masks")
    ratio: Annotated[list[Annotated[float, Field(gt=0, le=64)]], BeforeValidator(_listed)] = Field(
        [1.0], min_length=1, description="synthetic per real pairs; a list makes an arm of each"
    )
    min_fit: float | None = Field(None, ge=0, le=1, description="drop pairs whose mask fit (Dice) is lower")
    oversample: float = Field(
        1.0, ge=1, le=16, description="draw this many times `ratio`, for the filter to choose from"
    )
    blend: Literal["poisson", "feather"] = Field("poisson", description="of copy-paste")
    into: bool = Field(False, description="draw the lesions into the row's own real images")
    run: str | None = Field(None, description="a finished `train` run; {dataset}, {pairs} and {seed} are filled in")
    settings: Settings = Field(default_factory=dict, description="of this arm")


class StudyFile(SettingsSection):
    title: str = "Do synthetic pairs help segmentation?"
    note: str = Field("", description="said at the top of the page and of table.md")
    preset: str | None = Field(None, description="preset that the settings start from")
    settings: Settings = Field(default_factory=dict, description="for everything")
    data: dict[Name, DataSource] = Field(min_length=1)
    pairs: Annotated[list[Annotated[int, Field(ge=2)] | Literal["all"]], BeforeValidator(_listed)] = Field(
        ["all"], min_length=1, description="numbers of real training pairs"
    )
    folds: int | None = Field(
        None, ge=2, le=20, description="instead of test sets: hold out each of so many parts of the pairs in turn"
    )
    networks: Annotated[dict[Name, Settings], BeforeValidator(_named)] = Field(default={"unet": {}}, min_length=1)
    seeds: Seeds = Seeds()
    arms: Annotated[dict[Label, ArmEntry], BeforeValidator(_filled)] = Field(min_length=1)
    against: Label | None = Field(None, description="the arm that the others are compared with besides the real one")
    judge: JudgeEntry = JudgeEntry()
    score: bool = Field(True, description="measure how well synthetic images obey their masks, filtered or not")
    metrics: list[str] = Field(["mDice", "mIoU"], min_length=1, description="of the table; the JSON and CSV have all")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")
    workers: int = Field(1, ge=1, le=64, description="stages run side by side, each in a process of its own")


def parse(raw: dict[str, Any], path: Path) -> StudyFile:
    """Validate what a study file holds.

    Raises:
        InputError: the first setting that is unknown, missing or out of range.
    """
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        models: list[type[BaseModel]] = [StudyFile, DataSource, Seeds, JudgeEntry, ArmEntry]
        places = dict(zip(("", "data", "seeds", "judge", "arms"), models, strict=True))
        parent = places[str(first["loc"][0]) if len(first["loc"]) > 1 else ""]
        close = difflib.get_close_matches(str(first["loc"][-1]), parent.model_fields, n=1)
        return f"unknown setting {where}{f' (did you mean {close[0]}?)' if close else ''}"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {first['input']!r}: {first['msg']}"
