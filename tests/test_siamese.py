"""The objective against its definition: which parameters each term reaches, and the plain reference."""

import copy
from collections.abc import Iterable
from typing import Any, Literal

import pytest
import torch
from tiny import tiny_batch, tiny_siamese
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from siamese_diffusion.config import LoopConfig, MethodConfig
from siamese_diffusion.diffusion.recompute import early_backward
from siamese_diffusion.diffusion.reference import control, predict, reference_losses
from siamese_diffusion.diffusion.siamese import Losses, SiameseDiffusion, is_decoder, is_hint
from siamese_diffusion.memory import Live
from siamese_diffusion.optimizer import make_optimizer

OTHER_WEIGHTS = MethodConfig(
    mask_weight=0.7,
    image_weight=0.4,
    consistency=0.5,
    augmentation=2.0,
    augmentation_start=0.1,
    augmentation_timesteps=100,
)


def group_of(name: str) -> str:
    if name.startswith("teacher."):
        return "teacher's controlnet" if name.startswith("teacher.controlnet") else "teacher's decoder"
    if name.startswith("controlnet."):
        return "controlnet"
    return "decoder" if name.startswith(("unet.up_blocks", "unet.conv_norm_out", "unet.conv_out")) else "encoder"


def reached(model: SiameseDiffusion, loss: Tensor) -> set[str]:
    """Groups of parameters with a gradient that is not zero."""
    model.zero_grad()
    loss.backward()
    return {
        group_of(name)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def test_hint_embeddings_are_known_by_name() -> None:
    model = tiny_siamese(MethodConfig(name="adc"))
    assert model.teacher is not None
    nets = (model.controlnet.controlnet_cond_embedding, model.teacher.controlnet.controlnet_cond_embedding)
    found = {id(parameter) for name, parameter in model.named_parameters() if is_hint(name)}
    assert found == {id(parameter) for net in nets for parameter in net.parameters()}


def test_hint_strength_is_the_change_that_a_mask_makes() -> None:
    model = tiny_siamese()
    hint = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    change = model.embed_hint(hint) - model.embed_hint(torch.zeros(3, 3, 32, 32))
    assert model.hint_strength(hint) == pytest.approx(float(change.detach().square().mean().sqrt()))
    assert model.hint_strength(torch.zeros(2, 3, 32, 32)) == pytest.approx(0, abs=1e-6)
    torch.nn.init.zeros_(model.controlnet.controlnet_cond_embedding.project.weight)
    assert model.hint_strength(hint) == 0


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("mask", {"controlnet", "decoder"}),
        ("image", {"controlnet"}),
        ("consistency", {"controlnet", "decoder"}),
        ("augmentation", {"controlnet", "decoder"}),
        ("total", {"controlnet", "decoder"}),
    ],
)
def test_what_each_term_reaches(term: str, expected: set[str]) -> None:
    model = tiny_siamese()
    assert reached(model, getattr(model(**tiny_batch(), progress=0.5), term)) == expected


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("mask", {"controlnet", "decoder"}),
        ("image", {"controlnet", "teacher's controlnet", "teacher's decoder"}),
        ("consistency", {"controlnet", "decoder"}),
        ("total", {"controlnet", "decoder", "teacher's controlnet", "teacher's decoder"}),
    ],
)
def test_what_each_term_of_adc_reaches(term: str, expected: set[str]) -> None:
    model = tiny_siamese(MethodConfig(name="adc"))
    assert reached(model, getattr(model(**tiny_batch(), progress=0.5), term)) == expected


def test_adc_equals_its_definition() -> None:
    model, batch = tiny_siamese(MethodConfig(name="adc")), tiny_batch()
    assert model.teacher is not None
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.01)  # or the teacher would be the student
    losses = model(**batch, progress=0.9)
    noisy = model.schedule.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    t, text = batch["timesteps"], batch["text"]

    mask = control(model.controlnet, noisy, t, text, batch["mask_hint"])
    image = control(model.teacher.controlnet, noisy, t, text, batch["image_hint"])
    teacher = copy.deepcopy(model.unet)
    for part in ("up_blocks", "conv_norm_out", "conv_out"):
        getattr(teacher, part).load_state_dict(getattr(model.teacher, part).state_dict())
    by_mask = predict(model.unet, noisy, t, text, mask)
    by_mixed = predict(teacher, noisy, t, text, [m + 0.25 * i for m, i in zip(mask, image, strict=True)])
    terms = []
    for i in range(len(t)):
        lesion = batch["mask_hint"][i, 0, ::4, ::4]
        share = lesion.mean()
        weights = torch.where(lesion > 0, 1 - share, share)
        terms.append((weights * (by_mask[i] - by_mixed[i]) ** 2).mean())
    torch.testing.assert_close(losses.mask, (by_mask - batch["noise"]).square().mean())
    torch.testing.assert_close(losses.image, (by_mixed - batch["noise"]).square().mean())
    torch.testing.assert_close(losses.consistency, torch.stack(terms).mean())
    assert losses.augmentation == 0
    torch.testing.assert_close(losses.total, losses.mask + losses.image + losses.consistency)


