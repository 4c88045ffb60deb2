"""A reader study: clinicians rate real and synthetic images without knowing which is which.

`export_ratings` makes one page that opens offline and a key that stays with the researcher. Nothing in the page says
where an image comes from: names and order are drawn from the operating system's random numbers, not from the seed, and
every image is resized to one size and encoded anew. `score_ratings` puts the readers' files and the key together.
"""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from siamese_diffusion.arguments import StrPath, to_path, to_path_or_none, to_paths
from siamese_diffusion.claim import Claim, require_apart, visible
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import note_files
from siamese_diffusion.data.opening import image_size
from siamese_diffusion.data.pairs import ImageFile
from siamese_diffusion.errors import InputError, brief
from siamese_diffusion.files import hash_json, read_json, require_kind, to_csv, write_json, write_text
from siamese_diffusion.lock import hold
from siamese_diffusion.pictures import png
from siamese_diffusion.progress import notify, track
from siamese_diffusion.reader_study.agreement import alpha_interval, crossed_means, percentiles, wilson

KEY_FORMAT = "siamese-diffusion rating key 1"
RATINGS_FORMAT = "siamese-diffusion ratings 1"
KEY, PAGE = "key.json", "rate.html"
REAL = "real"


class KeyImage(TypedDict):
    """An image of a study, and where it comes from."""

    id: str
    source: str
    file: str


class Key(TypedDict):
    """What `key.json` holds, at least."""

    study: str
    sources: dict[str, str]
    images: list[KeyImage]


LARGEST_SIDE = 512
"""Side in pixels that images are not shown larger than by default."""


