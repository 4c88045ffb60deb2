"""What an evaluation says in plain words: one verdict a question, by rules that stand on the page.

Design note: a figure alone misleads. Each is held against what real images give (two halves of them, the judge's own
Dice, other pairs' masks, the measured false alarms), and where the instrument itself is too poor to tell, the verdict
is that, and never a good word.
"""

from collections.abc import Mapping
from math import exp
from typing import Any

from siamese_diffusion.report import Verdict, Word

NEAR, FAR = 2.0, 5.0
"""Kernel distance over that of two halves of the real images: good up to the first, not good above the second."""
COLOUR_NEAR, COLOUR_FAR = 3.0, 8.0
"""Distance of the colours over that of two halves of the real images."""
COLOUR_LEAST = 0.01
"""Colours that differ by less than this share of the full range are alike, however alike the real images are."""
SOFT, DIM = 0.5, 0.1
"""Sharpness as a share of the real images': good down to the first (and up to its inverse), not good below the second.
"""
VARIED, ALIKE = 0.7, 0.4
"""Diversity as a share of the real images': good from the first, not good below the second."""
OBEDIENT, DEAF = 0.85, 0.6
"""Mask fit as a share of the judge's own Dice: good from the first, not good below the second."""
ABLE, TRAINED, TESTED = 0.6, 40, 10
"""What a judge needs to be asked: Dice on real images, pairs it was trained on, real images it was tested on."""
MORE, ROOM = 0.02, 0.05
"""Share flagged above the false-alarm rate that is no sign of copying; how much larger its upper bound may be."""

_WORST: tuple[Word, ...] = ("good", "doubtful", "not good")


def verdicts(metrics: Mapping[str, Any], trained_on: int) -> list[Verdict]:
    """The judge's own worth, then whether the images are good, obey their masks, and are new.

    Args:
        metrics: `quality`, `fit`, `novelty`, `appearance` and `counts` as `evaluate` returns them.
        trained_on: real pairs that the judge was trained on.
    """
    able = _judge(metrics["fit"], trained_on)
    return [able, _good(metrics), _obedient(metrics["fit"], able), _new(metrics["novelty"], metrics["counts"])]


def _judge(fit: Mapping[str, Any], trained_on: int) -> Verdict:
    own = fit["judge"]
    short = []
    if own["dice"] < ABLE:
        short.append(f"its Dice on real images is only {100 * own['dice']:.1f} %")
    if trained_on < TRAINED:
        short.append(f"it was trained on only {trained_on} pairs")
    if own["count"] < TESTED:
        short.append(f"it was tested on only {own['count']} images")
    if own["dice"] <= fit["shuffled"]["high"]:
        short.append("it does no better on real images than with other pairs' masks")
    because = (
        f"Its Dice on {own['count']} real images is {100 * own['dice']:.1f} %, trained on {trained_on} pairs."
        if not short
        else f"It cannot judge: {', '.join(short)}. More real pairs or evaluate.fit_steps help, or --judge RUN."
    )
    rule = f"Dice of at least {100 * ABLE:.0f} %, {TRAINED} training pairs and {TESTED} images to be tested on."
    return Verdict("Can the judge be trusted?", "not good" if short else "good", because, rule)


def _good(metrics: Mapping[str, Any]) -> Verdict:
    name = next(iter(metrics["quality"]))
    distance = metrics["quality"][name]
    diversity = metrics["quality"]["diversity"]
    rule = (
        f"Kernel distance at most {NEAR:g} times that of two halves of the real images (not good above {FAR:g} times); "
        f"colours at most {COLOUR_NEAR:g} times ({COLOUR_FAR:g}); sharpness {SOFT:g} to {1 / SOFT:g} of the real "
        f"images' ({DIM:g} to {1 / DIM:g}); diversity at least {VARIED:g} of theirs ({ALIKE:g}). The worst decides."
    )
    question = "Are the images good?"
    if distance.get("halves") is None:
        return Verdict(
            question, "cannot tell", "There are too few images for a kernel distance and its yardstick.", rule
        )
    apart = distance["value"] / distance["halves"]
    difference, yardstick = metrics["appearance"]["difference"], metrics["appearance"]["yardstick"]
    colour = max(difference["colour"].values())
    off = colour / max(*yardstick["colour"].values(), COLOUR_LEAST)
    sharp = _share(difference["sharpness"])
    varied = diversity["value"] / diversity["real"] if diversity["real"] else 1.0
    words = [
        _grade(apart, NEAR, FAR),
        _grade(off, COLOUR_NEAR, COLOUR_FAR),
        _grade(1 / min(sharp, 1 / sharp), 1 / SOFT, 1 / DIM),
        _grade(-varied, -VARIED, -ALIKE),
    ]
    parts = [
        f"the {distance['extractor']} features' kernel distance is {max(apart, 0):.1f} times that of two halves",
        f"colours are {off:.1f} times as far apart",
        f"sharpness is {sharp:.2f} of the real images'",
        f"diversity {varied:.2f} of theirs",
    ]
    word = max(words, key=_WORST.index)
    decisive = [part for part, each in zip(parts, words, strict=True) if each == word]
    text = f"{'; '.join(parts)}."
    if word != "good":
        text = (
            f"{'; '.join(decisive)}. The rest: {'; '.join(part for part in parts if part not in decisive) or 'none'}."
        )
    return Verdict(question, word, text[0].upper() + text[1:], rule)


