"""The learned first stage: the network, its objective, and its training."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY
from torch import Tensor

from siamese_diffusion import imagenet
from siamese_diffusion.config import Config, build_config, load_config, merge
from siamese_diffusion.data.arrays import Images, to_tensor
from siamese_diffusion.diffusion.autoencoder import ConvAutoencoder
from siamese_diffusion.diffusion.backbone import load_backbone
from siamese_diffusion.diffusion.firststage import PatchAutoencoder, fit
from siamese_diffusion.diffusion.pretrain import pretrain
from siamese_diffusion.diffusion.reconstruction import (
    Crops,
    Reconstruction,
    feature_distance,
    fine_detail,
    require_features,
    train_first_stage,
)
from siamese_diffusion.diffusion.train import train
from siamese_diffusion.errors import InputError
from siamese_diffusion.files import read_jsonl

needs_imagenet = pytest.mark.skipif(
    imagenet.installed(imagenet.LITE0, imagenet.PACKAGES[imagenet.LITE0]) is None, reason="needs the extra imagenet"
)


@pytest.fixture(scope="module")
def images() -> Images:
    coarse = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)
    return ((smooth + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def linear(images: Images) -> PatchAutoencoder:
    return fit(to_tensor(images), 4, 8, 0.5)


def settings(*given: str, **sections: Any) -> Config:
    base = {"backbone": {"first_stage": "learned"}, "first_stage": {"width": 8, "crop": 32, "batch_size": 4}}
    small = {"first_stage": {"steps": 4, "log_every": 1, "warmup": 0, "perceptual": 0, "checkpoint_every": 2}}
    return build_config(merge(TINY, base, small, sections), "test")


def network(linear: PatchAutoencoder, patch: int = 4) -> ConvAutoencoder:
    torch.manual_seed(0)
    vae: ConvAutoencoder = ConvAutoencoder(
        patch=patch, latent_channels=8, width=16, block_out_channels=(1,) * patch.bit_length()
    )
    if patch == 4:
        vae.linear.load_state_dict(linear.state_dict())
    return vae


class TestNetwork:
    def test_it_begins_as_the_linear_one(self, images: Images, linear: PatchAutoencoder) -> None:
        vae, pixels = network(linear), to_tensor(images)
        latents = vae.encode(pixels).latent_dist.mode()
        assert torch.equal(latents, linear.encode(pixels).latent_dist.mode())
        assert torch.equal(vae.decode(latents).sample, linear.decode(latents).sample)

    @pytest.mark.parametrize("patch", [2, 4, 8, 16])
    def test_every_patch_gives_the_image_back_at_its_size(self, linear: PatchAutoencoder, patch: int) -> None:
        vae = network(linear, patch)
        latents = vae.encode(torch.zeros(1, 3, 32, 48)).latent_dist.sample()
        assert latents.shape == (1, 8, 32 // patch, 48 // patch)
        assert vae.decode(latents, return_dict=False)[0].shape == (1, 3, 32, 48)

    def test_a_part_of_an_image_is_coded_as_the_whole_is(self, linear: PatchAutoencoder) -> None:
        vae = randomised(network(linear))
        whole = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
        latents = vae.encode(whole).latent_dist.mode()[..., 8:16, 8:16]
        part = vae.encode(whole[..., 8:88, 8:88]).latent_dist.mode()[..., 6:14, 6:14]
        torch.testing.assert_close(part, latents, rtol=1e-4, atol=1e-4)

    def test_saves_and_loads(self, tmp_path: Path, linear: PatchAutoencoder, images: Images) -> None:
        vae = randomised(network(linear))
        vae.register_to_config(scaling_factor=0.5)
        vae.save_pretrained(tmp_path)
        again = ConvAutoencoder.from_pretrained(tmp_path)
        assert again.config.scaling_factor == 0.5
        pixels = to_tensor(images)
        assert torch.equal(again.encode(pixels).latent_dist.mode(), vae.encode(pixels).latent_dist.mode())


def linear_names(linear: PatchAutoencoder) -> dict[str, Tensor]:
    return {f"linear.{name}": value for name, value in linear.state_dict().items()}


def randomised(vae: ConvAutoencoder) -> ConvAutoencoder:
    torch.manual_seed(1)
    for part in (vae.encoder, vae.decoder):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, 0, 0.05)
    return vae


class TestObjective:
    def test_its_terms_are_what_they_say(self, images: Images, linear: PatchAutoencoder) -> None:
        config = settings(first_stage={"texture": 0.5, "noise": 0.2}).first_stage
        module, pixels = Reconstruction(randomised(network(linear)), config), to_tensor(images)
        error = torch.randn(12, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        losses = module(pixels, error)
        back = module.vae.decode(module.vae.encode(pixels).latent_dist.mode() + 0.2 * error).sample
        torch.testing.assert_close(losses.pixels, (back - pixels).abs().mean())
        torch.testing.assert_close(losses.texture, (fine_detail(back) - fine_detail(pixels)).abs().mean())
        assert losses.perceptual == 0
        torch.testing.assert_close(losses.total, losses.pixels + 0.5 * losses.texture)

    @needs_imagenet
    def test_the_perceptual_term_reaches_the_code_and_no_feature(
        self, images: Images, linear: PatchAutoencoder
    ) -> None:
        config = settings(first_stage={"perceptual": 1.0, "texture": 0, "noise": 0}).first_stage
        module = Reconstruction(randomised(network(linear)), config)
        losses = module(to_tensor(images[:2]), torch.zeros(2, 8, 8, 8))
        torch.testing.assert_close(losses.total, losses.pixels + losses.perceptual)
        losses.perceptual.backward()
        reached = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert {name.rsplit(".", 1)[0] for name in reached} >= {"vae.encoder.1", "vae.decoder.0"}
        assert not any(name.startswith(("vae.linear", "features")) for name in reached)

    def test_distance_is_of_directions(self) -> None:
        maps = [torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
        assert float(feature_distance(maps, [3 * each for each in maps])) == pytest.approx(0, abs=1e-9)
        assert float(feature_distance(maps, [-each for each in maps])) == pytest.approx(8, rel=1e-5)

    def test_a_blurred_image_has_less_fine_detail(self) -> None:
        sharp = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
        assert float((fine_detail(sharp) - 2 * fine_detail(blurred)).min()) > 0
        assert fine_detail(sharp).shape == (1, 1, 6, 6)
        torch.testing.assert_close(fine_detail(torch.zeros(1, 3, 32, 32)), torch.full((1, 1, 6, 6), 0.01))


class TestCrops:
    def crops(self, images: Images, **section: Any) -> Crops:
        config = settings(data={"flip": "both"}, first_stage={"batch_size": 6, **section})
        return Crops(np.concatenate([images] * 2, 1).repeat(2, 2), np.array([1, 3, 5]), config)

    def test_rows_do_not_depend_on_how_the_batch_is_split(self, images: Images) -> None:
        crops = self.crops(images)
        whole, parts = crops(2, range(6)), [crops(2, range(i, i + 2)) for i in (0, 2, 4)]
        for name, value in whole.items():
            assert torch.equal(value, torch.cat([part[name] for part in parts]))
        assert not torch.equal(whole["images"], crops(3, range(6))["images"])

    def test_they_are_of_the_chosen_images_and_of_their_size(self, images: Images) -> None:
        plain = np.zeros((6, 48, 48, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
        crops = Crops(plain, np.array([1, 3, 5]), settings(first_stage={"crop": 42, "batch_size": 9}))
        batch = crops(0, range(9))
        assert batch["images"].shape == (9, 3, 40, 40)
        assert batch["error"].shape == (9, 8, 10, 10)
        assert {round(float(each.mean() + 1) * 127.5) for each in batch["images"]} == {1, 3, 5}


class TestTraining:
    def trained(self, images: Images, linear: PatchAutoencoder, out: Path, **sections: Any) -> ConvAutoencoder:
        return train_first_stage(linear, images, np.arange(10), out, settings(**sections), "cpu")

    def test_it_goes_on_where_it_was(self, tmp_path: Path, images: Images, linear: PatchAutoencoder) -> None:
        keep = {"first_stage": {"keep": 2}}
        whole = self.trained(images, linear, tmp_path / "a", **keep)
        begun = load_file(tmp_path / "a/checkpoints/step-000002/model.safetensors")
        begun = {name.removeprefix("vae."): value for name, value in begun.items()} | linear_names(linear)
        shutil.rmtree(tmp_path / "a/checkpoints/step-000004")
        again = self.trained(images, linear, tmp_path / "a", **keep)
        assert [row["step"] for row in read_jsonl(tmp_path / "a/log.jsonl")] == [1, 2, 3, 4]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        assert whole.config.scaling_factor == again.config.scaling_factor
        moved = [name for name, value in whole.state_dict().items() if not torch.equal(value, begun[name])]
        assert {name.partition(".")[0] for name in moved} == {"encoder", "decoder"}

    def test_the_linear_part_stays_and_the_latents_have_unit_variance(
        self, tmp_path: Path, images: Images, linear: PatchAutoencoder
    ) -> None:
        vae = self.trained(images, linear, tmp_path)
        for name, value in linear.state_dict().items():
            assert torch.equal(value, vae.linear.state_dict()[name])
        latents = vae.encode(to_tensor(images[:10])).latent_dist.mode() * vae.config.scaling_factor
        assert float(latents.std()) == pytest.approx(1, abs=1e-4)

    @needs_imagenet
    def test_pretrain_and_train_use_it(self, tmp_path: Path, pairs: Path) -> None:
        config = settings(first_stage={"perceptual": 0.3})
        found = pretrain(pairs, tmp_path / "b", config, device="cpu")
        backbone = load_backbone(tmp_path / "b/backbone")
        assert type(backbone.vae) is ConvAutoencoder
        assert found["psnr"] > 0
        assert {"pixels", "perceptual", "texture", "total"} <= set(read_jsonl(tmp_path / "b/first-stage/log.jsonl")[0])
        resumed = pretrain(pairs, tmp_path / "b", config, resume=True, device="cpu")
        assert resumed == found
        with pytest.raises(InputError, match=r"first_stage\.noise"):
            pretrain(pairs, tmp_path / "b", settings(first_stage={"perceptual": 0.3, "noise": 0.5}), resume=True)
        train(pairs, tmp_path / "r", str(tmp_path / "b"), config=config, device="cpu")
        from diffusers import StableDiffusionControlNetPipeline

        pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "r/pipeline")
        images: Tensor = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        expected = backbone.vae.encode(images).latent_dist.mode()
        assert torch.equal(pipeline.vae.encode(images).latent_dist.mode(), expected)


@pytest.mark.parametrize("setting", ["backbone.align=0.5", "backbone.first_stage=learned"])
def test_without_the_extra_it_is_refused_in_one_line(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    config = load_config(None, [setting, "data.resolution=32", "data.split=null"])
    monkeypatch.setattr(imagenet, "installed", lambda name, package: None)
    calls: list[Callable[[], Any]] = [
        lambda: pretrain(pairs, tmp_path / "b", config, device="cpu"),
        lambda: train(pairs, tmp_path / "r", "small", config=config, device="cpu"),
    ]
    words = r"is not installed; pip install 'siamese-diffusion\[imagenet\]', or set"
    for call in calls:
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists() or not any((tmp_path / "b").glob("[!.]*"))
    require_features(load_config(None, ["backbone.first_stage=learned", "first_stage.perceptual=0"]))
