"""One word and one sentence on drawn masks, by rules that stand on the page."""

from collections.abc import Mapping
from typing import Any

from siamese_diffusion.report import Verdict, Word

CLEAR, PLAIN = 0.01, 0.001
"""p below which a statistic separates drawn from real masks, and below which it does so plainly."""
ENOUGH = 40
"""Masks of each kind below which the tests find hardly anything."""
MORE = 0.02
"""Share of near copies above the false-alarm rate that is no sign of copying."""
VARIED, ALIKE = 0.9, 0.7
"""Diversity as a share of the real masks': good from the first, not good below the second."""
QUESTION = "Are the drawn masks like real ones, and new?"


def wilson(count: int, of: int) -> dict[str, float]:
    """`low` and `high` of a share's 95 % interval (Wilson)."""
    from scipy.stats import binomtest

    bounds = binomtest(count, of).proportion_ci(0.95, method="wilson")
    return {"low": float(bounds.low), "high": float(bounds.high)}


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """From the figures of `masks_report.measure`, all but the verdict itself.

    Good: no statistic separates drawn from held-out masks at p < 0.01, near copies are at most the false-alarm rate
    plus two points, and diversity is at least 0.9 of the real masks'.
    """
    held = metrics["held_out"] is not None
    tests = metrics["held_out"] if held else metrics["training"]
    copies, varied = metrics["copies"], metrics["diversity"]
    least = min(metrics["counts"]["drawn"], metrics["counts"]["held_out" if held else "real"])
    others = "held-out" if held else "training"
    rule = (
        f"Good: no statistic separates drawn from {others} masks at p < {CLEAR:g}, with at most 400 of each; near "
        f"copies at most {100 * MORE:.0f} points above the false-alarm rate; diversity at least {VARIED:g} of the real "
        f"masks'. Not good: one at p < {PLAIN:g}, copies above that by their 95 % interval, or diversity below "
        f"{ALIKE:g}. Fewer than {ENOUGH} masks of either kind cannot be called good."
    )
    separating = {name: test["p"] for name, test in tests.items() if test["p"] < CLEAR}
    allowed = copies["false_alarm_rate"] + MORE
    ratio = varied["drawn"] / varied["real"] if varied["real"] else 1.0
    because = f"{_tested(tests, separating, others)}; {_copied(copies)}; {_varied(varied)}."
    bad = any(p < PLAIN for p in separating.values()) or copies["low"] > allowed or ratio < ALIKE
    good = not separating and copies["share"] <= allowed and ratio >= VARIED
    if least < ENOUGH and not bad:
        fewer = f"{because} But {least} masks are too few to tell."
        return Verdict(QUESTION, "cannot tell", fewer, rule)
    word: Word = "not good" if bad else "good" if good else "doubtful"
    return Verdict(QUESTION, word, because, rule)


def _tested(tests: Mapping[str, Any], separating: Mapping[str, float], others: str) -> str:
    if not separating:
        name = min(tests, key=lambda each: tests[each]["p"])
        return f"No statistic tells drawn masks from {others} ones (smallest p {_p(tests[name]['p'])}, of {name})"
    listed = ", ".join(f"{name} (p {_p(p)})" for name, p in sorted(separating.items(), key=lambda each: each[1]))
    return f"Drawn masks differ from {others} ones in {listed}"


def _copied(copies: Mapping[str, Any]) -> str:
    base = copies["measured_on"]["masks"]
    return (
        f"{100 * copies['share']:.1f} % are near copies of training masks, and of {base} masks "
        f"{100 * copies['false_alarm_rate']:.1f} %"
    )


def _varied(varied: Mapping[str, float]) -> str:
    return f"two of them differ by {varied['drawn']:.2f} (1 - IoU), two real ones by {varied['real']:.2f}"


def _p(p: float) -> str:
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
