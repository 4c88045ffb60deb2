"""Folders of pairs, of masks or of images that lie on the Hugging Face hub."""

from os import PathLike
from pathlib import Path
from typing import TypeVar

from siamese_diffusion.data.opening import SUFFIXES
from siamese_diffusion.errors import InputError
from siamese_diffusion.hub import fetch, repository
from siamese_diffusion.progress import notify

PATTERNS = (*(f"*{suffix}" for suffix in sorted(SUFFIXES)), "*.json", "*.jsonl", "*.csv", "shards/*.tar")
"""Files that a folder of pairs is made of, in any layout."""

Source = TypeVar("Source", bound=str | PathLike[str])


def local(source: Source, option: str) -> Source | Path:
    """`source` itself, or where it is a hub id the folder in the hub's cache that holds its files.

    A repository of a data set is looked for first, then one of a model, which some authors put their images into.

    Raises:
        InputError: as `hub.fetch`.
    """
    repo = repository(source)
    if repo is None:
        return source
    try:
        folder = fetch(repo, option, "dataset", PATTERNS)
    except InputError as refusal:
        try:
            folder = fetch(repo, option, "model", PATTERNS)
        except InputError:
            raise refusal from None
    notify(f"{option}: {repo} of the hub, in {folder}")
    return folder