def test_everything_trained_has_a_gradient() -> None:
    model = tiny_siamese()
    model(**tiny_batch(), progress=0.5).total.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert {group_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"controlnet", "decoder"}
    assert all(not p.requires_grad for name, p in model.named_parameters() if group_of(name) == "encoder")


def test_image_weight_runs_from_zero_to_one() -> None:
    model = tiny_siamese()
    batch = tiny_batch()
    assert model.image_weight(0.0) == 0
    assert model.image_weight(1.0) == 1
    start = model(**batch, progress=0.0)
    torch.testing.assert_close(start.image, start.mask)
    assert start.consistency == 0
    assert reached(model, model(**batch, progress=0.0).image) == set()
    end = model(**batch, progress=1.0)
    assert end.consistency > 0
    fixed = tiny_siamese(MethodConfig(image_weight=1.0))
    torch.testing.assert_close(fixed(**batch, progress=0.0).image, end.image)


@pytest.mark.parametrize(("progress", "open_"), [(0.0, False), (333 / 1000, False), (1 / 3, False), (334 / 1000, True)])
def test_gate_of_the_online_augmentation(progress: float, open_: bool) -> None:
    losses = tiny_siamese()(**tiny_batch(), progress=progress)
    assert bool(losses.augmentation > 0) == open_


def test_late_timesteps_add_nothing_but_stay_in_the_mean() -> None:
    model = tiny_siamese()
    early = tiny_batch((20, 100))
    both = {key: torch.cat([value, tiny_batch((201, 999), seed=9)[key]]) for key, value in early.items()}
    alone, diluted = model(**early, progress=0.9), model(**both, progress=0.9)
    torch.testing.assert_close(diluted.augmentation, alone.augmentation / 2)
    assert model(**tiny_batch((201, 999)), progress=0.9).augmentation == 0


@pytest.mark.parametrize("progress", [0.2, 0.9])
def test_rows_that_the_caller_knows_are_those_that_the_model_finds(progress: float) -> None:
    model = tiny_siamese()
    found = model(**tiny_batch((100, 999)), progress=progress)
    assert model(**tiny_batch((100, 999)), progress=progress, augmented_rows=[0]) == found
    if progress > 1 / 3:
        assert model(**tiny_batch((100, 999)), progress=progress, augmented_rows=[]).augmentation == 0


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = tiny_siamese().to("cuda")
    batch = {name: value.to("cuda") for name, value in tiny_batch((100, 999)).items()}
    model(**batch, progress=0.9, augmented_rows=[0]).total.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**batch, progress=0.9, augmented_rows=[0]).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("progress", [0.2, 0.8])
def test_total_equals_its_parts(progress: float) -> None:
    losses = tiny_siamese(MethodConfig(consistency=0.5, augmentation=2.0))(**tiny_batch(), progress=progress)
    expected = losses.mask + losses.image + 0.5 * losses.consistency + 2 * losses.augmentation
    torch.testing.assert_close(losses.total, expected)


def test_mask_only_is_the_mask_term_alone() -> None:
    batch = tiny_batch()
    baseline = tiny_siamese(MethodConfig(name="mask-only"))(**batch, progress=0.9)
    full = tiny_siamese()(**batch, progress=0.9)
    torch.testing.assert_close(baseline.mask, full.mask)
    assert baseline.total == baseline.mask
    assert not any((baseline.image, baseline.consistency, baseline.augmentation))


def reference(model: SiameseDiffusion, batch: dict[str, Any], progress: float, method: MethodConfig) -> Losses:
    return reference_losses(model.unet, model.controlnet, model.schedule, **batch, progress=progress, method=method)


