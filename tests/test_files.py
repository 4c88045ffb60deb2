"""Whole files or none."""

import errno
from pathlib import Path

import pytest

from siamese_diffusion.errors import InputError
from siamese_diffusion.files import whole_folder, write_text, write_whole


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
