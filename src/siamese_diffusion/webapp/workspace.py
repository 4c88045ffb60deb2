"""The folders that the page may touch: those named at the start, which are read, and one that it writes.

A browser names them by their labels and new folders by plain names, never by paths; what is not a label or a plain name
is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_diffusion.claim import Claim, require_apart
from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.webapp.desk import Desk

PAIRS, DESKS, STUDIES, PREDICTED = "pairs", "desks", "reader-studies", "predicted"
PHANTOM = "the phantom model that ships with the package"
PHANTOMS = "phantoms (made-up endoscopy)"

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_DESK = re.compile(r"[0-9a-f]{12}")


class Workspace:
    """Where everything lies.

    Args:
        out: the folder that the page writes; the state of every browser tab lies in it.
        run: a run of `train`, or a folder with runs in it; None: the phantom model.
        data: a folder of real pairs; None: without a run phantoms, which are made in `out`.
        pairs: folders of synthetic pairs.
        network: a run of `segment`.
        scores: a folder of `evaluate`.

    Raises:
        InputError: one is not there, or `out` lies in one, or holds something else.
    """

    def __init__(
        self,
        out: Path,
        run: Path | None = None,
        data: Path | None = None,
        pairs: Sequence[Path] = (),
        network: Path | None = None,
        scores: Path | None = None,
    ) -> None:
        require_apart(out, run=run, data=data, pairs=pairs, network=network, scores=scores)
        named = [("--run", run), ("--data", data), ("--network", network), ("--scores", scores)]
        for option, path in [*named, *(("--pairs", each) for each in pairs)]:
            if path is not None and not path.is_dir():
                raise InputError(f"{option} {path}: no such folder")
        self.out, self.run, self.network, self.scores = out, run, network, scores
        self.given = _labelled(pairs)
        self._data = data
        self.claim = Claim(out, None, {}, {"command": "app"}, None)

    def open(self) -> None:
        """Make the folder ours; nothing of what is there changes."""
        self.claim.write()
        if self._data is None and self.run is None:
            from siamese_diffusion.webapp.phantom import phantom_data

            phantom_data(self.out / "phantoms")

    @property
    def data(self) -> dict[str, Path]:
        """The real pairs by their label."""
        if self._data is not None:
            return _labelled([self._data])
        return {PHANTOMS: self.out / "phantoms"} if self.run is None else {}

    @property
    def made_up(self) -> bool:
        """Whether every image is a phantom or drawn by the phantom model."""
        return self.run is None and self._data is None and not self.given and self.scores is None

    def pair_folders(self) -> dict[str, Path]:
        """The folders of synthetic pairs by their labels: those given, and those saved here, newest first."""
        saved = [each for each in (self.out / PAIRS).glob("*") if (each / "pairs.jsonl").is_file()]
        saved.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        return {**self.given, **{f"saved here: {folder.name}": folder for folder in saved}}

    def models(self) -> dict[str, Path | None]:
        """The finished runs of `train` by their labels; None stands for the phantom model."""
        found: dict[str, Path | None] = {}
        if self.run is not None:
            for index in sorted(self.run.rglob("pipeline/model_index.json"), key=lambda path: len(path.parts)):
                run = index.parent.parent
                if (run / "config.yaml").is_file() and (index.parent / "controlnet").is_dir():
                    found[self.run.name if run == self.run else run.relative_to(self.run).as_posix()] = run
        return found or {PHANTOM: None}

    def looking(self) -> Path | None:
        """The network that looks at images: the one given, and with the phantom model the one that ships with it."""
        if self.network is not None or self.run is not None:
            return self.network
        from siamese_diffusion.webapp.phantom import phantom_network

        return phantom_network()

    def new_pairs(self, name: str) -> Path:
        """The folder that pairs are saved to, by its name.

        Raises:
            InputError: it is no plain name, or another is meant by a link.
        """
        return self._inside(PAIRS, name)

    def new_study(self, name: str) -> Path:
        """The folder of a reader study; errors as in `new_pairs`."""
        return self._inside(STUDIES, name)

    def new_predictions(self, name: str) -> Path:
        """The folder that predicted masks are saved to; errors as in `new_pairs`."""
        return self._inside(PREDICTED, name)

    def desk(self, tab: str) -> Desk:
        """What a browser tab has drawn.

        Raises:
            InputError: `tab` is not the name of one.
        """
        if not isinstance(tab, str) or not _DESK.fullmatch(tab):
            raise InputError("this page has lost its place; load it again")
        return Desk(self.out / DESKS / tab)

    def _inside(self, kind: str, name: str) -> Path:
        name = str(name).strip()
        if not _PLAIN.fullmatch(name) or name.endswith("."):
            raise InputError(
                f"name {brief(name)!r}: give a plain name of letters, digits, spaces, dots and dashes, at most 64"
            )
        folder = self.out / kind / name
        if folder.is_symlink() or (self.out / kind).is_symlink():
            raise InputError(f"name {name!r}: is a link to somewhere else; give another name")
        return folder


def pick(folders: Mapping[str, Any], label: object, what: str) -> Any:
    """The folder of a label that a browser names.

    Raises:
        InputError: there is no such label.
    """
    if not isinstance(label, str) or label not in folders:
        raise InputError(f"{what}: {brief(str(label))!r} is none of those that are open here")
    return folders[label]


def _labelled(paths: Iterable[Path]) -> dict[str, Path]:
    """By their names, and where two have the same by their paths."""
    listed = list(paths)
    names = [path.resolve().name for path in listed]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, listed, strict=True)}