@pytest.mark.parametrize("name", ["mask-only", "adc"])
def test_the_reference_is_of_siamese_alone(name: Literal["mask-only", "adc"]) -> None:
    model = tiny_siamese()
    with pytest.raises(ValueError, match=name):
        reference(model, tiny_batch(), 0.5, MethodConfig(name=name))


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(these: dict[str, Tensor], those: dict[str, Tensor], names: Iterable[str]) -> None:
    for name in names:
        torch.testing.assert_close(these[name], those[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("progress", [0.2, 0.8])
@pytest.mark.parametrize("method", [MethodConfig(), OTHER_WEIGHTS], ids=["paper", "other weights"])
def test_equals_the_reference(method: MethodConfig, prediction: str, progress: float) -> None:
    model = tiny_siamese(method, prediction)
    batch = tiny_batch()
    ours = model(**batch, progress=progress)
    theirs = reference(model, batch, progress, method)
    assert bool(theirs.augmentation > 0) == (progress > method.augmentation_start)
    for term, one, another in zip(Losses._fields, ours, theirs, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-7, msg=term)
    mine = gradients(model, ours.total)
    other = gradients(model, theirs.total)
    assert_same(mine, other, [name for name, p in model.named_parameters() if p.requires_grad])


@pytest.mark.parametrize("progress", [0.2, 0.8])
def test_a_single_pass_changes_no_gradient(progress: float) -> None:
    model, batch = tiny_siamese(), tiny_batch((100, 999, 20, 400))
    losses = model(**batch, progress=progress)
    apart = gradients(model, losses.total)
    model.single_pass = True
    together = model(**batch, progress=progress)
    for term, one, another in zip(Losses._fields, losses, together, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-7, msg=term)
    assert bool(together.augmentation > 0) == (progress > 1 / 3)
    assert_same(apart, gradients(model, together.total), apart)


def test_half_precision_takes_no_gradient_before_its_loss_is_scaled() -> None:
    """The early gradient of L_i ignores a loss scale, so in 16-bit floats it must not be taken."""
    with torch.autocast("cpu", torch.float16):
        _, prediction, early = early_backward(lambda values: (values[0].sum(), values[0]), [torch.ones(2)])
    assert early == []
    _, prediction, early = early_backward(lambda values: ((3 * values[0]).sum(), values[0]), [torch.ones(2)])
    torch.testing.assert_close(early, [torch.full((2,), 3.0)])
    assert not prediction.requires_grad


def test_the_early_gradient_is_scaled_as_its_loss_is() -> None:
    model, batch = tiny_siamese(), tiny_batch()
    once = gradients(model, model(**batch, progress=0.8).image)
    twice = gradients(model, 2 * model(**batch, progress=0.8).image)
    assert once
    assert_same({name: 2 * value for name, value in once.items()}, twice, once)


@pytest.mark.parametrize("single_pass", [False, True])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "all"])
def test_savers_of_memory_keep_the_gradients_of_mixed_precision(checkpointing: str, single_pass: bool) -> None:
    model, batch = tiny_siamese().train(), tiny_batch((100, 999, 20, 400))

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(**batch, progress=0.8)
        return gradients(model, losses.total)

    plain = run()
    model.single_pass = single_pass
    if checkpointing != "none":
        model.enable_gradient_checkpointing(checkpointing == "selective")
    saving = run()
    assert plain.keys() == saving.keys()
    both = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (plain, saving)]
    assert float((both[0] - both[1]).norm()) <= 0.02 * float(both[0].norm())
    assert torch.is_autocast_cache_enabled()


