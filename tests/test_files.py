"""Whole files or none."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import to_json, whole_folder, write_json, write_jsonl, write_text, write_whole


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "state.json"
    write_text(path, "before")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(InputError, match=r"state.json: no space left"):
        write_whole(path, fail)
    with pytest.raises(InputError, match=r"step-1: no space left"), whole_folder(tmp_path / "step-1"):
        raise error
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), whole_folder(tmp_path / "step-1"):
        raise RuntimeError("something else")


def test_a_figure_that_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    value: dict[str, Any] = {"a": nan, "b": [1.5, (-inf, {"c": np.float64(inf)})], "d": None, "e": "NaN", "f": True}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": None, "e": "NaN", "f": True}
    write_json(tmp_path / "one.json", value)
    write_jsonl(tmp_path / "rows.jsonl", [value, {"x": 1.0}])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    for text in (to_json(value), (tmp_path / "one.json").read_text(), lines[0]):
        assert json.loads(text, parse_constant=refuse) == expected
    assert json.loads(lines[1]) == {"x": 1.0}
    assert np.isnan(value["a"])  # only what is written changes
