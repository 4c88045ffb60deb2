"""Sampling: determinism, resume, provenance, guidance and solvers."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny import sd15_schedule, tiny_batch, tiny_siamese
from torch import Tensor

from siamese_diffusion.config import update
from siamese_diffusion.data.folder import DataFolder
from siamese_diffusion.data.writer import PairWriter
from siamese_diffusion.diffusion import sample as sample_module
from siamese_diffusion.diffusion.checkpoint import load_trained
from siamese_diffusion.diffusion.sample import sample
from siamese_diffusion.diffusion.sampler import denoise, guided
from siamese_diffusion.errors import InputError


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_writes_pairs_with_the_mask_that_was_asked_for(tmp_path: Path, run: Path, pairs: Path) -> None:
    result = sample(run, pairs, tmp_path / "made", device="cpu")
    made = DataFolder(tmp_path / "made").pairs()
    assert result["pairs"] == len(made) == 8
    for pair, source in zip(made, DataFolder(pairs).pairs(), strict=True):
        assert pair.name == source.name
        assert np.array_equal(pair.mask.read(), source.mask.squared(32))
        assert pair.prompt == "A photo of polyp"
        assert pair.extra["synthetic"] is True
        assert pair.extra["checkpoint"] == result["checkpoint"]
        assert pair.extra["sampler"] == {
            "scheduler": "ddim",
            "steps": 3,
            "guidance": 1.0,
            "mask_guidance": 2.0,
            "guidance_interval": [0.0, 1.0],
        }
        assert pair.extra["source_mask"] == source.name
    assert (tmp_path / "made/grid.png").exists()


def test_resumed_folder_is_the_undisturbed_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    pairs: Path,
) -> None:
    arguments = {"per_mask": 2, "random_masks": "flip-scale-shift", "device": "cpu"}
    sample(run, pairs, tmp_path / "whole", **arguments)  # type: ignore[arg-type]

    calls = 0
    add = PairWriter.add

    def killed(self: PairWriter, *rest: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("killed")
        add(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PairWriter, "add", killed)
    with pytest.raises(RuntimeError, match="killed"):
        sample(run, pairs, tmp_path / "cut", **arguments)  # type: ignore[arg-type]
    monkeypatch.undo()
    with pytest.raises(InputError, match="--resume"):
        sample(run, pairs, tmp_path / "cut", **arguments)  # type: ignore[arg-type]
    result = sample(run, pairs, tmp_path / "cut", resume=True, **arguments)  # type: ignore[arg-type]
    assert result == {"out": str(tmp_path / "cut"), "pairs": 16, "drawn": 12, "checkpoint": result["checkpoint"]}
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_resume_keeps_to_one_checkpoint_and_sampler(tmp_path: Path, run: Path, pairs: Path) -> None:
    sample(run, pairs, tmp_path / "made", device="cpu")
    with pytest.raises(InputError, match=r"--resume sample\.seed = 5: .*config\.yaml says 0"):
        sample(run, pairs, tmp_path / "made", seed=5, resume=True, device="cpu")
    with pytest.raises(InputError, match=r"--resume sample\.steps = 2: .*says 3"):
        sample(run, pairs, tmp_path / "made", steps=2, resume=True, device="cpu")


def test_seed_copy_and_mask_all_matter(tmp_path: Path, run: Path, pairs: Path) -> None:
    sample(run, pairs, tmp_path / "a", per_mask=2, seed=1, device="cpu")
    sample(run, pairs, tmp_path / "b", per_mask=2, seed=2, device="cpu")
    images = [contents(tmp_path / name / "images") for name in ("a", "b")]
    assert len({*images[0].values(), *images[1].values()}) == 32


def test_a_batch_that_fits_is_taken_and_kept_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = update(load_trained(run).config, "sample", batch_size="auto")
    fixed = update(config, "sample", batch_size=2)
    monkeypatch.setattr(sample_module, "fitting", lambda probe, counts, device: (probe(1), 2)[1])
    sample(run, pairs, tmp_path / "auto", config=config, device="cpu")
    assert "batch_size auto: 2 images" in capsys.readouterr().err
    sample(run, pairs, tmp_path / "fixed", config=fixed, device="cpu")
    drawn = {name: digest for name, digest in contents(tmp_path / "fixed").items() if name != "config.yaml"}
    assert contents(tmp_path / "auto").items() >= drawn.items()
    assert {pair.extra["batch_size"] for pair in DataFolder(tmp_path / "auto").pairs()} == {2}

    (tmp_path / "auto/images/phantom-00003.png").unlink()
    monkeypatch.setattr(sample_module, "fitting", lambda probe, counts, device: 4)  # more memory is free by now
    result = sample(run, pairs, tmp_path / "auto", config=config, resume=True, device="cpu")
    assert result["drawn"] == 1
    assert contents(tmp_path / "auto").items() >= drawn.items()
    with pytest.raises(InputError, match=r"--resume sample\.batch_size = 3: .*says auto"):
        sample(run, pairs, tmp_path / "auto", resume=True, device="cpu")


@pytest.mark.parametrize(("first", "second"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_folder_holds_pairs_of_one_precision(tmp_path: Path, run: Path, pairs: Path, first: str, second: str) -> None:
    config = load_trained(run).config
    sample(run, pairs, tmp_path / "made", config=update(config, "sample", precision=first), device="cpu")
    with pytest.raises(InputError, match=rf"--resume sample\.precision = {second}: .*says {first}"):
        sample(
            run, pairs, tmp_path / "made", config=update(config, "sample", precision=second), resume=True, device="cpu"
        )


def test_unknown_recipe(tmp_path: Path, run: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="flip-scale-shift"):
        sample(run, pairs, tmp_path / "made", random_masks="shake", device="cpu")


def test_guidance_mixes_the_two_branches() -> None:
    model, batch = tiny_siamese(), tiny_batch()
    noisy, t, hint, text = batch["latents"], batch["timesteps"], batch["mask_hint"], batch["text"]
    empty = torch.zeros_like(text)
    with torch.no_grad():
        given = guided(model, hint, text, empty, 1.0)(noisy, t)
        without = guided(model, hint, empty, empty, 1.0)(noisy, t)
        torch.testing.assert_close(
            guided(model, hint, text, empty, 9.0)(noisy, t), without + 9 * (given - without), rtol=1e-3, atol=1e-4
        )
    assert not torch.allclose(given, without)


def test_mask_guidance_moves_away_from_the_uncontrolled_prediction() -> None:
    model, batch = tiny_siamese(), tiny_batch()
    noisy, t, hint, text = batch["latents"], batch["timesteps"], batch["mask_hint"], batch["text"]
    with torch.no_grad():
        given, free = guided(model, hint, text, text)(noisy, t), model.predict(noisy, t, text)
        torch.testing.assert_close(
            guided(model, hint, text, text, mask_guidance=3.0)(noisy, t),
            free + 3 * (given - free),
            rtol=1e-3,
            atol=1e-4,
        )
    assert not torch.allclose(given, free)


def gaussian_predictor(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact noise prediction for data N(0, scale^2)."""
    alphas = sd15_schedule().alphas_cumprod

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        a = alphas[t][:, None, None, None]
        noise: Tensor = (1 - a).sqrt() * noisy / (a * scale**2 + 1 - a)
        return noise

    return predict


