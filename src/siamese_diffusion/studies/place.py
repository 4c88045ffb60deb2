"""Where a study's tables and page go. Several files may share a folder and its stages; each keeps tables of its own."""

import os
from pathlib import Path

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import one_at_a_time, read_json, write_json

RECORD = "study.json"
"""Names the file whose tables lie beside it, relative to the study's folder where it can be."""


def tables_folder(root: Path, file: Path) -> Path:
    """The folder of a file's tables, which is noted as the file's own.

    The first file that uses `root` has it; a file of another name has `root/studies/NAME`. A file that was edited stays
    the same file, and so does one that was moved: it has its name, and where it lay there is none.

    Args:
        root: the study's folder.
        file: the YAML file.

    Raises:
        InputError: both folders belong to other files of that name, or a record is not one.
    """
    places = (root, root / "studies" / file.stem)
    with one_at_a_time(root):
        for place in places:
            record = place / RECORD
            if not record.exists() or _same(file, root, _noted(record)):
                write_json(record, {"file": _relative(file, root)})
                return place
    raise InputError(
        f"--out {root}: {places[0] / RECORD} and {places[1] / RECORD} name other files called {file.name}; "
        "rename this one, or name another folder"
    )


def _noted(record: Path) -> Path:
    noted = read_json(record)
    if not isinstance(noted, dict) or not isinstance(noted.get("file"), str):
        raise InputError(f"{record}: does not name a study file; name another folder")
    return Path(noted["file"])


def _same(file: Path, root: Path, noted: Path) -> bool:
    there = root / noted
    if there.exists():
        return there.samefile(file)
    return noted.name == file.name


def _relative(file: Path, root: Path) -> str:
    """So that a project may be copied or moved as a whole."""
    try:
        return os.path.relpath(file.resolve(), root.resolve())
    except ValueError:  # on another drive
        return str(file.resolve())
