"""Numerical parity with the authors' code, on numbers recorded from a run of it (tests/data/golden)."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import sd15_schedule
from torch import Tensor, nn

from siamese_diffusion.config import load_config
from siamese_diffusion.diffusion.ldm import schedule_buffers, to_original
from siamese_diffusion.diffusion.original import load_original
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.errors import InputError
from siamese_diffusion.optimizer import make_optimizer

FOLDER = Path(__file__).parent / "data/golden"
CONFIG = {"num_heads": 4}


@cache
def stored(name: str) -> dict[str, Tensor]:
    return dict(load_file(FOLDER / f"{name}.safetensors"))


def state() -> dict[str, Tensor]:
    return {key: value.float() for key, value in stored("tiny_state_dict_e5m2").items()}


@pytest.fixture
def model() -> SiameseDiffusion:
    return load_original(state(), unet_config=CONFIG)


def assert_near(actual: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    """Largest difference within `share` of the expected values' RMS."""
    assert actual.shape == expected.shape
    rms = float(expected.float().square().mean().sqrt())
    assert float((actual.detach() - expected).abs().max()) <= share * rms + 1e-12


def test_dense_hint_input(model: SiameseDiffusion) -> None:
    embedding = model.controlnet.controlnet_cond_embedding
    for hint in ("mask", "image"):
        pixels = stored("inputs")[f"{hint}_hint"]
        assert_near(embedding.features(pixels), stored("forward")[f"dhi.features.{hint}"])
        assert_near(embedding(pixels), stored("forward")[f"dhi.guided_hint.{hint}"])


def test_controlnet_and_noise_predictions(model: SiameseDiffusion) -> None:
    inputs, forward = stored("inputs"), stored("forward")
    noisy = model.schedule.add_noise(inputs["z0"], inputs["noise"], inputs["t"])
    assert_near(noisy, forward["x_noisy"])
    t, text = inputs["t"], inputs["context"]
    control = {hint: model.control(noisy, t, text, inputs[f"{hint}_hint"]) for hint in ("mask", "image")}
    for hint, residuals in control.items():
        assert len(residuals) == 5
        for i, residual in enumerate(residuals):
            assert_near(residual, forward[f"controlnet.{hint}.{i:02d}"])
    assert_near(model.predict_noise(noisy, t, text), forward["eps.no_control"])
    assert_near(model.predict_noise(noisy, t, text, control["mask"]), forward["eps.mask_control"])
    mixed_names = [name for name in forward if name.startswith("eps.mixed_control")]
    assert len(mixed_names) > 1
    for name in mixed_names:
        weight = int(name.split("step")[1].split("_")[0]) / 1000
        mixed = [mask + weight * image for mask, image in zip(control["mask"], control["image"], strict=True)]
        assert_near(model.predict_noise(noisy, t, text, mixed), forward[name])


def losses_at(model: SiameseDiffusion, step: int, timesteps: str = "t") -> "tuple[object, dict[str, Tensor]]":
    inputs = stored("inputs")
    losses = model(
        inputs["z0"],
        inputs["noise"],
        inputs[timesteps],
        inputs["context"],
        inputs["mask_hint"],
        inputs["image_hint"],
        step / 1000,
    )
    tag = "" if timesteps == "t" else f"_{timesteps}"
    return losses, stored(f"losses_step{step:04d}{tag}")


@pytest.mark.parametrize(
    ("step", "timesteps"),
    [(0, "t"), (200, "t"), (333, "t"), (334, "t"), (800, "t"), (800, "t_all_above_200")],
)
def test_losses(model: SiameseDiffusion, step: int, timesteps: str) -> None:
    losses, recorded = losses_at(model, step, timesteps)
    for term in ("mask", "image", "consistency"):
        expected = float(recorded[f"loss.{term}.per_sample"].mean())
        assert float(getattr(losses, term)) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    early = (stored("inputs")[timesteps] <= 200).float()
    per_sample = recorded.get("loss.regularization.per_sample", torch.zeros(4))
    assert float(losses.augmentation) == pytest.approx(float((per_sample * early).mean()), rel=1e-5)  # type: ignore[attr-defined]
    assert float(losses.total) == pytest.approx(float(recorded["loss.total"]), rel=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [0, 200, 800])
