import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DiscPairs
from safetensors.torch import load_file
from torch import Tensor, nn

from siamese_diffusion.config import Config, SegmentConfig, build_config, dump_config, load_config, update
from siamese_diffusion.errors import InputError
from siamese_diffusion.network_recipes import NETWORK_RECIPES
from siamese_diffusion.optimizer import make_optimizer
from siamese_diffusion.randomness import generator
from siamese_diffusion.segmentation import networks
from siamese_diffusion.segmentation.batches import Arrays, Donors, batches
from siamese_diffusion.segmentation.best_step import Selection
from siamese_diffusion.segmentation.colour import statistics
from siamese_diffusion.segmentation.segment import segment

SPLITS = {"train": [f"{i:03d}" for i in range(8)], "val": ["008", "009"], "test": ["010", "011"]}


class Pixelwise(nn.Module):
    """The smallest network of the contract, with a part that passes for a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.bkbone = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.predict = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.predict(self.drop(self.bkbone(images).relu()))
        return logits


def hesitant() -> Pixelwise:
    """Finds the discs, which alone are redder than 0.45, without being sure of them."""
    network = Pixelwise()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.bkbone.weight[0, 0, 1, 1] = 1.0
        network.predict.weight[0, 0] = 8.0
        network.predict.bias.fill_(-3.6)  # type: ignore[union-attr]
    return network


class TestSettings:
    def test_a_network_brings_its_recipe(self) -> None:
        config = load_config(None, ["segment.network=sanet"]).segment
        assert (config.resolution, config.optimizer, config.learning_rate, config.loss) == (352, "sgd", 0.4, "sanet")
        assert config.sample_every == 500
        assert config.keep == SegmentConfig().keep

    @pytest.mark.parametrize("name", networks.names())
    def test_every_recipe_is_valid_and_every_value_of_it_can_be_overridden(self, name: str) -> None:
        assert NETWORK_RECIPES.keys() <= set(networks.names())
        plain = SegmentConfig()
        config = SegmentConfig(network=name)
        assert name in NETWORK_RECIPES or config.model_dump(exclude={"network"}) == plain.model_dump(
            exclude={"network"}
        )
        for key, value in NETWORK_RECIPES.get(name, {}).items():
            assert getattr(config, key) == value
            other = {"encoder": "resnet18", "architecture": "FPN", "weights": "imagenet"}.get(key, getattr(plain, key))
            values = {"segment": {"network": name, key: other}}
            assert getattr(build_config(values, "test").segment, key) == other

    def test_what_is_set_stays_when_the_network_changes(self) -> None:
        config = build_config({"segment": {"steps": 7, "learning_rate": 0.001}}, "test")
        changed = update(config, "segment", network="polyp_pvt").segment
        assert (changed.steps, changed.learning_rate, changed.resolution, changed.clip_value) == (7, 0.001, 352, 0.5)
        back = update(update(config, "segment", network="polyp_pvt"), "segment", network="unet")
        assert back == config

    def test_the_defaults_of_the_unet_are_what_they_were(self) -> None:
        config = SegmentConfig()
        assert (config.resolution, config.steps, config.batch_size, config.learning_rate) == (96, 600, 16, 1e-3)
        assert (config.loss, config.augmentation, config.multiscale, config.optimizer) == (
            "bce-dice",
            "affine",
            "none",
            "adamw",
        )
        assert (config.colour_exchange, config.halve_at, config.clip_value, config.pretrained) == (0, (), None, False)

    def test_resolved_settings_are_written_and_read_back(self, tmp_path: Path) -> None:
        config = load_config(None, ["segment.network=ctnet", "segment.steps=5"])
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "config.yaml") == config

    def test_a_wrong_value_is_named(self) -> None:
        with pytest.raises(InputError, match=r"segment.loss = 'hinge'"):
            load_config(None, ["segment.network=sanet", "segment.loss=hinge"])
        with pytest.raises(InputError, match=r"unknown setting segment.clip_valu .*segment.clip_value"):
            load_config(None, ["segment.clip_valu=1"])


class TestBatches:
    @staticmethod
    def arrays(count: int = 6, side: int = 64) -> Arrays:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return Arrays(images, np.repeat(np.repeat(random.random((count, side // 8, side // 8)) < 0.5, 8, 1), 8, 2))

    @staticmethod
    def settings(**values: Any) -> SegmentConfig:
        return SegmentConfig(**{"resolution": 64, "batch_size": 4, "steps": 60, "augmentation": "none"} | values)

    def test_cycle_uses_each_batch_at_every_size(self) -> None:
        batch_at = batches(self.arrays(), None, self.settings(multiscale="cycle", scales=(0.5, 1.0, 1.5)))
        whole = batches(self.arrays(), None, self.settings())
        for turn in range(3):
            sizes = [batch_at(3 * turn + i, range(4)) for i in range(3)]
            assert [batch["images"].shape[-1] for batch in sizes] == [32, 64, 96]
            assert [batch["masks"].shape[-1] for batch in sizes] == [32, 64, 96]
            assert torch.equal(sizes[1]["images"], whole(turn, range(4))["images"])
            torch.testing.assert_close(sizes[0]["images"][..., 0, 0], sizes[1]["images"][..., 0, 0])

    def test_sizes_are_drawn_by_their_weights_and_from_the_step_alone(self) -> None:
        settings = self.settings(
            multiscale="drawn", scales=(0.5, 1.0), scale_weights=(0.2, 0.8), steps=300, batch_size=1
        )
        batch_at = batches(self.arrays(), None, settings)
        sides = [batch_at(step, range(1))["images"].shape[-1] for step in range(300)]
        assert set(sides) == {32, 64}
        assert sides.count(32) / 300 == pytest.approx(0.2, abs=0.07)
        assert [batch_at(step, range(1))["images"].shape[-1] for step in (7, 3)] == [sides[7], sides[3]]
        masks = batch_at(sides.index(32), range(1))["masks"]
        assert set(masks.unique().tolist()) <= {0.0, 1.0}

    def test_weights_must_fit_the_scales(self) -> None:
        with pytest.raises(InputError, match=r"segment.scale_weights: 1 for 2 of segment.scales"):
            batches(self.arrays(), None, self.settings(multiscale="drawn", scales=(0.5, 1.0), scale_weights=(1.0,)))

    def test_recipe_sizes_at_full_and_at_small_resolution(self) -> None:
        for name, resolution, expected in (
            ("sanet", 352, {256, 288, 320, 352}),
            ("polyp_pvt", 352, {256, 352, 448}),
            ("polyp_pvt", 96, {64, 96, 128}),
        ):
            settings = SegmentConfig(network=name, resolution=resolution, batch_size=1, steps=40, colour_exchange=0)
            image = Arrays(
                np.zeros((1, resolution, resolution, 3), np.uint8), np.zeros((1, resolution, resolution), bool)
            )
            batch_at = batches(image, None, settings)
            assert {batch_at(step, range(1))["images"].shape[-1] for step in range(40)} == expected

    def test_colours_are_exchanged_with_real_images_and_rows_are_parts_of_the_batch(self) -> None:
        real, made = self.arrays(), self.arrays(3)
        settings = self.settings(colour_exchange=1.0, colour_overflow="clip", steps=20)
        names = ["12", "7", "a", "b", "c", "d"]
        batch_at = batches(real, made, settings, names)
        plain = batches(real, made, self.settings(steps=20))
        donors = np.stack([statistics(image).mean for image in real.images])
        for step in range(4):
            batch = batch_at(step, range(4))
            assert torch.equal(batch["masks"], plain(step, range(4))["masks"])
            assert torch.equal(batch["images"][1:3], batch_at(step, range(1, 3))["images"])
            for image in batch["images"]:
                pixels = (image * 255).round().to(torch.uint8).movedim(0, 2).numpy()
                assert np.abs(statistics(np.ascontiguousarray(pixels)).mean - donors).max(1).min() < 8
        half = batches(real, None, self.settings(colour_exchange=0.5, steps=20))
        unchanged = batches(real, None, self.settings(steps=20))
        same = [
            torch.equal(a, b)
            for step in range(20)
            for a, b in zip(half(step, range(4))["images"], unchanged(step, range(4))["images"], strict=True)
        ]
        assert 0.3 < np.mean(same) < 0.7

    @pytest.mark.parametrize(
        ("names", "expected"), [(["1", "22", "a", "b"], (0.35, 0.15)), (["1", "2", "3", "4"], (0.25, 0.25))]
    )
    def test_donors_come_from_two_lists(self, names: list[str], expected: tuple[float, float]) -> None:
        images = self.arrays(4, 32).images
        donors = Donors(images, names)
        settings = self.settings(colour_exchange=1.0)
        image = torch.from_numpy(images[0]).movedim(2, 0)
        results = [donors.recolour(image, settings, generator(0, i)) for i in range(300)]
        kinds = [next(j for j, other in enumerate(results) if torch.equal(result, other)) for result in results]
        shares = sorted((kinds.count(kind) / 300 for kind in set(kinds)), reverse=True)
        assert len(shares) == 4
        assert np.mean(shares[:2]) == pytest.approx(expected[0], abs=0.06)
        assert np.mean(shares[2:]) == pytest.approx(expected[1], abs=0.06)


def test_sgd_is_nesterovs_with_groups_at_their_own_rates() -> None:
    settings = SegmentConfig(network="sanet")
    optimizer = make_optimizer(Pixelwise(), settings, lambda name: 0.1 if name.startswith("bkbone.") else 1.0)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.04, 0.4])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)


@pytest.fixture
def pixelwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is the smallest one."""
    monkeypatch.setattr(networks, "create", lambda name, pretrained=False: Pixelwise())


