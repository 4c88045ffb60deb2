"""`export --push`: a generator, a segmentation network or drawn pairs, as a repository of the Hugging Face hub.

Design note: what is pushed cannot be taken back from those who have fetched it. So a repository is private unless
`--public` says otherwise, real pairs are never pushed, nor what is flagged as a copy of one, and no file that is pushed
says in which folder anything lay.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from siamese_diffusion.arguments import StrPath
from siamese_diffusion.cards import ABOUT, EVALUATION, README, require_no_copies
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.hub import push
from siamese_diffusion.progress import notify

PAIRS = (
    "images",
    "masks",
    "shards",
    "pairs.jsonl",
    "shards.json",
    "metadata.jsonl",
    "dataset.json",
    "config.yaml",
    "grid.png",
    README,
    ABOUT,
    EVALUATION,
)
"""What is pushed of a folder of pairs; anything else in it stays."""


def push_pairs(folder: Path, repo: str, public: bool, allow_flagged: bool) -> dict[str, Any]:
    """Push drawn pairs as a data set.

    Returns:
        `repository`, its address, `pairs` and `private`.

    Raises:
        InputError: it holds pairs that were not drawn, flagged copies, or nobody has looked for any; or as `hub.push`.
    """
    data = DataFolder(folder, "--pairs")
    rows = data.require_listing().rows
    real = sorted(name for name in data.require_listing().images if not _is_drawn(rows.get(name, {})))
    if real:
        raise InputError(
            f"--pairs {folder}: {len(real)} of its pairs were not drawn ({real[0]}); real pairs are not pushed"
        )
    require_no_copies(folder, f"--pairs {folder}", allow_flagged, set(rows))
    with TemporaryDirectory() as name:
        staged = Path(name)
        for part in PAIRS:
            source = folder / part
            if source.is_dir():
                shutil.copytree(source, staged / part)
            elif source.exists():
                shutil.copyfile(source, staged / part)
        address = push(staged, repo, "dataset", public)
    notify(f"{address}: {'everybody' if public else 'you alone'} can read it")
    return {"repository": address, "pairs": len(rows), "private": not public}


def push_exported(exported: Path, run: StrPath, repo: str, public: bool, allow_flagged: bool) -> dict[str, Any]:
    """Push what `export` wrote, as a model.

    Args:
        exported: the folder.
        run: the generator's run, which may hold an evaluation; for errors.
        repo: OWNER/NAME.
        public: everybody may read it.
        allow_flagged: also where drawn images are flagged, or nobody has looked.

    Returns:
        `repository`, its address, and `private`.

    Raises:
        InputError: images drawn by it are flagged as copies, or nobody has looked for any; or as `hub.push`.
    """
    if (exported / "model_index.json").exists():
        require_no_copies(exported, f"--checkpoint {run}", allow_flagged)
    for path in exported.rglob("*.json"):
        _forget_paths(path, all_of_it=path.parent == exported)
    address = push(exported, repo, "model", public)
    notify(f"{address}: {'everybody' if public else 'you alone'} can read it")
    return {"repository": address, "private": not public}


_WHERE = ("_name_or_path", "name_or_path")
"""Keys of the parts' configurations that say where they were loaded from."""


@contextmanager
def place_for(out: Path | None) -> Iterator[Path]:
    """The folder to export to: `out`, or one that is gone afterwards."""
    if out is not None:
        yield out
        return
    with TemporaryDirectory() as name:
        yield Path(name) / "exported"


def without_paths(value: Any) -> Any:
    """The same JSON with the last part alone of every absolute path in it."""
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _forget_paths(path: Path, all_of_it: bool) -> None:
    """Write a JSON file without absolute paths; of a part's configuration only where it says where it was loaded."""
    content = read_json(path)
    if not isinstance(content, dict):
        return
    changed = {key: without_paths(value) if all_of_it or key in _WHERE else value for key, value in content.items()}
    if changed != content:
        write_json(path, changed)


def _is_drawn(row: dict[str, Any]) -> bool:
    return bool(row.get("synthetic")) or "phantom" in row
