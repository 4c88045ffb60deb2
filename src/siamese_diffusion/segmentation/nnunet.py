"""Hand pairs to nnU-Net (Isensee et al., Nature Methods 2021): twin raw data sets, real, and real and synthetic.

Design note: the twins share their real cases, their test cases and the validation cases of every fold, so that what
differs between two trainings of nnU-Net is the synthetic pairs alone. No synthetic pair validates, and none trains in a
fold that validates on the pair that its mask came from. nnU-Net takes `splits_final.json` from the folder of
preprocessed data, so it is written there.
"""

import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from siamese_diffusion import progress
from siamese_diffusion.arguments import Settings, StrPath, to_config, to_list, to_path
from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.config import READING, Config
from siamese_diffusion.data.classes import class_names
from siamese_diffusion.data.decoding import announce, plain_settings
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.folds import origins_of
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.images import Fit, resize, unsquare
from siamese_diffusion.data.pairs import Pair, reading
from siamese_diffusion.data.splits import (
    own_test_pairs,
    require_backgrounds_apart,
    require_disjoint,
    train_and_validation,
    validation_list,
)
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import to_csv, write_json, write_text, write_whole
from siamese_diffusion.lock import hold
from siamese_diffusion.progress import notify
from siamese_diffusion.randomness import generator

TABLE = "pairs.csv"
COLUMNS = ("case", "kind", "name", "group", "width", "height", "image", "mask")
RAW, PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"
FOLDS = 5
"""nnU-Net's own number."""

_RESERVED = ("background", "ignore")
"""Labels that mean something of their own to nnU-Net."""


class Case(NamedTuple):
    """A pair under nnU-Net's name for it."""

    name: str
    kind: str
    """"real", "test" or "synthetic"."""
    pair: Pair
    size: tuple[int, int]
    """Width and height that it is written with."""


def export_nnunet(
    data: StrPath | DataFolder,
    out: StrPath,
    name: str,
    synthetic: StrPath | Sequence[StrPath | DataFolder] | None = None,
    id: int = 501,
    folds: int | None = None,
    config: Settings = None,
) -> dict[str, Any]:
    """Write pairs as nnU-Net's raw data sets, with its folds.

    Args:
        data: folder of real pairs. Its training pairs (`data.split`) and those of a list `val` are the cases, those of
            a list `test` go into `imagesTs`.
        out: gets `nnUNet_raw/DatasetNNN_NAME/` (RGB images `CASE_0000.png`, labels from 0 `CASE.png`), with synthetic
            pairs a second one, of the next number, called `NAMESynthetic`; `nnUNet_preprocessed/*/splits_final.json`;
            and `pairs.csv`, which pair each case is. The same call goes on where an earlier one was cut short.
        name: of the data set: letters, digits, `-` and `_`.
        synthetic: folders of synthetic pairs. Each is resized to the size of the pair that its mask came from, or where
            that is not known to the commonest size.
        id: number of the first data set, 1 to 998.
        folds: 1 takes the list `val` (or the share `segment.validation`) for validation; more part all cases, whole
            patients or videos (column `group`) together. Default: 1 where there is a list `val`, else 5.
        config: the settings `data`, and `segment.validation` and `segment.seed`; default: the defaults.

    Returns:
        `out`, `datasets` (their names), and the numbers of `real`, `test` and `synthetic` cases and of `folds`.

    Raises:
        InputError: bad input, fewer groups than folds, or `out` is in use.
    """
    out, config, synthetic = to_path(out), to_config(config), to_list(synthetic)
    _require_names(name, id)
    require_apart(out, data=data, synthetic=synthetic)
    folder = DataFolder.of(data, "--data", config.data).require_real()
    config = folder.resolved(config)
    more = [DataFolder.of(each, "--synthetic", plain_settings(config.data)) for each in synthetic]
    cases = _cases(folder, more, config)
    real = [case for case in cases if case.kind == "real"]
    made = [case for case in cases if case.kind == "synthetic"]
    count = folds if folds is not None else 1 if validation_list(folder) is not None else FOLDS
    validations = _validations(folder, real, count, config)
    if made and count > 1:
        notify(
            f"--folds {count}: a generator that was trained on all of {folder.path} has seen the validation cases of "
            "every fold, so only the test cases compare the twins fairly; --folds 1 keeps a list val apart"
        )
    datasets = {f"Dataset{id:03d}_{name}": [case for case in cases if case.kind != "synthetic"]}
    if made:
        datasets[f"Dataset{id + 1:03d}_{name}Synthetic"] = cases
    inputs = {
        "command": "export-nnunet",
        "--name": name,
        "--id": id,
        "--folds": count,
        **note_files([path for case in cases for path in case.pair.files]),
        "cases": len(cases),
        **reading([case.pair for case in cases]),
    }
    depends = {"data": {"split", "limit", "limit_seed", *READING}, "segment": {"validation", "seed"}}
    with hold(out):
        Claim(out, config, depends, inputs, None, result=TABLE).write()
        announce(folder.decoding, folder.path)
        _write_files(out, datasets, config)
        for dataset, own in datasets.items():
            _write_notes(out, dataset, own, validations, list(class_names(config.data)) or [config.data.label])
        write_text(out / TABLE, to_csv(COLUMNS, map(_row, cases)))
    kinds = {kind: sum(case.kind == kind for case in cases) for kind in ("real", "test", "synthetic")}
    return {"out": str(out), "datasets": list(datasets), **kinds, "folds": count}