def export_ratings(
    real: StrPath,
    synthetic: StrPath | Sequence[StrPath],
    out: StrPath,
    count: int = 30,
    seed: int = 0,
    resolution: int | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Write `rate.html`, which readers open, and `key.json`, which they must not see.

    The same call goes on where an earlier one was cut short, with its key.

    Args:
        real: folder of real pairs or images.
        synthetic: folders of synthetic pairs or images, each a source of its own.
        out: folder to write.
        count: images drawn from each folder.
        seed: of that draw (a smaller `count` draws a part of a larger one's). Order and names never depend on it.
        resolution: side in pixels that every image is squared to; default: the shortest side of any image drawn, at
            most 512, so that no image is enlarged, which would show.
        split: list of the real folder's `splits.json` to draw from; default: all its images.

    Returns:
        `page`, `key`, `study` (its identity), `images`, `resolution`, `sources` {name: images}.

    Raises:
        InputError: bad input, a folder with fewer than `count` images, or `out` holds a finished study, another one, or
            anything else.
    """
    real, synthetic, out = to_path(real, "--real"), to_paths(synthetic, "--synthetic"), to_path(out)
    if count < 1:
        raise InputError(f"--count {count}: at least one image of each folder is needed")
    if resolution is not None and not 16 <= resolution <= 2048:
        raise InputError(f"--resolution {resolution}: expected 16 to 2048 pixels")
    if not synthetic:
        raise InputError("--synthetic: name at least one folder")
    require_apart(out, real=real, synthetic=synthetic)
    folders = _name_sources(real, synthetic)
    DataFolder(real, "--real").require_real()
    chosen = [
        (source, image)
        for number, (source, folder) in enumerate(folders.items())
        for image in _draw(
            DataFolder(folder, "--real" if source == REAL else "--synthetic").images(split if source == REAL else None),
            count,
            (seed, number),
            folder,
        )
    ]
    inputs = {
        "command": "rate export",
        "--count": count,
        "--seed": seed,
        "--resolution": resolution,
        "--split": split,
        "sources": list(folders),
        **note_files([image.path for _, image in chosen]),
    }
    with hold(out):
        claim = Claim(out, None, {}, inputs, None, result=PAGE, earlier=lambda: _is_earlier(out))
        begun = _read_begun(out, chosen, inputs)  # by a call that was cut short
        key = begun or _make_key(folders, chosen, inputs)
        page = _page(key, {str(image.path): image for _, image in chosen})
        claim.write()
        if begun is None:
            write_json(out / KEY, key)  # first: a page without its key would be useless
        write_text(out / PAGE, page)
    notify(f"send {out / PAGE} to the readers, and keep {out / KEY} from them")
    return {
        "page": str(out / PAGE),
        "key": str(out / KEY),
        "study": key["study"],
        "images": len(key["images"]),
        "resolution": key["resolution"],
        "sources": dict.fromkeys(folders, count),
    }


def _is_earlier(out: Path) -> bool:
    """Whether a folder without a mark is one that an earlier version exported to, finished or not."""
    if not (out / KEY).is_file() or not visible(out) <= {KEY, PAGE}:
        return False
    try:
        _read_key(out / KEY)
    except InputError:
        return False
    return True


def _read_begun(out: Path, chosen: list[tuple[str, ImageFile]], inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The key that is there already; the page is made from it, since it may have been made, and sent, before."""
    if not (out / KEY).exists():
        return None
    key = _read_key(out / KEY)
    same = all(key.get(name) == inputs[f"--{name}"] for name in ("seed", "count"))
    same = same and inputs["--resolution"] in (None, key["resolution"])
    files = {(image["source"], image["file"]) for image in key["images"]}
    if not same or files != {(source, str(image.path)) for source, image in chosen}:
        raise InputError(f"--out {out}: holds the key of other images; name another folder")
    return key


def _make_key(folders: dict[str, Path], chosen: list[tuple[str, ImageFile]], inputs: dict[str, Any]) -> dict[str, Any]:
    """Names and an order for the images, which nobody can work out."""
    shortest = min(min(image_size(image.path)) for _, image in track(chosen, "measuring", len(chosen)))
    side = inputs["--resolution"] or min(shortest, LARGEST_SIDE)
    if side > shortest:
        notify(f"note: an image has only {shortest} pixels; enlarged to {side} it may be told by its blur")
    order = list(chosen)
    secrets.SystemRandom().shuffle(order)
    return {
        "format": KEY_FORMAT,
        "study": secrets.token_hex(8),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": inputs["--seed"],
        "count": inputs["--count"],
        "resolution": side,
        "sources": {source: str(folder) for source, folder in folders.items()},
        "images": [{"id": secrets.token_hex(8), "source": source, "file": str(image.path)} for source, image in order],
    }


def score_ratings(files: StrPath | Sequence[StrPath], key: StrPath, out: StrPath | None = None) -> dict[str, Any]:
    """Put the files that readers saved and the key together.

    Args:
        files: one a reader, each with every image rated.
        key: `key.json` of `export_ratings`.
        out: folder that gets `scores.json` and `ratings.csv` (one row a rating); a new one, or that of the same files.

    Returns:
        `readers`: their names. `sources`: for every folder `images`, `mos` {mean, low, high}, `ratings` (how often 1 to
        5), `readers` (mean of each), `called_real` {value, low, high}; for synthetic ones also `difference` of the MOS
        to real {mean, low, high} and `accuracy` on the images of this folder and the real ones, where guessing gives
        0.5 if both have as many. `answers`: over all images `accuracy`, `sensitivity` (synthetic called synthetic) and
        `specificity` (real called real), each {value, low, high}, and the same for each of the `readers`. `agreement`:
        `ratings` and `answers`, Krippendorff's alpha {value, low, high}, None for one reader. `protocol`: how.

    Raises:
        InputError: a file is damaged, unfinished, of another study, of the same reader as another, or not a reader's;
            or `out` holds the scores of other files, or anything else.
    """
    out = to_path_or_none(out, "--out")
    truth = _read_key(to_path(key, "--key"))
    sheets = _read_sheets(to_paths(files, "FILES"), truth)
    inputs = {"command": "rate score", "study": truth["study"], "readers": list(sheets), "ratings": hash_json(sheets)}
    if out is not None:
        with hold(out):
            claim = Claim(out, None, {}, inputs, None)
            scores = _score(truth, sheets)
            claim.write()
            write_json(out / "scores.json", scores)
            write_text(out / "ratings.csv", _table(truth, sheets))
            return scores
    return _score(truth, sheets)


def _score(truth: dict[str, Any], sheets: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What `score_ratings` returns, of a key and of what each reader said of each image."""
    ids: dict[str, list[str]] = {source: [] for source in truth["sources"]}
    for image in truth["images"]:
        ids[image["source"]].append(image["id"])
    ratings = {
        s: np.array([[sheet[i]["rating"] for i in names] for sheet in sheets.values()]) for s, names in ids.items()
    }
    called = {
        s: np.array([[sheet[i]["answer"] == REAL for i in names] for sheet in sheets.values()])
        for s, names in ids.items()
    }
    fake = np.concatenate([called[source] for source in ids if source != REAL], axis=1)
    several = len(sheets) > 1
    return {
        "study": truth["study"],
        "readers": list(sheets),
        "sources": _sources(list(sheets), ratings, called),
        "answers": {
            **_answers(called[REAL], fake),
            "readers": {reader: _answers(called[REAL][[i]], fake[[i]]) for i, reader in enumerate(sheets)},
        },
        "agreement": {
            "ratings": alpha_interval(np.concatenate(list(ratings.values()), axis=1)) if several else None,
            "answers": alpha_interval(np.concatenate(list(called.values()), axis=1) * 1.0, False) if several else None,
        },
        "protocol": _protocol(several),
    }


def _read_sheets(files: Sequence[Path], truth: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The sheets by reader."""
    sheets: dict[str, dict[str, dict[str, Any]]] = {}
    places: dict[str, Path] = {}
    for path in files:
        reader, sheet = _read_sheet(path, truth)
        twin = next((name for name in sheets if name.casefold() == reader.casefold()), None)
        if twin is not None:
            raise InputError(f"{path}: is of the reader {reader}, as is {places[twin]}; give one file for each reader")
        sheets[reader], places[reader] = sheet, path
    if not sheets:
        raise InputError("no files: give the files that the readers saved")
    return sheets


def _sources(
    readers: Sequence[str], ratings: Mapping[str, NDArray[Any]], called: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """What readers say of each folder: `ratings`, and whether they `called` it real, (readers, images) each."""
    means = {source: crossed_means(values, number) for number, (source, values) in enumerate(ratings.items())}
    sources: dict[str, Any] = {}
    for source, values in ratings.items():
        sources[source] = {
            "images": values.shape[1],
            "mos": {"mean": float(values.mean()), **percentiles(means[source])},
            "ratings": {str(rating): int((values == rating).sum()) for rating in range(1, 6)},
            "readers": dict(zip(readers, values.mean(1).tolist(), strict=True)),
            "called_real": _share(called[source]),
        }
        if source != REAL:
            apart = float(values.mean() - ratings[REAL].mean())
            sources[source]["difference"] = {"mean": apart, **percentiles(means[source] - means[REAL])}
            sources[source]["accuracy"] = _share(called[REAL], ~called[source])
    return sources


def _protocol(several: bool) -> dict[str, str]:
    """How the figures of one reader, or of several, were taken."""
    over = "images and readers (pigeonhole)" if several else "images; one reader, so it says nothing of other readers"
    return {
        "mos": f"mean of ratings 1 to 5; 95 % percentile bootstrap over {over}",
        "answers": "95 % Wilson score interval; it takes answers as independent, which those of one reader nearly "
        "are and those of several readers to one image are not",
        "agreement": "Krippendorff's alpha, ordinal for ratings and nominal for answers; 95 % percentile "
        "bootstrap over images",
    }


def render_scores(scores: dict[str, Any]) -> str:
    """The scores as text for a terminal."""
    lines = [f"{len(scores['readers'])} readers: {', '.join(scores['readers'])}"]
    for source, entry in scores["sources"].items():
        lines.append(f"{source}, {entry['images']} images: MOS {_three(entry['mos'], 'mean')}")
        if source != REAL:
            lines.append(f"    MOS minus that of real {_three(entry['difference'], 'mean')}")
        lines.append(f"    called real {_three(entry['called_real'])}")
        if source != REAL:
            lines.append(f"    accuracy against real {_three(entry['accuracy'])}")
    answers = scores["answers"]
    lines.append("real or synthetic, all images: " + ", ".join(f"{name} {_three(answers[name])}" for name in _ANSWERS))
    for reader, entry in answers["readers"].items():
        lines.append(f"    {reader}: accuracy {_three(entry['accuracy'])}")
    for name, alpha in scores["agreement"].items():
        value = "one reader" if alpha is None else "undefined" if alpha["value"] is None else _three(alpha)
        lines.append(f"Krippendorff's alpha, {name}: {value}")
    return "\n".join(lines)


_ANSWERS = ("accuracy", "sensitivity", "specificity")


def _three(entry: dict[str, float], name: str = "value") -> str:
    return f"{entry[name]:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def _share(*right: Any) -> dict[str, float]:
    return wilson(sum(int(part.sum()) for part in right), sum(part.size for part in right))


def _answers(real: Any, fake: Any) -> dict[str, Any]:
    """From which real and which synthetic images were called real, (readers, images) each."""
    return {"accuracy": _share(real, ~fake), "sensitivity": _share(~fake), "specificity": _share(real)}


def _name_sources(real: Path, synthetic: Sequence[Path]) -> dict[str, Path]:
    folders = {REAL: real}
    for folder in synthetic:
        if any(folder.resolve() == other.resolve() for other in folders.values()):
            raise InputError(f"--synthetic {folder}: is given twice, or is the folder of --real")
        name = folder.resolve().name
        folders[name if name not in folders else str(folder)] = folder
    return folders


def _draw(found: list[ImageFile], count: int, seed: tuple[int, int], folder: Path) -> list[ImageFile]:
    if len(found) < count:
        raise InputError(f"--count {count}: {folder} has {len(found)} images")
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:count]]


def _encode(pixels: Any) -> str:
    return base64.b64encode(png(Image.fromarray(pixels), optimize=True)).decode()


def _page(key: dict[str, Any], files: dict[str, ImageFile]) -> str:
    """The page of a key's images; the same for the same key and images."""
    from jinja2 import Environment

    side = key["resolution"]
    images = [
        [image["id"], _encode(files[image["file"]].squared(side))]
        for image in track(key["images"], "encoding", len(key["images"]))
    ]
    study = {"format": RATINGS_FORMAT, "study": key["study"], "side": side, "images": images}
    template = (resources.files("siamese_diffusion") / "templates" / "rate.html").read_text(encoding="utf-8")
    data = json.dumps(study).replace("<", "\\u003c")
    return Environment(autoescape=True).from_string(template).render(study=data, count=len(images), side=side)


def _read_key(path: Path) -> dict[str, Any]:
    key = read_json(path)
    if not isinstance(key, dict) or key.get("format") != KEY_FORMAT:
        raise InputError(f"--key {path}: is not a key.json of `rate export`")
    damaged = f"--key {path}: is damaged; take the file that `rate export` wrote"
    require_kind(key, Key, damaged)
    sources = {image["source"] for image in key["images"]}
    names = {image["id"] for image in key["images"]}
    if REAL not in sources or len(sources) < 2 or sources != key["sources"].keys() or len(names) < len(key["images"]):
        raise InputError(damaged)
    return key


def _read_sheet(path: Path, key: dict[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The reader's name, and rating and answer by image."""
    sheet = read_json(path)
    if not isinstance(sheet, dict) or sheet.get("format") != RATINGS_FORMAT:
        raise InputError(f"{path}: is not a file that the rating page saved")
    reader, rows = sheet.get("reader"), sheet.get("ratings")
    if not isinstance(reader, str) or not reader.strip() or not isinstance(rows, list):
        raise InputError(f"{path}: has no reader's name or no ratings")
    if sheet.get("study") != key["study"]:
        raise InputError(
            f"{path}: is of another study ({brief(str(sheet.get('study')))}) than the key ({key['study']})"
        )
    found: dict[str, dict[str, Any]] = {}
    known = {image["id"] for image in key["images"]}
    for number, row in enumerate(rows, start=1):
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str) or name not in known:
            raise InputError(f"{path}: rating {number} is of an image that the key does not have")
        if name in found:
            raise InputError(f"{path}: rates an image twice (rating {number})")
        if type(row.get("rating")) is not int or not 1 <= row["rating"] <= 5:
            raise InputError(f"{path}: rating {number} is {brief(str(row.get('rating')))}, expected 1 to 5")
        if row.get("answer") not in [REAL, "synthetic"]:
            raise InputError(f"{path}: answer {number} is {brief(str(row.get('answer')))}, expected real or synthetic")
        found[name] = row
    if len(found) < len(known):
        raise InputError(f"{path}: rates {len(found)} of {len(known)} images; ask {reader} to finish and save again")
    return reader.strip(), found


def _table(key: dict[str, Any], sheets: dict[str, dict[str, dict[str, Any]]]) -> str:
    header = ["reader", "source", "file", "id", "position", "rating", "answer", "seconds"]
    rows = []
    for reader, sheet in sheets.items():
        for image in key["images"]:
            row = sheet[image["id"]]
            place = [reader, image["source"], image["file"], image["id"], row.get("position")]
            rows.append([*place, row["rating"], row["answer"], row.get("seconds")])
    return to_csv(header, rows)
