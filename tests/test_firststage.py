import pytest
import torch
from torch import Tensor

from siamese_diffusion.diffusion.firststage import PatchAutoencoder, fit, psnr


def smooth_images(count: int = 40, side: int = 32, seed: int = 0) -> Tensor:
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("patch", [4, 8])
def test_all_components_reconstruct_exactly(patch: int) -> None:
    images = smooth_images()
    model = fit(images, patch, 3 * patch * patch, whitening=0, noise=1e-4)
    assert psnr(model, images) > 50


def test_more_channels_are_closer_on_images_it_never_saw() -> None:
    model = [fit(smooth_images(seed=0), 4, channels) for channels in (3, 8)]
    held_out = smooth_images(seed=1)
    assert psnr(model[1], held_out) > psnr(model[0], held_out) + 1


def test_whitening_sets_the_latents_variance() -> None:
    images = smooth_images()
    for whitening in (0.0, 0.5, 1.0):
        latents = fit(images, 4, 8, whitening).encode(images).latent_dist.mean.detach()
        spread = latents.std((0, 2, 3))
        assert latents.mean((0, 2, 3)).abs().max() < 1e-3
        assert spread.square().mean() == pytest.approx(1, abs=0.02)
        if whitening == 1:
            torch.testing.assert_close(spread, torch.ones(8), rtol=0.02, atol=0.02)
        else:
            assert spread[0] > 1.5 * spread[-1]


def test_decoder_expecting_noise_is_better_under_noise() -> None:
    images = smooth_images()
    careful, exact = fit(images, 4, 8, noise=0.5), fit(images, 4, 8, noise=1e-3)
    latents = careful.encode(images).latent_dist.mean.detach()
    noisy = latents + 0.5 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    error = [(model.decode(noisy).sample - images).square().mean() for model in (careful, exact)]
    assert error[0] < 0.8 * error[1]


def test_saves_and_loads(tmp_path: object) -> None:
    images = smooth_images(8)
    model = fit(images, 4, 8)
    model.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path)
    torch.testing.assert_close(
        again.decode(again.encode(images).latent_dist.sample()).sample,
        model.decode(model.encode(images).latent_dist.mode()).sample,
    )
