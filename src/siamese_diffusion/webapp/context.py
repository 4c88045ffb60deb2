"""What all tabs work with: the folders, the jobs, what draws, and the pairs that were looked up."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.pairs import Pair
from siamese_diffusion.errors import InputError
from siamese_diffusion.webapp.drawing import Painter
from siamese_diffusion.webapp.jobs import Jobs
from siamese_diffusion.webapp.pair_set import PairSet
from siamese_diffusion.webapp.phantom import phantom_run
from siamese_diffusion.webapp.shown import THUMBNAIL, looked_at
from siamese_diffusion.webapp.workspace import Workspace


class Context:
    """Of one page, for all its browser tabs."""

    def __init__(self, workspace: Workspace, jobs: Jobs, painter: Painter, cache: Path) -> None:
        self.workspace, self.jobs, self.painter, self.cache = workspace, jobs, painter, cache
        self._folders: dict[Path, tuple[float, DataFolder, list[Pair]]] = {}
        self._sets: dict[Path, tuple[list[Pair], PairSet]] = {}

    def run_of(self, run: Path | None) -> Path:
        """A run of `train`; None stands for the phantom model."""
        return run if run is not None else phantom_run(self.workspace.out / "phantom-model")

    def scratch(self, tab: str) -> Path:
        """Where what was seen in uploaded images lies until the page ends or others are uploaded."""
        return self.cache / "seen" / self.workspace.desk(tab).name

    def starts(self) -> dict[str, Path]:
        """Folders with masks to start from, by their labels."""
        return {**self.workspace.data, **self.workspace.given}

    def folder(self, path: Path) -> DataFolder:
        """A folder of pairs, opened once, and again where its manifest has changed."""
        return self._open(path)[0]

    def pairs_of(self, path: Path) -> list[Pair]:
        """Its pairs."""
        return self._open(path)[1]

    def _open(self, path: Path) -> tuple[DataFolder, list[Pair]]:
        manifest = path / "pairs.jsonl"
        stamp = (manifest if manifest.exists() else path).stat().st_mtime
        known = self._folders.get(path)
        if known is None or known[0] != stamp:
            folder = DataFolder(path)
            known = self._folders[path] = stamp, folder, folder.pairs()
        return known[1], known[2]

    def pair_set(self, path: Path) -> PairSet:
        """The pairs of a folder with their scores, read once and again where its manifest has changed."""
        pairs = self.pairs_of(path)
        known = self._sets.get(path)
        if known is None or known[0] is not pairs:
            known = self._sets[path] = (
                pairs,
                PairSet(path, self.workspace.scores, pairs, list(self.workspace.data.values())),
            )
        return known[1]

    def thumbnails(self, pairs: list[Pair], outlines: bool = True) -> list[Any]:
        """Small pictures of pairs; one that cannot be read is grey."""

        def one(pair: Pair) -> Any:
            try:
                image, mask = pair.read()
                return looked_at(image, mask if outlines else None, side=THUMBNAIL)
            except InputError:
                return np.full((THUMBNAIL, THUMBNAIL, 3), 120, np.uint8)

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            return list(pool.map(one, pairs))
