import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from safetensors.torch import load_file

from siamese_diffusion.config import Config, update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.splits import train_and_validation
from siamese_diffusion.errors import InputError
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.batches import Arrays, batches, load, share_of_made
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.inference import probabilities
from siamese_diffusion.segmentation.metrics import score
from siamese_diffusion.segmentation.segment import segment
from siamese_diffusion.segmentation.trained import load_network

SPLITS = {
    "train": [f"{i:03d}" for i in range(8)],
    "val": ["008", "009"],
    "test": ["010", "011"],
}


def tiny(**entries: Any) -> Config:
    """Few steps of the smallest network, whose drop path also makes a resumed run depend on the random state."""
    settings: dict[str, Any] = {"network": "segformer", "resolution": 32, "batch_size": 4, "steps": 4, "warmup": 1}
    return update(Config(), "segment", **(settings | {"sample_every": 2, "checkpoint_every": 2} | entries))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_file(run / "best.safetensors")
    return state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_leaves_what_it_promises(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "run"
    metrics = segment(data, out, [data], config=tiny())
    assert metrics["train"]["real"] == 8
    assert metrics["train"]["synthetic"] == 0
    assert metrics["val"]["count"] == 2
    assert metrics["test"]["discs"]["count"] == 2
    assert metrics["mean"] == metrics["weighted"]
    assert metrics["step"] in (2, 4)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert json.loads((out / "best.json").read_text())["step"] == metrics["step"]
    rows = (out / "test" / "discs.csv").read_text().splitlines()
    assert rows[0] == "name,dice,iou,meanDic,meanIoU,wFm,Sm,meanEm,MAE"
    assert [row.split(",")[0] for row in rows[1:]] == SPLITS["test"]
    assert sum(float(row.split(",")[1]) for row in rows[1:]) / 2 == pytest.approx(
        metrics["test"]["discs"]["mDice"], abs=1e-5
    )
    assert sum(float(row.split(",")[8]) for row in rows[1:]) / 2 == pytest.approx(metrics["mean"]["MAE"], abs=1e-5)
    assert {"mDice", "mIoU", "count", "meanDic", "maxIoU", "Sm"} <= metrics["test"]["discs"].keys()
    assert metrics["imagenet"] is False
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["step-000002.png", "step-000004.png"]
    assert not (out / "best").exists()


def regression(name: str, pretrained: bool = False) -> torch.nn.Module:
    """Each pixel by its colour, from zero: a problem with one solution, which rounding does not lead away from."""
    network = torch.nn.Conv2d(3, 1, 1)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    return network


def test_it_learns_discs_and_the_saved_network_is_the_scored_one(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "create", regression)
    data = disc_pairs(splits=SPLITS)
    config = tiny(network="unet", steps=100, batch_size=8, sample_every=50, checkpoint_every=100, learning_rate=0.3)
    metrics = segment(data, tmp_path / "run", [data], config=config)
    assert metrics["test"]["discs"]["mDice"] > 0.8
    network = load_network(tmp_path / "run")
    arrays = load(DataFolder(data).pairs("test"), 32)
    seen = probabilities(network, arrays.images, 1)
    assert seen.shape == (2, 32, 32)
    assert seen.dtype == np.float32
    scores = score(torch.from_numpy(seen), torch.from_numpy(arrays.masks))
    assert float(scores.dice.mean()) == pytest.approx(metrics["test"]["discs"]["mDice"], abs=1e-3)
    weights = tmp_path / "run/best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"best.safetensors: cannot be read as weights"):
        load_network(tmp_path / "run")


def test_synthetic_pairs_change_the_weights_but_not_the_number_of_steps(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, made = disc_pairs(splits=SPLITS), disc_pairs(name="made", seed=1)
    plain = segment(data, tmp_path / "plain", [data], config=tiny())
    both = segment(data, tmp_path / "both", [data], synthetic=[made], config=tiny(), arms="mixed")
    assert both["train"]["synthetic"] == 12
    steps = [json.loads(line)["step"] for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 4
    assert plain["val"]["count"] == both["val"]["count"]
    states = [
        load_file(tmp_path / name / "checkpoints" / "step-000004" / "model.safetensors") for name in ("plain", "both")
    ]
    assert not same(*states)


def test_composition_of_batches() -> None:
    settings = tiny(steps=50, batch_size=8, synthetic_share=0.25).segment
    grey = {"real": range(40, 50), "made": range(200, 206)}  # each pair has a grey level of its own

    def arrays(levels: range) -> Arrays:
        images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])
        return Arrays(images, np.zeros((len(levels), 32, 32), bool))

    real, made = arrays(grey["real"]), arrays(grey["made"])
    batch_at = batches(real, made, settings)
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        from siamese_diffusion.segmentation import augment
        from siamese_diffusion.segmentation import batches as module

        patch.setattr(module, "draw", lambda count, generator: augment.identity(count))
        for step in range(settings.steps):
            images = batch_at(step, range(8))["images"]
            seen += [round(float(image.mean()) * 255) for image in images]
    of_real = [level for level in seen if level < 100]
    assert len(of_real) / len(seen) == pytest.approx(0.75, abs=0.07)
    for kind, levels in (("real", of_real), ("made", [level for level in seen if level >= 100])):
        size = len(grey[kind])
        for start in range(0, len(levels) - size + 1, size):
            assert sorted(levels[start : start + size]) == list(grey[kind])
    whole, part = batch_at(3, range(8)), batch_at(3, range(2, 5))
    assert torch.equal(whole["images"][2:5], part["images"])


@pytest.mark.parametrize(
    ("wanted", "real", "made", "used"), [(0.5, 10, 10, 0.5), (0.5, 54, 6, 0.1), (0.05, 54, 6, 0.05), (0.5, 10, 90, 0.5)]
)
def test_no_synthetic_pair_is_seen_more_often_than_the_mean_real_one(
    wanted: float, real: int, made: int, used: float
) -> None:
    settings = tiny(steps=500, batch_size=8, synthetic_share=wanted, augmentation="none").segment
    assert share_of_made(settings, real, made) == pytest.approx(used)
    levels = [
        Arrays(np.full((n, 32, 32, 3), v, np.uint8), np.zeros((n, 32, 32), bool)) for n, v in ((real, 0), (made, 9))
    ]
    batch_at = batches(levels[0], levels[1], settings)
    drawn = torch.cat([batch_at(step, range(8))["images"].flatten(1).mean(1) > 0 for step in range(settings.steps)])
    share = float(drawn.double().mean())
    assert share == pytest.approx(used, abs=0.03)  # of 4000 draws, four standard deviations
    if used < wanted:
        assert share * real == pytest.approx((1 - share) * made, rel=0.35)


def test_killed_and_resumed_is_the_same_run(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = disc_pairs(splits=SPLITS)
    config = tiny(steps=6, sample_every=1, checkpoint_every=3)
    whole = segment(data, tmp_path / "whole", [data], config=config)
    add = Selection.add

    def killed(self: Selection, step: int, figures: dict[str, float], network: torch.nn.Module) -> None:
        add(self, step, figures | ({"mDice": 2.0} if step == 5 else {}), network)  # what step 5 said must not survive
        if step == 5:
            raise RuntimeError("killed")

    monkeypatch.setattr(Selection, "add", killed)
    with pytest.raises(RuntimeError, match="killed"):
        segment(data, tmp_path / "run", [data], config=config)
    monkeypatch.setattr(Selection, "add", add)
    with pytest.raises(InputError, match="--resume"):
        segment(data, tmp_path / "run", [data], config=config)
    resumed = segment(data, tmp_path / "run", [data], config=config, resume=True)
    assert resumed == whole
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert (tmp_path / "run" / "validation.jsonl").read_text() == (tmp_path / "whole" / "validation.jsonl").read_text()


@pytest.mark.parametrize("scores", [[0.5, 0.9, 0.3, 0.95], [0.9, 0.5, 0.6, 0.7], [0.1, 0.2, 0.3, 0.25]])
def test_selection_keeps_what_a_resumed_run_may_need(scores: list[float], tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)

    def validate(selection: Selection, step: int, score: float) -> None:
        torch.nn.init.constant_(network.weight, step)
        selection.add(step, {"mDice": score}, network)

    first = Selection(tmp_path)
    for step in (1, 2, 3, 4):
        validate(first, step, scores[step - 1])
        if step == 2:
            (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    second = Selection(tmp_path)  # goes on from step 2; steps 3 and 4 now come out worse than all
    for step in (3, 4):
        validate(second, step, 0.0)
    best = second.finish(network)
    assert best["step"] == 1 + int(np.argmax(scores[:2]))
    assert network.weight.item() == best["step"]
    assert Selection(tmp_path).finish(network)["step"] == best["step"]


def test_selection_forgets_a_start_that_left_no_checkpoint(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    Selection(tmp_path).add(1, {"mDice": 0.9}, network)
    fresh = Selection(tmp_path)
    fresh.add(2, {"mDice": 0.1}, network)
    assert fresh.best()["step"] == 2
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-000002.safetensors"]


def test_a_finished_run_is_returned_and_never_mixed_up(
    disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = disc_pairs(splits=SPLITS), tmp_path / "run"
    config = tiny(steps=2)
    metrics = segment(data, out, [data], config=config)
    monkeypatch.setattr("siamese_diffusion.loop.run", lambda *args, **kwargs: pytest.fail("trained again"))
    assert segment(data, out, [data], config=config, resume=True) == metrics
    with pytest.raises(InputError, match="already holds a run"):
        segment(data, out, [data], config=config)
    with pytest.raises(InputError, match=r"segment\.steps = 3: .* says 2"):
        segment(data, out, [data], config=tiny(steps=3), resume=True)
    with pytest.raises(InputError, match="begun from other input"):
        segment(
            data, out, [data], synthetic=[disc_pairs(name="made", seed=1)], config=config, resume=True, arms="mixed"
        )


def test_runs_of_one_process_may_differ_in_precision(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs(splits=SPLITS)
    for precision in ("bf16", "no"):
        metrics = segment(data, tmp_path / precision, [], config=tiny(steps=2, precision=precision), device="cpu")
        assert 0 <= metrics["val"]["mDice"] <= 1


def test_scores_at_the_masks_own_size(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, large = disc_pairs(splits=SPLITS), disc_pairs(name="large", resolution=48, count=3, seed=4)
    runs = {}
    for where in ("input", "native"):
        runs[where] = segment(data, tmp_path / where, [large], config=tiny(score_at=where))
    assert runs["input"]["val"] == runs["native"]["val"]
    inside, native = (runs[where]["test"]["large"] for where in ("input", "native"))
    assert inside["meanDic"] != native["meanDic"]
    network = load_network(tmp_path / "native")
    seen = probabilities(network, load(DataFolder(large).pairs(), 32).images)
    masks = load(DataFolder(large).pairs(), 48).masks
    resized = torch.nn.functional.interpolate(torch.from_numpy(seen)[:, None], size=(48, 48), mode="bilinear")[:, 0]
    assert score(resized, torch.from_numpy(masks), field=True).means() == pytest.approx(native, abs=1e-4)


def test_selection_never_sees_the_test_set(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs(splits=SPLITS)
    misleading = disc_pairs(name="other", seed=3, shift=8)
    runs = [
        segment(data, tmp_path / str(i), tests, config=tiny()) for i, tests in enumerate([[data], [misleading], []])
    ]
    assert len({(run["step"], run["val"]["mDice"]) for run in runs}) == 1
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))
    assert runs[0]["test"] != runs[1]["test"]
    assert runs[2]["test"] == {}
    assert runs[2]["mean"] is None


def test_test_images_among_the_training_pairs_are_refused(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs()
    with pytest.raises(InputError, match="among the training pairs"):
        segment(data, tmp_path / "run", [data], config=tiny())


def test_without_a_val_split_a_share_of_the_training_pairs_validates(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data, test = disc_pairs(count=10), disc_pairs(name="test", seed=2, count=3)
    metrics = segment(data, tmp_path / "run", [test], config=tiny(steps=2, validation=0.3))
    assert (metrics["train"]["real"], metrics["val"]["count"], metrics["test"]["test"]["count"]) == (7, 3, 3)
    folder = DataFolder(data)
    first, second, third = (
        [pair.name for pair in train_and_validation(folder, folder.pairs(), 0.3, seed)[1]] for seed in (0, 0, 1)
    )
    assert first == second != third


def test_bad_input_names_what_is_wrong(disc_pairs: DiscPairs, tmp_path: Path) -> None:
    data = disc_pairs(splits=SPLITS)
    with pytest.raises(InputError, match=r"--network nnet: no such network; .*unet"):
        segment(data, tmp_path / "run", [data], config=tiny(), network="nnet")
    with pytest.raises(InputError, match=r"segment.resolution = 48"):
        segment(data, tmp_path / "run", [data], config=tiny(resolution=48))
    with pytest.raises(InputError, match="nowhere"):
        segment(data, tmp_path / "run", [tmp_path / "nowhere"], config=tiny())
    with pytest.raises(InputError, match="already given"):
        segment(data, tmp_path / "run", [data, data], config=tiny())
    with pytest.raises(InputError, match="not a finished run"):
        load_network(tmp_path)