def _obedient(fit: Mapping[str, Any], judge: Verdict) -> Verdict:
    question = "Do they obey their masks?"
    dice, shuffled, own = fit["dice"], fit["shuffled"], fit["judge"]["dice"]
    rule = (
        f"Mask fit at least {OBEDIENT:g} of the judge's own Dice on real images (not good below {DEAF:g}), and its "
        "interval above that with other pairs' masks."
    )
    because = (
        f"The judge finds the lesion asked for with a Dice of {100 * dice['mean']:.1f} %; in real images it reaches "
        f"{100 * own:.1f} %, and with other pairs' masks {100 * shuffled['mean']:.1f} %."
    )
    if dice["low"] <= shuffled["high"]:
        word: Word = "not good"
        because += " That is no better than chance."
    else:
        word = _grade(-dice["mean"], -OBEDIENT * own, -DEAF * own)
    if judge.word != "good":
        return Verdict(question, "cannot tell", f"{because} But this judge cannot be trusted.", rule)
    return Verdict(question, word, because, rule)


def _new(novelty: Mapping[str, Any], counts: Mapping[str, int]) -> Verdict:
    from scipy.stats import binomtest

    count, flagged, rate = counts["synthetic"], len(novelty["flagged"]), novelty["false_alarm_rate"]
    bounds = binomtest(flagged, count).proportion_ci(0.95, method="wilson")
    base = novelty["measured_on"]
    rule = (
        f"Share flagged at most {100 * MORE:.0f} points above the false-alarm rate; its 95 % upper bound at most "
        f"{100 * ROOM:.0f} points above that, which takes enough images; not good where its lower bound is above."
    )
    because = (
        f"{flagged or 'None'} of {count} {'is' if flagged == 1 else 'are'} flagged as "
        f"{'a copy' if flagged == 1 else 'copies'} of training images ({100 * bounds.low:.1f} to "
        f"{100 * bounds.high:.1f} % by its 95 % interval); of {base['count']} real images that are no copies the flag "
        f"hits {100 * rate:.1f} %."
    )
    allowed = rate + MORE
    if bounds.low > allowed:
        word: Word = "not good"
    elif flagged / count <= allowed and bounds.high <= allowed + ROOM:
        word = "good"
    else:
        word = "doubtful"
        if flagged / count <= allowed:
            because += f" {count} images are too few to rule out that up to {100 * bounds.high:.0f} % are copies."
    if (promise := promised(novelty)) is not None:
        because += f" {promise}"
    return Verdict("Are they new?", word, because, rule)


def promised(novelty: Mapping[str, Any]) -> str | None:
    """What the threshold can promise where the training images are too few for the share asked for; else None."""
    base, target = novelty.get("base"), novelty["target"]
    if base is None or base * target >= 1:
        return None
    return (
        f"With {base} training images the threshold is their smallest score, so about {100 / (base + 1):.1f} % of real "
        f"images would be flagged, and not the {100 * target:g} % asked for."
    )


def render(metrics: Mapping[str, Any]) -> str:
    """The verdicts and the figures behind them, a line each."""
    lines = [f"{each['question']} {each['word']}. {each['because']}" for each in metrics["verdicts"]]
    fit, novelty, counts = metrics["fit"], metrics["novelty"], metrics["counts"]
    name, distance = next(iter(metrics["quality"].items()))
    return "\n".join(
        [
            *lines,
            f"pairs: {counts['synthetic']} synthetic, {counts['real']} real, {counts['held_out']} held out",
            f"{name} ({distance['extractor']}): {_shown(distance)}",
            f"mask fit, Dice: {_shown(fit['dice'])}; judge on real images {fit['judge']['dice']:.3f}",
            *_classes(fit),
            f"flagged as copies: {len(novelty['flagged'])} of {counts['synthetic']}",
        ]
    )


def _classes(fit: Mapping[str, Any]) -> list[str]:
    """Of several classes a line each, and what is reached with these exchanged."""
    lines = [
        f"  {name}: {_shown(one['dice'])}" + (f"; judge {one['judge']:.3f}" if one["judge"] is not None else "")
        for name, one in fit.get("classes", {}).items()
    ]
    return lines + ([f"  classes exchanged: {_shown(fit['exchanged'])}"] if "exchanged" in fit else [])


def _shown(figure: Mapping[str, Any]) -> str:
    value = figure["value"] if "value" in figure else figure["mean"]
    return f"{value:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _grade(value: float, good: float, bad: float) -> Word:
    """Small is good."""
    return "good" if value <= good else "doubtful" if value <= bad else "not good"


def _share(log_ratio: float) -> float:
    return exp(max(min(log_ratio, 20.0), -20.0))
