"""The cards of a generator and of what it drew: `README.md` in the form of the Hugging Face hub, made of the manifests.

Design note: a card holds nothing of its own. It is made anew of the settings, the summary and the evaluation that lie
beside it, so what it says can be checked there, and `evaluate --run` brings it up to date. A `README.md` without our
mark is somebody else's, and stays.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from siamese_diffusion.config import Config, load_config
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, read_jsonl, write_json, write_text
from siamese_diffusion.hub import repository
from siamese_diffusion.progress import notify

README, EVALUATION, ABOUT = "README.md", "evaluation.json", "card.json"

MARK = "<!-- Made by siamese-diffusion from the files beside it; take this line away to keep your own text. -->"

_UNSAID = dict.fromkeys(("name", "licence", "source"))

_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The hub's words for the number of rows."""


def write_model_card(run: Path) -> None:
    """Write `pipeline/README.md` of a finished run of `train` or `import`."""
    _write(run / "pipeline" / README, model_card(run))


def model_card(run: Path, name: str = "RUN") -> str:
    """The card of a generator.

    Args:
        run: its folder: `config.yaml`, `summary.json`, and `evaluation.json` where there is one.
        name: what the commands in it call the run.
    """
    config = load_config(run / "config.yaml")
    summary: dict[str, Any] = {"pairs": "an unknown number of", "held_out": 0, "verdicts": []}
    summary |= read_json(run / "summary.json", dict[str, Any])  # earlier versions noted less
    imported = "imported" in summary
    classes = class_names(config)
    backbone = str(summary.get("backbone") or "")
    front: dict[str, Any] = {
        "license": "other",
        "license_name": "of-the-training-data",
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["siamese-diffusion", "controlnet", "medical", "image-segmentation", "synthetic-data"],
    }
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5" if backbone == "sd15" else repository(backbone)
    if base is not None:
        front["base_model"] = base
    return _render(
        "model-card.md",
        front,
        name=name,
        config=config,
        label=" and ".join(classes) or config.data.label,
        classes=classes,
        summary=summary,
        data=_UNSAID | (summary.get("data") or {}),
        imported=imported,
        backbone=base or Path(backbone).name or "not noted",
        settings=_settings(config, summary),
        evaluation=_evaluation(run),
    )


def write_data_card(folder: Path) -> None:
    """Write `README.md` of a folder of pairs that `sample` drew."""
    _write(folder / README, data_card(folder))


def data_card(folder: Path) -> str:
    """The card of a folder of drawn pairs, made of its `card.json`, `pairs.jsonl` and `evaluation.json`."""
    about = read_json(folder / ABOUT, dict[str, Any])
    loose = (folder / "pairs.jsonl").exists()
    count = len(read_jsonl(folder / "pairs.jsonl")) if loose else int(about["pairs"])
    front: dict[str, Any] = {
        "license": "other",
        "license_name": "of-the-training-data",
        "task_categories": ["image-segmentation"],
        "tags": ["siamese-diffusion", "medical", "synthetic"],
        "size_categories": [next((word for most, word in _SIZES if count < most), "n>1M")],
    }
    return _render(
        "data-card.md",
        front,
        count=count,
        loose=loose,
        about={"filtered": None, "classes": [], **about},
        data=_UNSAID | (about.get("data") or {}),
        evaluation=_evaluation(folder),
    )


def note_evaluation(folder: Path, metrics: Mapping[str, Any], synthetic: str, checkpoint: str) -> None:
    """Write down in a run, or in a folder of pairs, what `evaluate` found of the pairs that were drawn.

    Args:
        folder: gets `evaluation.json`.
        metrics: what `evaluate` returned.
        synthetic: name of the folder that was scored.
        checkpoint: hash of the weights that drew it.
    """
    novelty = metrics["novelty"]
    kept = ("share_flagged", "false_alarm_rate", "target", "threshold")
    write_json(
        folder / EVALUATION,
        {
            "synthetic": synthetic,
            "checkpoint": checkpoint,
            "counts": metrics["counts"],
            "fit": metrics["fit"],
            "quality": metrics["quality"],
            "novelty": {name: novelty.get(name) for name in kept}
            | {"flagged": sorted(entry["synthetic"] for entry in novelty["flagged"])},
            "verdicts": metrics["verdicts"],
            "version": metrics["protocol"]["version"],
            "seed": metrics["protocol"]["seed"],
        },
    )