def _require_names(name: str, id: int) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"--name {name}: expected letters, digits, - and _, as nnU-Net's data sets are called")
    if not 1 <= id <= 998:
        raise InputError(f"--id {id}: must be 1 to 998")


def _cases(folder: DataFolder, more: Sequence[DataFolder], config: Config) -> list[Case]:
    """All cases, in the order of their names."""
    chosen = folder.pairs(config.data.split, config.data.limit, config.data.limit_seed)
    held = {pair.image.path for pair in chosen}
    real = [*chosen, *(pair for pair in validation_list(folder) or [] if pair.image.path not in held)]
    tests = own_test_pairs(folder)
    require_disjoint(real, {"test": tests}, "--data: ")
    sizes = {pair.name: pair.mask.size() for pair in real}
    known = list(sizes.values())
    commonest = max(known, key=known.count)
    made = [pair for each in more for pair in each.pairs()]
    require_backgrounds_apart(made, {"test": tests})
    parts = {
        "real": [(pair, sizes[pair.name]) for pair in real],
        "test": [(pair, pair.mask.size()) for pair in tests],
        "synthetic": [(pair, next((sizes[of] for of in origins_of(pair) if of in sizes), commonest)) for pair in made],
    }
    return [
        Case(f"{kind}_{number:0{max(4, len(str(len(pairs))))}d}", kind, pair, size)
        for kind, pairs in parts.items()
        for number, (pair, size) in enumerate(pairs, start=1)
    ]


def _validations(folder: DataFolder, real: Sequence[Case], count: int, config: Config) -> list[set[str]]:
    """The validation cases of each fold, by their cases' names."""
    settings = config.segment
    if count == 1:
        chosen = [case.pair for case in real]
        _, held = train_and_validation(folder, chosen, settings.validation, settings.seed)
        paths = {pair.image.path for pair in held}
        return [{case.name for case in real if case.pair.image.path in paths}]
    units: dict[str, list[str]] = {}
    for case in real:
        group = case.pair.group
        units.setdefault(f"group {group}" if group is not None else case.name, []).append(case.name)
    if count < 1 or len(units) < count:
        raise InputError(f"--folds {count}: must be 1 to {len(units)}, the number of patients, videos or single pairs")
    parts = list(units.values())
    order = torch.randperm(len(parts), generator=generator(settings.seed, "nnunet")).tolist()
    found: list[set[str]] = [set() for _ in range(count)]
    for unit in sorted(order, key=lambda unit: -len(parts[unit])):  # the largest first, each to the smallest fold
        min(found, key=len).update(parts[unit])
    return found


def _write_files(out: Path, datasets: dict[str, list[Case]], config: Config) -> None:
    """Images and labels; what an earlier call wrote whole is left as it is."""
    twins = list(datasets)
    for dataset in datasets:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (out / RAW / dataset / part).mkdir(parents=True, exist_ok=True)
    every = datasets[twins[-1]]

    def write(case: Case) -> None:
        _write_case(out / RAW, twins[1:] if case.kind == "synthetic" else twins, case, config.data.fit)

    with ThreadPoolExecutor() as pool:
        for _ in progress.track(pool.map(write, every), "writing cases", len(every)):
            pass


def _write_case(raw: Path, homes: Sequence[str], case: Case, fit: Fit) -> None:
    end = "Ts" if case.kind == "test" else "Tr"
    names = (f"images{end}/{case.name}_0000.png", f"labels{end}/{case.name}.png")
    if all((raw / home / name).exists() for home in homes for name in names):
        return
    image, mask = case.pair.read()
    if case.kind == "synthetic":
        square = case.pair.extra.get("aspect", "square") == "square" and fit == "pad"
        change = partial(unsquare, size=case.size, fit=fit) if square else partial(resize, size=case.size)
        image, mask = change(image), change(mask)
    pictures = (Image.fromarray(image), Image.fromarray(mask.astype(np.uint8)))
    for name, picture in zip(names, pictures, strict=True):
        write_whole(raw / homes[0] / name, lambda path, picture=picture: picture.save(path, "PNG"))  # type: ignore[misc]
        for home in homes[1:]:
            write_whole(raw / home / name, partial(_copy, raw / homes[0] / name))


def _copy(source: Path, path: Path) -> None:
    """A second name for a file, or where the file system has none, a copy."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _write_notes(
    out: Path, dataset: str, cases: Sequence[Case], validations: Sequence[set[str]], names: Sequence[str]
) -> None:
    """`dataset.json`, and the folds."""
    training = [case for case in cases if case.kind != "test"]
    note = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, **{_called(name): label for label, name in enumerate(names, 1)}},
        "numTraining": len(training),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": dataset,
        "description": "Written by siamese-diffusion; pairs.csv says which pair each case is.",
    }
    write_json(out / RAW / dataset / "dataset.json", note)
    splits = []
    for held in validations:
        unseen = {case.pair.name for case in training if case.name in held}
        splits.append(
            {
                "train": [
                    case.name
                    for case in training
                    if case.name not in held and not (case.kind == "synthetic" and unseen & set(origins_of(case.pair)))
                ],
                "val": sorted(held),
            }
        )
    write_json(out / PREPROCESSED / dataset / "splits_final.json", splits)


def _called(name: str) -> str:
    return "lesion" if name in _RESERVED else name


def _row(case: Case) -> list[Any]:
    pair = case.pair
    return [case.name, case.kind, pair.name, pair.group, *case.size, pair.image.path, pair.mask.path]
