"""What was decided over a whole folder holds for a folder that names some of its pairs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from siamese_diffusion.config import DataConfig
from siamese_diffusion.data.decided import READING, read_decided, write_decided
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.layouts.manifest import row_of
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import write_jsonl
from siamese_diffusion.studies.plan import Plan
from siamese_diffusion.studies.workers import run_stages


def label_maps(folder: Path) -> None:
    """Eight masks of labels 1 and 2; the first four have label 1 alone, and darker images of 12 bits."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(8):
        random = np.random.default_rng(i)
        Image.fromarray(random.integers(0, 200 if i < 4 else 4000, (24, 24)).astype(np.uint16)).save(
            folder / f"images/{i}.png"
        )
        labels = np.zeros((24, 24), np.uint8)
        labels[4:12, 4 + i : 12 + i] = 1
        if i >= 4:
            labels[14:20, 3:9] = 2
        Image.fromarray(labels).save(folder / f"masks/{i}.png")
    (folder / "dataset.json").write_text("{}")


def read(folder: Path, settings: DataConfig) -> list[tuple[Any, Any]]:
    return [pair.read() for pair in DataFolder(folder, settings=settings).pairs()]


@pytest.mark.parametrize("settings", [DataConfig(), DataConfig(foreground=(2,)), DataConfig(foreground=(1,))])
def test_some_pairs_are_read_as_in_their_folder(tmp_path: Path, settings: DataConfig) -> None:
    label_maps(tmp_path / "data")
    data = DataFolder(tmp_path / "data", settings=settings)
    some = data.pairs()[:4]
    expected = [pair.read() for pair in some]
    plan = SimpleNamespace(
        manifests={tmp_path / "some": some},
        study=SimpleNamespace(file=SimpleNamespace(workers=1)),
        wanted=lambda: [],
    )
    run_stages(cast(Plan, plan), "cpu", lambda stage: None)
    outside = settings.model_copy(update={"outside": True})
    for (image, mask), (first, second) in zip(read(tmp_path / "some", outside), expected, strict=True):
        assert np.array_equal(image, first)
        assert np.array_equal(mask, second)
    (tmp_path / "some" / READING).unlink()  # by themselves they are read in another way, or not at all
    if settings.foreground == (2,):
        with pytest.raises(InputError, match="choose among them"):
            read(tmp_path / "some", outside)
    else:
        assert not np.array_equal(read(tmp_path / "some", outside)[0][0], expected[0][0])


def test_what_was_decided_comes_back_the_same(tmp_path: Path) -> None:
    label_maps(tmp_path / "data")
    decided = DataFolder(tmp_path / "data", settings=DataConfig(foreground=(2,))).decoding.decided
    write_decided(tmp_path, decided)
    assert read_decided(tmp_path) == decided
    assert read_decided(tmp_path / "data") is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"coding": {"kind": "magic"}, "levels": {}, "scaled": 1}', "\0"])
def test_a_reading_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    label_maps(tmp_path / "data")
    data = DataFolder(tmp_path / "data")
    write_jsonl(tmp_path / "some/pairs.jsonl", map(row_of, data.pairs()))
    (tmp_path / "some" / READING).write_text(content)
    with pytest.raises(InputError, match=READING.replace(".", r"\.")):
        read(tmp_path / "some", DataConfig(outside=True))


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    label_maps(tmp_path / "data")
    write_decided(tmp_path, DataFolder(tmp_path / "data").decoding.decided)
    found = json.loads((tmp_path / READING).read_text())
    assert found["coding"]["table"] == [[0, 0], [1, 1], [2, 2]]
    assert found["levels"] == {"integer": [0.0, 4095.0]}
