"""The whole job: its stages in turn, what it makes of a stage that says no, and going on where it was."""

from pathlib import Path
from typing import Any

import pytest
from conftest import DiscPairs
from tiny import TINY
from torch import nn

from siamese_diffusion import job
from siamese_diffusion.config import Config, build_config
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_json, write_json
from siamese_diffusion.segmentation import networks


def small(name: str, pretrained: bool = False) -> nn.Module:
    """A network with features that a judge has, from the seed's random weights."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 1, 1))


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "create", small)
    monkeypatch.setattr(job, "has_weights", lambda encoder: False)


def settings() -> Config:
    own = {"resolution": 32, "batch_size": 4, "steps": 2, "sample_every": 2, "network": "unet_plain"}
    values = {**TINY, "segment": own, "evaluate": {"fit_steps": 2, "fit_network": "unet_plain"}}
    values["data"] = {**values.get("data", {}), "split": "train"}
    return build_config(values, "tests")


def run(data: Path, out: Path, backbone: Path, **given: Any) -> dict[str, Any]:
    return job.run(data, out, str(backbone), config=settings(), device="cpu", **given)


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of a network of a few steps are said to obey."""
    evaluate: Any = job.__dict__["evaluate"]

    def said(real: Path, synthetic: Path, out: Path, *rest: Any, **more: Any) -> dict[str, Any]:
        metrics: dict[str, Any] = evaluate(real, synthetic, out, *rest, **more)
        metrics["fit"]["dice"] |= {"low": 0.5, "mean": 0.6, "high": 0.7}
        metrics["fit"]["shuffled"] |= {"low": 0.0, "mean": 0.1, "high": 0.2}
        metrics["fit"]["judge"]["dice"] = 0.0
        write_json(out / "metrics.json", metrics)
        return metrics

    monkeypatch.setattr(job, "evaluate", said)


def test_a_folder_without_a_test_list_is_divided_and_goes_all_the_way(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path, obedient: None
) -> None:
    data, out = disc_pairs(24), tmp_path / "job"
    result = run(data, out, backbone)
    assert result == read_json(out / "summary.json")
    lists = DataFolder(out / "data").lists
    assert lists is not None
    sizes = {name: len(names) for name, names in lists.items()}
    assert sum(sizes.values()) == 24
    assert min(sizes["val"], sizes["test"]) >= 2
    assert result["pairs"] == dict.fromkeys(("real", "drawn", "kept"), sizes["train"])
    drawn = {row.name for row in DataFolder(out / "sample").pairs()}
    assert drawn == set(lists["train"])  # nothing is drawn for a test mask
    questions = [each["question"] for each in result["verdicts"]]
    assert questions[0] == "Does segmentation improve with the synthetic pairs?"
    assert len(questions) == 7
    assert set(result["stages"]) == {"prepare", "train", "sample", "evaluate", "filter", "segment"}
    assert (out / "segment" / "mixed" / "seed-2" / "metrics.json").exists()
    assert Path(result["network"], "best.safetensors").exists()
    page = (out / "report.html").read_text()
    assert "Do synthetic pairs help here?" in page
    assert "segment/report.html" in page
    told = job.render(result)
    assert f"predict --network {result['network']}" in told


def test_images_that_do_not_obey_end_with_a_network_all_the_same(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*given: Any, **more: Any) -> Any:
        raise InputError("filter: the images do not obey; --anyway chooses all the same")

    monkeypatch.setattr(job, "filter_", no)
    lists = {"train": [f"{i:03d}" for i in range(16)], "val": ["016", "017"], "test": ["018", "019", "020", "021"]}
    data, out = disc_pairs(22, splits=lists), tmp_path / "job"
    result = run(data, out, backbone)
    assert not (out / "data").exists()  # it has lists of its own
    assert result["pairs"]["kept"] == 0
    assert result["verdicts"][0]["word"] == "cannot tell"
    assert "No synthetic pairs were used: the images do not obey." in result["verdicts"][0]["because"]
    assert result["network"] == str(out / "segment")
    assert (out / "segment" / "best.safetensors").exists()


def test_a_job_that_was_killed_does_no_stage_twice(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obedient: None
) -> None:
    data, out = disc_pairs(24), tmp_path / "job"
    whole = run(data, tmp_path / "whole", backbone)
    train, segment = job.__dict__["train"], job.__dict__["segment"]
    trained: list[int] = []

    def counted(*given: Any, **more: Any) -> Any:
        trained.append(1)
        return train(*given, **more)

    def killed(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train", counted)
    monkeypatch.setattr(job, "segment", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data, out, backbone)
    assert not (out / "summary.json").exists()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        run(data, out, backbone)
    monkeypatch.setattr(job, "segment", segment)
    result = run(data, out, backbone, resume=True)
    assert len(trained) == 1
    for name in ("pairs", "verdicts"):
        assert result[name] == whole[name]
    assert run(data, out, backbone, resume=True) == result


def test_what_cannot_be_run_is_refused_before_anything_is_written(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path
) -> None:
    few, broken, out = disc_pairs(19, name="few"), disc_pairs(24, name="broken"), tmp_path / "job"
    with pytest.raises(InputError, match="few: has 19 pairs; `run` takes at least 20"):
        run(few, out, backbone)
    (broken / "masks" / "003.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"003\.png: .*`siamese-diffusion check .*broken` lists every problem"):
        run(broken, out, backbone)
    assert not out.exists()


def test_several_processes_are_told_to_take_the_stages(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="run: is one process"):
        run(disc_pairs(24), tmp_path / "job", backbone)


def test_a_dry_run_writes_nothing_and_counts_what_it_would_do(
    disc_pairs: DiscPairs, backbone: Path, tmp_path: Path
) -> None:
    data, out = disc_pairs(24), tmp_path / "job"
    result = run(data, out, backbone, dry_run=True, per_mask=2)
    assert not out.exists()
    assert list(result["stages"]) == ["prepare", "train", "sample", "evaluate", "segment"]
    assert result["stages"]["sample"]["what"] == "34 images"
    assert result["stages"]["segment"]["what"] == "6 networks of 2 steps of 4"
    assert result["hours"] == pytest.approx(sum(each["hours"] for each in result["stages"].values()))
    assert result["hours"] > 0
    assert "in all about" in job.render(result)
    whole = job.run(data, out, "small", config=settings(), device="cpu", dry_run=True)
    assert "backbone" in whole["stages"]


def test_imagenet_weights_that_are_installed_are_used_unless_a_network_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "has_weights", lambda encoder: True)
    chosen = job._settings(Config())
    assert (chosen.segment.encoder, chosen.segment.weights) == (job.ENCODER, "imagenet")
    assert chosen.evaluate.fit_network == "smp"
    own = settings()
    assert job._settings(own) == own


def test_all_pairs_as_training_pairs_are_refused_before_hours_of_training(
    disc_pairs: DiscPairs, tmp_path: Path
) -> None:
    every = build_config({**TINY, "data": {"split": None}}, "tests")
    with pytest.raises(InputError, match=r"data.split = null: .*tests on"):
        job.run(disc_pairs(24), tmp_path / "job", config=every, device="cpu")
    assert not (tmp_path / "job").exists()
