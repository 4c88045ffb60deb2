"""What `evaluate` says in words: each verdict where a person would give it."""

from typing import Any

import pytest

from siamese_diffusion.evaluation.verdict import ABLE, promised, render, verdicts


def metrics(**changed: Any) -> dict[str, Any]:
    """Figures of a set that is good in every way; `changed` replaces some, written `part__name`."""
    found: dict[str, Any] = {
        "quality": {
            "kd": {"value": 0.05, "low": 0.0, "high": 0.1, "halves": 0.06, "extractor": "judge", "real": 0.02},
            "diversity": {"value": 0.19, "low": 0.18, "high": 0.2, "extractor": "judge", "real": 0.2},
        },
        "fit": {
            "dice": {"mean": 0.78, "low": 0.75, "high": 0.81},
            "shuffled": {"mean": 0.3, "low": 0.27, "high": 0.33},
            "judge": {"dice": 0.8, "on": "test", "count": 100, "boundary": 0.02},
        },
        "appearance": {
            "difference": {"colour": {"red": 0.02, "green": 0.01, "blue": 0.01}, "sharpness": -0.2, "gradient": 0},
            "yardstick": {"colour": {"red": 0.01, "green": 0.01, "blue": 0.01}, "sharpness": 0.1, "gradient": 0},
        },
        "novelty": {
            "flagged": [],
            "false_alarm_rate": 0.01,
            "target": 0.01,
            "base": 400,
            "measured_on": {"images": "held-out real", "count": 100},
        },
        "counts": {"real": 400, "synthetic": 200, "held_out": 100},
    }
    for key, value in changed.items():
        *path, last = key.split("__")
        part = found
        for name in path:
            part = part[name]
        part[last] = value
    return found


def words(trained_on: int = 320, **changed: Any) -> list[str]:
    return [verdict.word for verdict in verdicts(metrics(**changed), trained_on)]


def test_a_set_that_is_good_in_every_way() -> None:
    assert words() == ["good"] * 4


NOISE = {"quality__kd__value": 1.64, "fit__dice": {"mean": 0.29, "low": 0.26, "high": 0.32}}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "noise": (NOISE, ["good", "not good", "not good", "good"]),
    "one image repeated": (
        {"quality__kd__value": 0.9, "quality__diversity__value": 0.0, "appearance__difference__sharpness": 0.4},
        ["good", "not good", "good", "good"],
    ),
    "one image repeated, near the real ones": (
        {"quality__diversity__value": 0.01},
        ["good", "not good", "good", "good"],
    ),
    "real images with shuffled masks": (
        {"fit__dice": {"mean": 0.31, "low": 0.28, "high": 0.34}},
        ["good", "good", "not good", "good"],
    ),
    "exact copies": ({"novelty__flagged": [{}] * 200}, ["good", "good", "good", "not good"]),
    "a tenth of them copies": ({"novelty__flagged": [{}] * 20}, ["good", "good", "good", "not good"]),
    "a few more flagged than alarms": ({"novelty__flagged": [{}] * 7}, ["good", "good", "good", "doubtful"]),
    "shifted in colour": (
        {"appearance__difference__colour": {"red": 0.2, "green": 0.01, "blue": 0.01}},
        ["good", "not good", "good", "good"],
    ),
    "another organ": (
        {"quality__kd__value": 0.6, "fit__dice": {"mean": 0.4, "low": 0.37, "high": 0.43}},
        ["good", "not good", "not good", "good"],
    ),
    "soft": ({"appearance__difference__sharpness": -1.0}, ["good", "doubtful", "good", "good"]),
    "without any edge": ({"appearance__difference__sharpness": -4.0}, ["good", "not good", "good", "good"]),
    "masks half heeded": (
        {"fit__dice": {"mean": 0.6, "low": 0.57, "high": 0.63}},
        ["good", "good", "doubtful", "good"],
    ),
    "twenty images": ({"counts__synthetic": 20}, ["good", "good", "good", "doubtful"]),
    "a poor judge": ({"fit__judge__dice": 0.46}, ["not good", "good", "cannot tell", "good"]),
    "a judge tested on three images": ({"fit__judge__count": 3}, ["not good", "good", "cannot tell", "good"]),
    "seven real images": ({"quality__kd__halves": None}, ["good", "cannot tell", "good", "good"]),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts_are_those_that_a_person_would_give(name: str) -> None:
    changed, expected = CASES[name]
    assert words(**changed) == expected


def test_a_judge_of_thirty_pairs_cannot_tell() -> None:
    found = verdicts(metrics(), 30)
    assert [verdict.word for verdict in found] == ["not good", "good", "cannot tell", "good"]
    assert "only 30 pairs" in found[0].because


def test_what_decides_comes_first_and_every_figure_is_there() -> None:
    good = verdicts(metrics(**CASES["shifted in colour"][0]), 320)[1]
    assert good.because.startswith("Colours are 20.0 times as far apart")
    for part in ("kernel distance is 0.8 times", "sharpness is 0.82", "diversity 0.95"):
        assert part in good.because
    assert "2 times that of two halves" in good.rule
    assert f"{100 * ABLE:.0f} %" in verdicts(metrics(), 320)[0].rule


def test_what_few_images_can_promise() -> None:
    few = metrics(novelty__base=60)
    assert "about 1.6 % of real images would be flagged, and not the 1 % asked for" in str(promised(few["novelty"]))
    assert "60 training images" in verdicts(few, 320)[3].because
    assert promised(metrics()["novelty"]) is None


def test_ten_lines_for_the_terminal() -> None:
    found = metrics()
    found["verdicts"] = [vars(verdict) for verdict in verdicts(found, 320)]
    lines = render(found).splitlines()
    assert 4 < len(lines) <= 10
    assert lines[0].startswith("Can the judge be trusted? good.")
    assert "kd (judge): 0.050 (0.000 to 0.100)" in lines
