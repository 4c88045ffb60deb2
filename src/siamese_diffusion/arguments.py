"""What a caller in Python may give: a folder as text or `Path`, settings as a `Config`, a mapping or a file's name.

Each command's function turns what it was given into `Path` and `Config` in its first lines, by these.
"""

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from siamese_diffusion.config import Config, load_config
from siamese_diffusion.errors import InputError

StrPath = str | PathLike[str]
"""A file or folder; `~` in a text is the home folder."""

Settings = Config | Mapping[str, Any] | StrPath | None
"""A `Config`; a mapping, with sections or dotted keys, of what differs from the defaults; a preset's name or a YAML
file; or None, the defaults."""


Given = TypeVar("Given", bound=StrPath)


def to_path(given: StrPath, option: str = "--out") -> Path:
    """The path.

    Raises:
        InputError: it is empty, which would mean the current folder.
    """
    if isinstance(given, str):
        if not given.strip():
            raise InputError(f"{option} '': is empty; name a file or folder")
        return Path(given).expanduser()
    return Path(given)


def to_path_or_none(given: StrPath | None, option: str) -> Path | None:
    """The path, where one is given; errors as in `to_path`."""
    return None if given is None else to_path(given, option)


def to_paths(given: StrPath | Iterable[StrPath] | None, option: str) -> list[Path]:
    """Several paths, or one; errors as in `to_path`."""
    if given is None:
        return []
    if isinstance(given, str | PathLike):
        return [to_path(given, option)]
    return [to_path(each, option) for each in given]


def to_config(given: Settings, default: Callable[[], Config] = Config) -> Config:
    """The settings; a mapping changes those of `default`. Errors as in `load_config`."""
    if given is None:
        return default()
    return load_config(default(), given) if isinstance(given, Mapping) else load_config(given)


def to_list(given: Given | Iterable[Given] | None) -> list[Given]:
    """One folder or several, as a list; folders that are open already stay so."""
    if given is None:
        return []
    return [given] if isinstance(given, str | PathLike) else list(given)