@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 50), ("dpm", 50), ("unipc", 50)])
def test_solvers_recover_a_known_distribution(scheduler: str, steps: int) -> None:
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = denoise(gaussian_predictor(0.3), noise, sd15_schedule(), scheduler, steps)
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.12)
    assert torch.corrcoef(torch.stack([drawn.flatten(), noise.flatten()]))[0, 1] > 0.999  # the ODE is monotone here


@pytest.mark.parametrize("scheduler", ["dpm", "unipc"])
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1, 4, 25])
def test_few_steps_begin_where_there_is_signal_and_stay_finite(scheduler: str, beta_schedule: str, steps: int) -> None:
    schedule = DDIMScheduler.from_config(
        sd15_schedule().config, beta_schedule=beta_schedule, prediction_type="v_prediction"
    )
    alphas, seen = schedule.alphas_cumprod, []

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        """The exact v for data N(0, 0.3^2)."""
        seen.append(int(t[0]))
        a = alphas[t][:, None, None, None]
        noise = (1 - a).sqrt() * noisy / (a * 0.09 + 1 - a)
        clean = a.sqrt() * 0.09 * noisy / (a * 0.09 + 1 - a)
        v: Tensor = a.sqrt() * noise - (1 - a).sqrt() * clean
        return v

    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = denoise(predict, noise, schedule, scheduler, steps)
    assert drawn.isfinite().all()
    assert len(seen) == steps
    assert seen[0] == (999 if beta_schedule == "scaled_linear" else 995)
    assert alphas[seen[0]] > 3e-5
    if steps == 25:
        assert float(drawn.std()) == pytest.approx(0.3, rel=0.2)


def test_ddim_timesteps_and_last_step_are_the_originals() -> None:
    seen: list[int] = []

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return torch.zeros_like(noisy)

    drawn = denoise(predict, torch.ones(1, 1, 1, 1), sd15_schedule(), "ddim", 50)
    assert seen == list(range(981, 0, -20))
    alphas = sd15_schedule().alphas_cumprod
    # with no noise predicted only the signal's scale is left: from abar_981 to abar_0, which is 0.99915 and not 1
    assert float(alphas[0]) == pytest.approx(0.99915)
    assert float(drawn) == pytest.approx(float((alphas[0] / alphas[981]).sqrt()), rel=1e-4)


def test_guidance_holds_between_its_noise_levels_only() -> None:
    model, batch = tiny_siamese().eval(), tiny_batch((600, 600, 600, 600))
    noisy, hint, text = batch["latents"], batch["mask_hint"], batch["text"]
    empty = torch.zeros_like(text)

    def predict(t: int, **settings: Any) -> Tensor:
        with torch.no_grad():
            return guided(model, hint, text, empty, **settings)(noisy, torch.full((4,), t))

    on, off = {"guidance": 3.0, "mask_guidance": 2.0}, {"guidance": 1.0, "mask_guidance": 1.0}
    for t, inside in ((100, False), (300, True), (800, True), (900, False)):
        found = predict(t, **on, interval=(0.2, 0.85))
        torch.testing.assert_close(found, predict(t, **(on if inside else off)))
    assert not torch.allclose(predict(300, **on), predict(300, **off))


class TestCheckpoint:
    """What `--checkpoint` takes."""

    def test_a_run_its_pipeline_and_a_job_are_the_same(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "job").mkdir()
        shutil.copytree(run, tmp_path / "job/train", ignore=shutil.ignore_patterns("checkpoints", "cache"))
        found = {load_trained(each).hash for each in (run, str(run), run / "pipeline", tmp_path / "job")}
        assert found == {load_trained(run).hash}

    def test_what_it_is_not_is_told(self, run: Path, backbone: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "begun", ignore=shutil.ignore_patterns("pipeline"))
        for folder, words in (
            (tmp_path / "begun", "training has not finished"),
            (backbone, f"is a backbone; `train --backbone {backbone}` makes a run of it"),
            (tmp_path, "not a run folder"),
        ):
            with pytest.raises(InputError, match=f"--checkpoint {folder}: {words}"):
                load_trained(folder)
