"""The forward process: conversions between predictions, weights of timesteps, and schedules that end in noise."""

from pathlib import Path

import pytest
import torch
from tiny import TINY
from torch import Tensor

from siamese_diffusion.config import BackboneConfig, build_config, load_config, merge
from siamese_diffusion.diffusion.backbone import Backbone, load_backbone, small_backbone
from siamese_diffusion.diffusion.sampler import denoise, make_solver
from siamese_diffusion.diffusion.schedule import Schedule
from siamese_diffusion.errors import InputError

ALPHAS = torch.linspace(0.999, 0.001, 1000)
TIMES = torch.tensor([0, 200, 500, 800, 999])


def errors(prediction: str, min_snr: float | None) -> Tensor:
    """Weighted squared errors, at TIMES, of networks that mistake z0 by the same."""
    random = torch.Generator().manual_seed(0)
    clean, noise, mistake = (torch.randn(len(TIMES), 4, 8, 8, generator=random) for _ in range(3))
    schedule = Schedule(ALPHAS, prediction)
    noisy = schedule.add_noise(clean, noise, TIMES)
    signal, spread = schedule.scales(TIMES)
    thought = (noisy - signal * (clean + mistake)) / spread
    predicted = schedule.target(clean + mistake, thought, TIMES)
    squares = (predicted - schedule.target(clean, noise, TIMES)).square().mean((1, 2, 3))
    weights = schedule.weights(TIMES, min_snr)
    return squares if weights is None else weights * squares


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weighs_an_error_in_z0_alike_whatever_is_predicted(gamma: float) -> None:
    snr = ALPHAS[TIMES] / (1 - ALPHAS[TIMES])
    assert (snr > gamma).any()
    assert (snr < gamma).any()
    expected = snr.clamp(max=gamma) * 1.0
    random = torch.Generator().manual_seed(0)
    mistake = [torch.randn(len(TIMES), 4, 8, 8, generator=random) for _ in range(3)][2]
    expected = expected * mistake.square().mean((1, 2, 3))
    for prediction in ("epsilon", "v_prediction"):
        torch.testing.assert_close(errors(prediction, gamma), expected, rtol=1e-3, atol=1e-5)


def test_without_it_there_are_no_weights() -> None:
    assert Schedule(ALPHAS, "v_prediction").weights(TIMES, None) is None


def test_weights_are_finite_where_the_input_is_noise_alone() -> None:
    weights = Schedule(torch.tensor([1.0, 0.5, 0.0]), "v_prediction").weights(torch.arange(3), 5.0)
    assert weights is not None
    assert weights.tolist() == [0.0, 0.5, 0.0]


def backbone(**settings: object) -> Backbone:
    config = build_config(merge(TINY, {"backbone": settings}), "test")
    return small_backbone(config.backbone, torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "scaled_linear"])
def test_zero_terminal_snr_ends_in_noise_alone_and_begins_as_before(schedule: str) -> None:
    plain, rescaled = (backbone(schedule=schedule, zero_snr=on).scheduler.alphas_cumprod for on in (False, True))
    assert rescaled[-1] == 0
    assert plain[-1] > 0
    torch.testing.assert_close(rescaled[0], plain[0])
    # sqrt(abar) is shifted by its last value and scaled: algorithm 1 of arXiv 2305.08891
    roots = plain.double().sqrt()
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    torch.testing.assert_close(rescaled.double().sqrt(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "scaled_linear"])
@pytest.mark.parametrize("solver", ["ddim", "dpm", "unipc"])
def test_every_solver_finds_the_images_from_noise_alone(schedule: str, solver: str) -> None:
    scheduler = backbone(schedule=schedule, zero_snr=True).scheduler
    model = Schedule(scheduler.alphas_cumprod, "v_prediction")
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def knows(noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The v of a network that knows which images it draws."""
        signal, spread = model.scales(timesteps)
        return signal * (noisy - signal * clean) / spread.clamp_min(1e-6) - spread * clean

    drawn = denoise(knows, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), scheduler, solver, 20)
    torch.testing.assert_close(drawn, clean, rtol=0.05, atol=0.1)


def test_sampling_begins_at_the_last_timestep_where_that_is_noise_alone() -> None:
    for on, first in ((True, 999), (False, 981)):
        solver = make_solver(backbone(zero_snr=on).scheduler, "ddim")
        solver.set_timesteps(50)
        assert int(solver.timesteps[0]) == first


def test_it_is_kept_with_the_backbone(tmp_path: Path) -> None:
    backbone(zero_snr=True).save(tmp_path / "b")
    loaded = load_backbone(tmp_path / "b").scheduler
    assert loaded.alphas_cumprod[-1] == 0
    assert loaded.config.timestep_spacing == "trailing"


def test_it_is_refused_where_noise_is_predicted() -> None:
    with pytest.raises(InputError, match=r"backbone\.zero_snr needs backbone\.prediction=v_prediction"):
        load_config(None, ["backbone.zero_snr=true", "backbone.prediction=epsilon"])
    assert not BackboneConfig().zero_snr
