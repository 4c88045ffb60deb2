"""What a training came to: whether masks are seen, whether to go on or to stop, and the page that says so.

Design note: the rules stand on the page. They need no judge and no drawn image, only losses at fixed noise (`probe`);
whether the images are good is for `evaluate` to say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_diffusion.config import Config
from siamese_diffusion.diffusion.probe import Probe
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.files import read_jsonl
from siamese_diffusion.report import Figure, Section, Table, Verdict, Word, loss_curves, write_report

CLEAR = 0.1
"""Share by which the error where masks differ must fall with the right mask: clearly seen."""

RISEN = 0.03
"""Share by which the held-out loss may lie above its lowest."""

FALLING = 0.01
"""Share by which it fell over the last third of the steps: more steps help."""

LOOKS = 4
"""Looks at the held-out loss that a curve takes."""

SHOWN = {
    "total": "training loss",
    "held_out": "held-out pairs",
    "seen": "training pairs, at the same noise",
    "hint": "hint strength",
}
"""Figures of the page, and what they are called."""


def judge_training(probe: Probe, model: SiameseDiffusion, log: Path, device: torch.device) -> list[Verdict]:
    """Whether masks are seen, and whether training was long enough or too long.

    Args:
        probe: the pairs.
        model: as it came out.
        log: `log.jsonl` of the run.
        device: where the model lies.
    """
    losses = probe.losses(model, probe.held or probe.seen, device)
    rows = [dict(row) for row in read_jsonl(log)]
    looks = {int(row["step"]): row for row in rows if isinstance(row.get("seen"), float)}
    return [masks_seen(losses.own, losses.other, probe.held is not None), long_enough(looks)]


def masks_seen(own: NDArray[np.float64], other: NDArray[np.float64], held_out: bool) -> Verdict:
    """From errors (N,) where two masks differ, with the pair's own mask and with the other one; NaN where they do
    not."""
    rule = (
        f"Where its mask and another pair's differ, the error with its own is at least {100 * CLEAR:.0f} % lower, "
        "by the 95 % interval over images; not good where the interval holds 0."
    )
    gains = (1 - own / other)[np.isfinite(own) & np.isfinite(other)]
    question = "Are the masks seen?"
    if len(gains) < 4:
        return Verdict(question, "cannot tell", "There are fewer than four pairs whose masks differ.", rule)
    mean, reach = float(gains.mean()), 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    word: Word = "good" if mean - reach >= CLEAR else "doubtful" if mean - reach > 0 else "not good"
    because = (
        f"The right mask lowers the error by {100 * mean:.0f} % ({100 * (mean - reach):.0f} to "
        f"{100 * (mean + reach):.0f} %) in {len(gains)} {'held-out' if held_out else 'training'} pairs."
    )
    if word != "good":
        because += " Train longer; if it stays so, see train.hint_rate in docs/backbones.md."
    return Verdict(question, word, because, rule)


def long_enough(looks: Mapping[int, Mapping[str, Any]], section: str = "train", what: str = "pairs") -> Verdict:
    """From the figures of `Probe.figures` by step.

    Args:
        looks: the figures.
        section: of the settings that say how long training is.
        what: is learned from.
    """
    question = "Was training long enough?"
    rule = (
        f"The held-out loss ends at most {100 * RISEN:.0f} % above its lowest (not good above that: the training "
        f"{what} are learned by heart), and fell by less than {100 * FALLING:.0f} % over the last third of the steps "
        "(doubtful: more steps help)."
    )
    curve = {step: float(row["held_out"]) for step, row in sorted(looks.items()) if "held_out" in row}
    if len(curve) < LOOKS:
        missing = (
            f"The held-out loss was looked at {len(curve)} times; a curve takes {LOOKS} ({section}.sample_every)."
            if curve
            else f"No {what} were held out: give a split val, or 40 {what} or more."
        )
        return Verdict(question, "cannot tell", missing, rule)
    end, lowest = max(curve), min(curve, key=lambda step: curve[step])
    risen = curve[end] / curve[lowest] - 1
    since = min(curve, key=lambda step: abs(step - 2 * end / 3))
    fallen = 1 - curve[end] / curve[since]
    if risen > RISEN:
        because = (
            f"It learns by heart: the held-out loss was lowest at step {lowest} and has risen by {100 * risen:.1f} % "
            f"since. Train on more {what}, or stop nearer to that step ({section}.steps), and let `evaluate` look for "
            "copies."
        )
        return Verdict(question, "not good", because, rule)
    if fallen > FALLING:
        because = (
            f"The held-out loss still falls: by {100 * fallen:.1f} % since step {since}. More steps should help "
            f"({section}.steps, in another folder)."
        )
        return Verdict(question, "doubtful", because, rule)
    because = f"The held-out loss is level: it changed by {-100 * fallen:+.1f} % since step {since} of {end}."
    return Verdict(question, "good", because, rule)


def render(result: Mapping[str, Any]) -> str:
    """What `train` returned, for the terminal."""
    out = Path(result["run"])
    held = f", {result['held_out']} held out" if result["held_out"] else ""
    return "\n".join(
        [
            *(f"{each['question']} {each['word']}. {each['because']}" for each in result["verdicts"]),
            f"{result['method']}: {result['steps']} steps on {result['pairs']} pairs{held}; the run: {out}",
            f"the report: {out / 'report.html'}",
            f"next: siamese-diffusion sample --checkpoint {out} --masks DATA --out NEW",
        ]
    )


def write_page(out: Path, result: Mapping[str, Any], verdicts: Sequence[Verdict], config: Config) -> None:
    """Write `report.html`: the verdicts, the last grid, the curves and what was run."""
    grids = sorted((out / "samples").glob("step-*.png"))
    figures = (
        [Figure(grids[-1].read_bytes(), "Masks of training pairs, what is drawn for them, and the real images.")]
        if grids
        else []
    )
    rows = [
        ["pairs", f"{result['pairs']} trained on, {result['held_out']} held out and looked at"],
        ["method", config.method.name],
        ["steps", f"{config.train.steps} of {config.train.batch_size} pairs"],
        ["resolution", f"{config.data.resolution} px"],
        [
            "parameters",
            f"{result['trained_parameters'] / 1e6:.1f} million trained, of {result['parameters'] / 1e6:.1f}",
        ],
        ["learning rate", f"{config.train.learning_rate:g}, {config.train.schedule}"],
        ["precision", config.train.precision],
        ["seed", str(config.train.seed)],
    ]
    sections = [
        Section(
            "What does it draw?",
            "Does each image show its lesion where the mask is white, and nowhere else? Do colours and texture look "
            "like those of the real images below?",
            figures=figures,
        ),
        Section(
            "How did training go?",
            "The two losses at fixed noise are alike as long as nothing is learned by heart. A hint strength near 0 "
            "means that masks are not seen.",
            figures=[Figure(loss_curves({"": out / "log.jsonl"}, SHOWN), "As in log.jsonl.")],
        ),
        Section("What was run", "All settings are in config.yaml.", tables=[Table(["", ""], rows, words=(1,))]),
    ]
    lead = (
        "Whether the images are good, obey their masks and are new is for the command evaluate to say, of drawn pairs."
    )
    write_report(out / "report.html", f"Training by {config.method.name}", lead, sections, verdicts, "train")