def test_gradients(model: SiameseDiffusion, step: int) -> None:
    losses, recorded = losses_at(model, step)
    losses.total.backward()  # type: ignore[attr-defined]
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(recorded["grad_norm.global"]), rel=1e-4)
    parameters = under_their_names(model)
    trained = sorted(name for name, parameter in parameters.items() if parameter.requires_grad)
    assert len(trained) == 340
    norms = [
        gradient.norm() if (gradient := parameters[name].grad) is not None else torch.zeros(()) for name in trained
    ]
    torch.testing.assert_close(torch.stack(norms), recorded["grad_norms"], rtol=1e-4, atol=1e-6)
    compared = [name.removeprefix("grad.") for name in recorded if name.startswith("grad.")]
    assert len(compared) == 14
    for name in compared:
        gradient = parameters[name].grad
        assert gradient is not None
        assert_near(gradient, recorded[f"grad.{name}"])


def under_their_names(model: SiameseDiffusion) -> dict[str, nn.Parameter]:
    """The original's name of each parameter, found by numbering them and writing the model in the original's format."""
    parameters = [*model.unet.parameters(), *model.controlnet.parameters()]
    values = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.fill_(i)
        numbered = to_original(model.unet, model.controlnet, model.vae, None)
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    prefixes = ("model.diffusion_model.", "control_model.")
    return {key: parameters[int(value.flatten()[0])] for key, value in numbered.items() if key.startswith(prefixes)}


def test_one_step_of_adamw(model: SiameseDiffusion) -> None:
    before = state()
    optimizer = make_optimizer(model, load_config("sd15-paper").train)
    losses, _ = losses_at(model, 800)
    losses.total.backward()  # type: ignore[attr-defined]
    optimizer.step()
    parameters = under_their_names(model)
    recorded = stored("adamw_one_step")
    assert len(recorded) == 13
    for key, expected in recorded.items():
        name = key.removeprefix("after_step.")
        step, theirs = parameters[name].detach() - before[name], expected - before[name]
        assert float((step - theirs).norm()) <= 3e-3 * float(
            theirs.norm()
        )  # fp32 resolves a weight to 1e-3 of its step


def test_round_trip_is_exact(model: SiameseDiffusion) -> None:
    before = state()
    after = to_original(model.unet, model.controlnet, model.vae, None)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if key in schedule_buffers():
            torch.testing.assert_close(after[key], value, rtol=2e-6, atol=1e-7, msg=key)
        else:
            assert torch.equal(after[key], value), key


def test_vae(model: SiameseDiffusion) -> None:
    inputs, recorded = stored("inputs"), stored("sampling_vae")
    posterior = model.vae.encode(inputs["image_pm1"]).latent_dist
    assert_near(posterior.mean, recorded["vae.mean"])
    assert_near(posterior.std, recorded["vae.std"])
    assert_near(model.vae.decode(inputs["z0"] / 0.18215).sample, recorded["vae.decode_z0"])


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_with_guidance(model: SiameseDiffusion, steps: int) -> None:
    inputs, recorded = stored("inputs"), stored("sampling_vae")
    empty = inputs["uncond_context"].expand_as(inputs["context"])
    with torch.no_grad():
        for guidance, name in ((9.0, "final_latent"), (1.0, "final_latent.no_cfg")):
            predict = guided(model, inputs["mask_hint"], inputs["context"], empty, guidance)
            drawn = denoise(predict, inputs["x_T"], sd15_schedule(), "ddim", steps)
            assert_near(drawn, recorded[f"ddim{steps}.{name}"], 1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("control_model.input_blocks.0.0.bias"), "control_model.input_blocks.0.0.bias is missing"),
        (lambda s: s.update({"control_model.extra": torch.ones(1)}), "control_model.extra is left over"),
        (lambda s: s.update({"unheard.of": torch.ones(1)}), "unheard.of is left over"),
        (
            lambda s: s.update({"model.diffusion_model.out.2.bias": torch.ones(7)}),
            r"out.2.bias has the shape \[7\], expected \[4\]",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(change: object, words: str) -> None:
    changed = state()
    assert callable(change)
    change(changed)
    with pytest.raises(InputError, match=words):
        load_original(changed, unet_config=CONFIG)


@pytest.mark.parametrize("prefix", ["module.", "_forward_module."])
def test_files_with_levels_and_prefixes(tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": {prefix + key: value for key, value in state().items()}}, tmp_path / "x.ckpt")
    loaded = load_original(tmp_path / "x.ckpt", unet_config=CONFIG)
    expected = load_original(state(), unet_config=CONFIG)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    torch.save({"state_dict": Trap()}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_original(tmp_path / "x.ckpt")
