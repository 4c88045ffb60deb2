"""Alignment of the UNet's middle block with ImageNet features (REPA)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY, tiny_unet
from torch import Tensor

from siamese_diffusion import imagenet
from siamese_diffusion.config import build_config, merge
from siamese_diffusion.diffusion.pretrain import AlignedLosses, BackboneLosses, Denoiser, pretrain
from siamese_diffusion.diffusion.repa import MEASURED, Alignment, moments, stride_near
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.files import read_jsonl

ALPHAS = torch.linspace(0.999, 0.001, 1000)


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(4, 4, 8, 8, generator=random),
        "noise": torch.randn(4, 4, 8, 8, generator=random),
        "timesteps": torch.tensor([10, 300, 600, 990]),
        "text": torch.randn(4, 5, 8, generator=random),
    }


def alignment(channels: int = 32) -> Alignment:
    torch.manual_seed(0)
    return Alignment(channels, torch.zeros(6), torch.ones(6))


def features(side: int = 4) -> Tensor:
    return torch.randn(4, 6, side, side, generator=torch.Generator().manual_seed(1))


def test_it_is_the_mean_cosine_of_the_positions() -> None:
    module, wanted = alignment(), features()
    hidden = torch.randn(4, 32, 4, 4, generator=torch.Generator().manual_seed(2))
    seen = module.project(hidden)
    cosines = [
        torch.nn.functional.cosine_similarity(seen[b, :, i, j], wanted[b, :, i, j], dim=0)
        for b in range(4)
        for i in range(4)
        for j in range(4)
    ]
    torch.testing.assert_close(module(hidden, wanted), -torch.stack(cosines).mean())
    torch.testing.assert_close(module(hidden, seen.detach() * 3), torch.tensor(-1.0))


def test_features_of_another_size_are_brought_to_the_hidden_states() -> None:
    module = alignment()
    hidden = torch.randn(4, 32, 4, 4, generator=torch.Generator().manual_seed(2))
    flat = features(1).expand(-1, -1, 2, 2)
    torch.testing.assert_close(module(hidden, flat), module(hidden, features(1).expand(-1, -1, 4, 4)))


def test_moments_are_those_of_all_features() -> None:
    values = np.random.default_rng(0).normal(3, 2, (MEASURED + 3, 2, 5, 3, 3)).astype(np.float32)
    mean, std = moments(values)
    np.testing.assert_allclose(mean, values.mean((0, 1, 3, 4)), rtol=1e-4)
    np.testing.assert_allclose(std, values.std((0, 1, 3, 4)), rtol=1e-4)


@pytest.mark.parametrize(("divisor", "stride"), [(4, 8), (8, 8), (16, 16), (32, 32), (64, 32)])
def test_the_stride_is_the_nearest_that_there_is(divisor: int, stride: int) -> None:
    assert stride_near(divisor) == stride


def test_the_loss_is_the_prediction_s_error_and_the_weighted_alignment() -> None:
    unet, schedule = tiny_unet(), Schedule(ALPHAS, "v_prediction")
    plain = Denoiser(unet, schedule)(**batch())
    aligned = Denoiser(unet, schedule, None, alignment(), 0.5)(**batch(), features=features())
    assert isinstance(plain, BackboneLosses)
    assert isinstance(aligned, AlignedLosses)
    torch.testing.assert_close(aligned.prediction, plain.total)
    torch.testing.assert_close(aligned.total, aligned.prediction + 0.5 * aligned.alignment)


def test_the_plain_loss_is_the_mean_squared_error_to_the_bit() -> None:
    unet, schedule, given = tiny_unet(), Schedule(ALPHAS, "v_prediction"), batch()
    noisy = schedule.add_noise(given["latents"], given["noise"], given["timesteps"])
    target = schedule.target(given["latents"], given["noise"], given["timesteps"])
    expected = (unet(noisy, given["timesteps"], given["text"]).sample.float() - target).square().mean()
    assert torch.equal(Denoiser(unet, schedule)(**given).total, expected)


def test_min_snr_weighs_each_sample() -> None:
    unet, schedule, given = tiny_unet(), Schedule(ALPHAS, "v_prediction"), batch()
    single = [
        Denoiser(unet, schedule)(**{name: value[i : i + 1] for name, value in given.items()}).total for i in range(4)
    ]
    weights = schedule.weights(given["timesteps"], 5.0)
    assert weights is not None
    expected = (torch.stack(single) * weights).mean()
    torch.testing.assert_close(Denoiser(unet, schedule, 5.0)(**given).total, expected)


def test_alignment_reaches_what_comes_before_the_middle_and_no_decoder() -> None:
    model = Denoiser(tiny_unet(), Schedule(ALPHAS, "v_prediction"), None, alignment(), 0.5)
    model(**batch(), features=features()).alignment.backward()
    reached = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv_in", "down_blocks", "mid_block", "project"} <= reached
    assert not {"up_blocks", "conv_out", "conv_norm_out"} & reached


@pytest.mark.skipif(
    imagenet.installed(imagenet.LITE0, imagenet.PACKAGES[imagenet.LITE0]) is None, reason="needs the extra imagenet"
)
def test_pretrain_keeps_the_head_in_its_checkpoints_alone(tmp_path: Path, pairs: Path) -> None:
    config = build_config(merge(TINY, {"backbone": {"align": 0.5}}), "test")
    pretrain(pairs, tmp_path / "b", config, device="cpu")
    names = set(load_file(next((tmp_path / "b/checkpoints").glob("step-*")) / "model.safetensors"))
    assert any(name.startswith("alignment.project.") for name in names)
    kept = {name for file in (tmp_path / "b/backbone").rglob("*.safetensors") for name in load_file(file)}
    assert kept
    assert not any("alignment" in name or "project." in name for name in kept)
    row = read_jsonl(tmp_path / "b/log.jsonl")[0]
    assert row["total"] == pytest.approx(row["prediction"] + 0.5 * row["alignment"], rel=1e-4)
    assert not list((tmp_path / "b/cache").glob("features-*"))
    pretrain(pairs, tmp_path / "b", config, resume=True, device="cpu")