@pytest.mark.usefixtures("pixelwise")
class TestTraining:
    @staticmethod
    def config(**values: Any) -> Config:
        small = {
            "resolution": 32,
            "steps": 8,
            "batch_size": 4,
            "sample_every": 4,
            "checkpoint_every": 4,
            "pretrained": False,
        }
        return build_config({"segment": {"network": "sanet", **small, **values}}, "test")

    def test_the_recipe_reaches_the_optimiser(
        self, disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = disc_pairs(splits=SPLITS)
        rates: list[list[float]] = []
        step = torch.optim.SGD.step

        def watched(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return step(self, *args, **kwargs)

        monkeypatch.setattr(torch.optim.SGD, "step", watched)
        segment(data, tmp_path / "run", [data], config=self.config(learning_rate=0.01, halve_at=(0.5, 0.75)))
        assert rates == [pytest.approx([0.001 * f, 0.01 * f]) for f in (1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25)]
        rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert any({"total", "bce", "dice"} <= row.keys() for row in rows)
        settings = load_config(tmp_path / "run" / "config.yaml").segment
        assert (settings.weight_decay, settings.multiscale, settings.correction) == (5e-4, "drawn", True)

    def test_gradients_are_clipped_entry_by_entry(
        self, disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = disc_pairs(splits=SPLITS)
        largest: list[float] = []
        step = torch.optim.AdamW.step

        def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
            gradients = [
                entry.grad for group in self.param_groups for entry in group["params"] if entry.grad is not None
            ]
            largest.append(max(float(gradient.abs().max()) for gradient in gradients))
            return step(self, *args, **kwargs)

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)
        for limit in (None, 1e-4):
            config = self.config(network="polyp_pvt", clip_value=limit)
            segment(data, tmp_path / str(limit), [data], config=config)
        assert min(largest[:8]) > 2e-4
        assert max(largest[8:]) <= 1e-4 * (1 + 1e-6)

    @pytest.mark.parametrize("network", ["sanet", "polyp_pvt", "unet_plain"])
    def test_killed_and_resumed_is_the_same_run(
        self, network: str, disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, made = disc_pairs(splits=SPLITS), disc_pairs(name="made", seed=1)
        config = self.config(network=network, sample_every=1, checkpoint_every=3)
        whole = segment(data, tmp_path / "whole", [data], [made], config=config, arms="mixed")
        add = Selection.add

        def killed(self: Selection, step: int, figures: dict[str, float], network: nn.Module) -> None:
            add(self, step, figures, network)
            if step == 5:
                raise RuntimeError("killed")

        monkeypatch.setattr(Selection, "add", killed)
        with pytest.raises(RuntimeError, match="killed"):
            segment(data, tmp_path / "run", [data], [made], config=config, arms="mixed")
        monkeypatch.setattr(Selection, "add", add)
        assert segment(data, tmp_path / "run", [data], [made], config=config, resume=True, arms="mixed") == whole
        ends = [tmp_path / run / "checkpoints" / "step-000008" / "model.safetensors" for run in ("run", "whole")]
        first, second = (load_file(path) for path in ends)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_correction_sharpens_the_maps_that_are_scored_and_no_mask(
        self, disc_pairs: DiscPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(networks, "create", lambda name, pretrained=False: hesitant())
        data = disc_pairs(splits=SPLITS)
        scores = {}
        for on in (True, False):
            config = self.config(steps=2, sample_every=2, learning_rate=1e-9, correction=on)  # it stays what it was
            scores[on] = segment(data, tmp_path / str(on), [data], config=config)["mean"]
        assert scores[True]["mDice"] == scores[False]["mDice"] == pytest.approx(1)
        assert scores[True]["meanDic"] > scores[False]["meanDic"]

    def test_a_rate_of_an_encoder_that_is_not_there_is_refused(self, disc_pairs: DiscPairs, tmp_path: Path) -> None:
        data = disc_pairs(splits=SPLITS)
        with pytest.raises(InputError, match=r"segment.backbone_rate = 0.1: unet_plain has no encoder"):
            segment(data, tmp_path / "run", [data], config=self.config(network="unet_plain", backbone_rate=0.1))


@pytest.mark.parametrize("online", [True, False])
def test_imagenet_weights_where_they_can_be_had(
    online: bool,
    disc_pairs: DiscPairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = disc_pairs(splits=SPLITS)
    asked: list[bool] = []

    def create(name: str, pretrained: bool = False) -> nn.Module:
        asked.append(pretrained)
        if pretrained and not online:
            raise InputError(
                "segment.pretrained: the ImageNet weights of sanet cannot be downloaded (no route); set ..."
            )
        return Pixelwise()

    monkeypatch.setattr(networks, "create", create)
    config = TestTraining.config(steps=2, pretrained="auto")
    assert segment(data, tmp_path / "run", [data], config=config)["imagenet"] is online
    told = "cannot be downloaded (no route); sanet starts from random weights" in capsys.readouterr().err
    assert told != online
    assert asked == ([True] if online else [True, False])
    (tmp_path / "run" / "metrics.json").unlink()
    assert segment(data, tmp_path / "run", [data], config=config, resume=True)["imagenet"] is online
    assert asked[-1] is False  # the checkpoint has the weights
    if not online:
        with pytest.raises(InputError, match="cannot be downloaded"):
            segment(data, tmp_path / "must", [data], config=TestTraining.config(steps=2, pretrained=True))


def test_halving_counts_whole_epochs() -> None:
    settings = SegmentConfig(network="sanet")
    epoch = settings.steps // 128
    assert [share * settings.steps for share in settings.halve_at] == [63 * epoch, 95 * epoch]
