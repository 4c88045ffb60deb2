"""`evaluate --run`: what was found of drawn pairs goes into the card of the run that drew them, and into theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamese_diffusion.cards import ABOUT, EVALUATION, note_evaluation, write_data_card, write_model_card
from siamese_diffusion.claim import marked_by
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.hashing import hash_weights
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json


def require_drawn_by(run: Path, synthetic: DataFolder) -> None:
    """Refuse a run that is not where the pairs come from.

    Raises:
        InputError: `run` is no finished run of `train`, or the pairs were drawn by other weights.
    """
    if not (run / "pipeline").is_dir() or not (run / "summary.json").exists():
        raise InputError(f"--run {run}: is no finished run of `train`")
    own = hash_weights(run / "pipeline")
    rows = synthetic.listing.rows if synthetic.listing is not None else {}
    others = {str(row.get("checkpoint")) for row in rows.values()} - {own}
    if others or not rows:
        raise InputError(f"--run {run}: did not draw the pairs of {synthetic.path} (its weights are {own})")


def note_in_cards(run: Path | None, synthetic: DataFolder, metrics: Mapping[str, Any]) -> None:
    """Note what was found, and write the cards anew; without `run`, nothing. A folder that `sample` did not write, as
    of `filter`, is noted in and has no card."""
    if run is None:
        return
    checkpoint = hash_weights(run / "pipeline")
    own = [synthetic.path] if marked_by(synthetic.path) is not None else []
    for folder in (run, *own):
        note_evaluation(folder, metrics, synthetic.path.resolve().name, checkpoint)
    write_model_card(run)
    if own and (synthetic.path / ABOUT).exists():
        write_data_card(synthetic.path)


def hand_on(scores: Path | None, source: Path, out: Path, how: str) -> None:
    """The notes of drawn pairs, and what was found of them, for a folder that holds some of them.

    Args:
        scores: folder of `evaluate`; None: what was noted of the pairs before, if anything.
        source: the pairs that were scored.
        out: the folder with those that were chosen.
        how: they were chosen, in words.
    """
    if not (source / ABOUT).exists():
        return  # not drawn by `sample`, or by an earlier version
    about = read_json(source / ABOUT, dict[str, Any])
    write_json(out / ABOUT, about | {"filtered": how})
    if scores is not None:
        metrics = read_json(scores / "metrics.json", dict[str, Any])
        note_evaluation(out, metrics, source.resolve().name, str(about["checkpoint"]))
    elif (source / EVALUATION).exists():
        write_json(out / EVALUATION, read_json(source / EVALUATION))
    write_data_card(out)