def test_selective_checkpointing_keeps_what_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matrix product or convolution again, but for the hint embedding's and the widest; and fewer bytes alive after
    the forward pass."""
    model = tiny_siamese().train()
    batch = {
        name: torch.cat([value] * 8) for name, value in tiny_batch().items()
    }  # so that weights are the least of it

    def measure(checkpointing: str) -> tuple[int, int]:
        model.recompute = None
        if checkpointing != "none":
            model.enable_gradient_checkpointing(checkpointing == "selective")
        with FlopCounterMode(display=False) as counter:
            model(**batch, progress=0.2).total.backward()
        model.zero_grad()
        with Live() as live:
            losses = model(**batch, progress=0.2)
        alive = live.bytes
        del losses
        return counter.get_total_flops(), alive

    flops, alive = {}, {}
    for name in ("none", "selective", "all"):
        flops[name], alive[name] = measure(name)
    monkeypatch.setattr("siamese_diffusion.diffusion.recompute.NARROW", 0)
    flops["all products kept"], alive["all products kept"] = measure("selective")
    with FlopCounterMode(display=False) as hints, torch.no_grad():
        model.embed_hint(torch.cat([batch["mask_hint"], batch["image_hint"]]))
    assert flops["none"] < flops["all products kept"] <= flops["none"] + hints.get_total_flops()
    assert flops["all products kept"] < flops["selective"] < flops["all"]
    assert alive["all"] < alive["selective"] < alive["all products kept"] < alive["none"]


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("method", ["siamese", "adc"])
@pytest.mark.parametrize("progress", [0.2, 0.8])
def test_checkpointing_changes_no_gradient(progress: float, method: Literal["siamese", "adc"], selective: bool) -> None:
    model = tiny_siamese(MethodConfig(name=method)).train()
    batch = tiny_batch()
    plain = gradients(model, model(**batch, progress=progress).total)
    plain_image = gradients(model, model(**batch, progress=progress).image)
    model.enable_gradient_checkpointing(selective)
    again = gradients(model, model(**batch, progress=progress).total)
    again_image = gradients(model, model(**batch, progress=progress).image)
    assert plain.keys() == again.keys()
    assert plain_image.keys() == again_image.keys()
    assert_same(plain, again, plain)
    assert_same(plain_image, again_image, plain_image)


def test_split_forward_is_the_networks_own() -> None:
    model, batch = tiny_siamese(), tiny_batch()
    with torch.no_grad():
        own = model.unet(batch["latents"], batch["timesteps"], batch["text"]).sample
        ours = model.predict(batch["latents"], batch["timesteps"], batch["text"])
    torch.testing.assert_close(ours, own)


def test_a_new_controlnet_changes_nothing() -> None:
    from siamese_diffusion.diffusion.control import controlnet_for

    model, batch = tiny_siamese(), tiny_batch()
    model.controlnet = controlnet_for(model.unet, 4, (4, 8))
    noisy, t, text = batch["latents"], batch["timesteps"], batch["text"]
    with torch.no_grad():
        control = model.control(noisy, t, text, batch["mask_hint"])
        torch.testing.assert_close(model.predict(noisy, t, text, control), model.predict(noisy, t, text))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_conversions_invert_each_other(prediction: str) -> None:
    model, batch = tiny_siamese(prediction=prediction), tiny_batch()
    schedule, t = model.schedule, batch["timesteps"]
    noisy = schedule.add_noise(batch["latents"], batch["noise"], t)
    target = schedule.target(batch["latents"], batch["noise"], t)
    torch.testing.assert_close(schedule.clean(noisy, target, t), batch["latents"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(schedule.noise(noisy, target, t), batch["noise"], rtol=1e-3, atol=1e-4)


def test_the_decoder_learns_at_its_own_rate() -> None:
    model = tiny_siamese(MethodConfig(name="adc"))
    settings = LoopConfig(learning_rate=1e-3)
    optimizer = make_optimizer(model, settings, lambda name: 0.1 if is_decoder(name) else 1.0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        decoder = group_of(name) in ("decoder", "teacher's decoder")
        expected = (1e-4 if decoder else 1e-3) if parameter.requires_grad else None
        assert rates.get(id(parameter)) == (pytest.approx(expected) if expected else None), name


def dropped(model: SiameseDiffusion, kept: list[bool] | None) -> Losses:
    losses: Losses = model(**tiny_batch(), progress=0.5, kept=None if kept is None else torch.tensor(kept))
    return losses


@pytest.mark.parametrize("name", ["siamese", "mask-only", "adc"])
def test_hint_dropout_that_drops_none_changes_nothing(name: Literal["siamese", "mask-only", "adc"]) -> None:
    model = tiny_siamese(MethodConfig(name=name))
    for a, b in zip(dropped(model, None), dropped(model, [True] * 4), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["siamese", "mask-only", "adc"])
def test_where_the_hint_is_dropped_the_network_alone_is_trained(name: Literal["siamese", "mask-only", "adc"]) -> None:
    model, batch = tiny_siamese(MethodConfig(name=name)), tiny_batch()
    noisy = model.schedule.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    free = model.predict(noisy, batch["timesteps"], batch["text"])
    losses = dropped(model, [False] * 4)
    torch.testing.assert_close(losses.mask, (free - batch["noise"]).square().mean())
    assert losses.consistency == 0
    assert reached(model, dropped(model, [False] * 4).mask) == {"decoder"}


def test_each_sample_is_dropped_by_itself() -> None:
    model = tiny_siamese()
    kept, all_kept, none = (dropped(model, rows) for rows in ([True, True, False, False], [True] * 4, [False] * 4))
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        batch = {name: value[part] for name, value in tiny_batch().items()}
        halves.append(model(**batch, progress=0.5, kept=torch.tensor([part.start == 0] * 2)))
    torch.testing.assert_close(kept.mask, (halves[0].mask + halves[1].mask) / 2)
    torch.testing.assert_close(kept.consistency, halves[0].consistency / 2)
    torch.testing.assert_close(kept.image, all_kept.image)  # Image-Diffusion has its hints whatever is dropped
    torch.testing.assert_close(none.image, all_kept.image)


@pytest.mark.parametrize("name", ["siamese", "mask-only", "adc"])
def test_min_snr_weighs_every_term_of_each_sample(name: Literal["siamese", "mask-only", "adc"]) -> None:
    model = tiny_siamese(MethodConfig(name=name), "v_prediction")
    singles = [model(**{key: value[i : i + 1] for key, value in tiny_batch().items()}, progress=0.5) for i in range(4)]
    weights = model.schedule.weights(tiny_batch()["timesteps"], 5.0)
    assert weights is not None
    model.min_snr = 5.0
    losses = dropped(model, None)
    for term in ("mask", "image", "consistency", "augmentation"):
        expected = (torch.stack([getattr(single, term) for single in singles]) * weights).mean()
        torch.testing.assert_close(getattr(losses, term), expected, msg=term)