def flagged_copies(folder: Path, names: set[str] | None = None) -> list[str] | None:
    """Drawn images that were flagged as copies of training images; None where nobody has looked.

    Args:
        folder: a run, or a folder of pairs.
        names: of the pairs that count; default: all that were scored.
    """
    found = _evaluation(folder)
    if found is None:
        return None
    return [name for name in found["novelty"]["flagged"] if names is None or name in names]


def class_names(config: Config) -> list[str]:
    """Names of the classes that a mask has, where there are several."""
    named = config.data.classes
    return [] if isinstance(named, str) else [entry.partition("=")[0].strip() for entry in named]


def _evaluation(folder: Path) -> dict[str, Any] | None:
    path = folder / EVALUATION
    return read_json(path, dict[str, Any]) if path.exists() else None


def _settings(config: Config, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run was made with, as a table."""
    train, sample = config.train, config.sample
    rows = [("method", config.method.name), ("resolution", f"{config.data.resolution} px")]
    if "imported" not in summary:
        rows += [
            ("steps", f"{train.steps} of {train.batch_size} pairs"),
            ("learning rate", f"{train.learning_rate:g}, {train.schedule}"),
            ("precision", train.precision),
            ("seed", str(train.seed)),
        ]
    rows.append(
        (
            "sampling",
            f"{sample.scheduler}, {sample.steps} steps, guidance {sample.guidance:g}, on the mask "
            f"{sample.mask_guidance:g}",
        )
    )
    if "trained_parameters" in summary:
        trained, whole = (summary[name] / 1e6 for name in ("trained_parameters", "parameters"))
        rows.append(("parameters", f"{trained:.1f} million trained, of {whole:.1f}"))
    if "checkpoint" in summary:
        rows.append(("hash of the weights", f"`{summary['checkpoint']}`"))
    return rows


def _render(template: str, front: Mapping[str, Any], **values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    import siamese_diffusion

    text = (resources.files("siamese_diffusion") / "templates" / template).read_text(encoding="utf-8")
    made = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["figure"] = _figure
    body = made.from_string(text).render(version=siamese_diffusion.__version__, **values)
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n{MARK}\n\n{body}"


def _figure(entry: Mapping[str, Any]) -> str:
    """A figure with its interval."""
    value = entry.get("value", entry.get("mean"))
    if value is None:
        return "not known"
    low, high = entry.get("low"), entry.get("high")
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")


def _write(path: Path, text: str) -> None:
    try:
        own = not path.exists() or MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        own = False
    if own:
        write_text(path, text)
    else:
        notify(f"{path}: is not by this program, and stays as it is")


def require_no_copies(folder: Path, named: str, allowed: bool, names: set[str] | None = None) -> None:
    """Refuse to hand on what may show training images.

    Args:
        folder: a run, or a folder of pairs.
        named: the same with its option, for errors.
        allowed: hand it on all the same.
        names: of the pairs that are handed on; default: all.

    Raises:
        InputError: images are flagged as copies, or nobody has looked for any.
    """
    if allowed:
        return
    flagged = flagged_copies(folder, names)
    if flagged is None:
        raise InputError(
            f"{named}: nobody has looked whether its images are copies of training images; "
            "`siamese-diffusion evaluate --real DATA --synthetic NEW --run RUN --out SCORES` does, or --allow-flagged"
        )
    if flagged:
        raise InputError(
            f"{named}: {len(flagged)} of its images are flagged as copies of training images, {flagged[0]} for one; "
            "`siamese-diffusion filter --drop-flagged` leaves them out of a folder, or --allow-flagged"
        )
