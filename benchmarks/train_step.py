"""A training step as the original does it against ours: `python benchmarks/train_step.py --size tiny|medium|sd15`.

Both sides hold the same weights and take the same batch, in turn, in one run; their losses are asserted equal to 1e-5.
The straightforward side runs VAE and text encoder in every step, deep-copies both networks, gives each branch passes of its
own, with the mask a second time inside the image branch, augments the whole batch and checkpoints activations. At Stable
Diffusion 1.5's size each side has a process of its own, so that it fits 24 GiB.

`--count` runs nothing: it counts FLOPs and live bytes on tensors without data, and what each change gives, at any size.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import CLIPTextConfig, CLIPTextModel

from siamese_diffusion.config import LoopConfig
from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.control import controlnet_for
from siamese_diffusion.diffusion.reference import control, reference_losses, squared_error
from siamese_diffusion.diffusion.siamese import SiameseDiffusion
from siamese_diffusion.memory import Live
from siamese_diffusion.optimizer import make_optimizer, release_gradients, state_bytes

SCALE = 0.18215
GIB = 2**30
EARLY = 0.201
"""Share of the timesteps that are at most 200: of the samples that the augmentation counts after the gate."""
Kept = Literal["none", "costly", "all"]
"""Activations: checkpointed, checkpointed selectively, or not."""


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...]
    vae: tuple[int, ...]
    text: int  # width of the text encoder
    layers: int  # its depth
    resolution: int
    batch: int
    groups: int = 32


SIZES = {
    "tiny": Size((32, 64), (32, 32, 32, 32), 32, 1, 64, 4, 16),
    "medium": Size((64, 128, 256, 256), (32, 64, 128, 128), 64, 4, 128, 4),
    "sd15": Size((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 384, 1),
}


class Bench:
    """The networks, a batch, and a step of either side."""

    def __init__(self, size: Size, side: str, fake: bool = False, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.fake = fake
        with torch.device(device):
            self._build(size)
        if side == "ours":
            del self.vae, self.text_encoder  # what the cache is for

    def _build(self, size: Size) -> None:
        levels = len(size.channels)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=2,
        ).eval()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=size.text,
                intermediate_size=4 * size.text,
                num_hidden_layers=size.layers,
                num_attention_heads=max(1, size.text // 64),
            )
        ).eval()
        unet = UNet2DConditionModel(
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            block_out_channels=size.channels,
            cross_attention_dim=size.text,
            attention_head_dim=8,
            norm_num_groups=size.groups,
        )
        controlnet = controlnet_for(unet, 8)
        with torch.no_grad():
            for parameter in controlnet.parameters():
                if not self.fake and not parameter.any():
                    parameter.normal_(0, 0.02)  # zeros would leave the control, and half of the gradients, at zero
        self.model = SiameseDiffusion(unet, controlnet, sd15_scheduler().alphas_cumprod).train()
        self.optimizer = make_optimizer(self.model, LoopConfig(learning_rate=1e-12))  # steps that move no loss
        side_ = size.resolution // 8
        self.image = torch.rand(size.batch, 3, size.resolution, size.resolution)
        self.mask = (torch.rand(size.batch, 1, size.resolution, size.resolution) > 0.7).float().expand(-1, 3, -1, -1)
        self.tokens = torch.randint(49000, (size.batch, 77))
        self.noise = torch.randn(size.batch, 4, side_, side_)
        spread = [100, 400, 600, 900] if size.batch <= 4 else [(2 * i + 1) * 500 // size.batch for i in range(size.batch)]
        self.timesteps = torch.tensor(spread[: size.batch])  # t <= 200 for a fifth of all samples; of four, a quarter
        self.augmented_rows = [row for row, t in enumerate(spread[: size.batch]) if t <= 200]
        with torch.no_grad():
            self.latents, self.text = self.encode()

    def encode(self) -> tuple[Tensor, Tensor]:
        latents = self.vae.encode(self.image * 2 - 1).latent_dist.mean * SCALE
        return latents, self.text_encoder(self.tokens).last_hidden_state

    def copy(self, net: Any) -> Any:
        """The original's deep copy; tensors without data cannot be copied, and weigh as much when made anew."""
        made = type(net).from_config(net.config) if self.fake else copy.deepcopy(net)
        return made.requires_grad_(False)

    def ours(self, progress: float) -> Tensor:
        batch = (self.latents, self.noise, self.timesteps, self.text, self.mask, self.image)
        losses = self.model(*batch, progress, self.augmented_rows)
        return losses.total  # type: ignore[no-any-return]

    def plain(self, progress: float, cached: bool = False) -> Tensor:
        """The objective as the original runs it: the reference. `cached`: latents and text embeddings are there already."""
        with torch.no_grad():
            latents, text = (self.latents, self.text) if cached else self.encode()
        return reference_losses(
            self.model.unet,
            self.model.controlnet,
            self.model.schedule,
            latents,
            self.noise,
            self.timesteps,
            text,
            self.mask,
            self.image,
            progress,
            copy=self.copy,
        ).total

    def shared(self, progress: float, once: bool = False) -> Tensor:
        """Towards ours: the frozen encoder runs once, and Image-Diffusion's decoder is not a copy but held constant.

        Args:
            progress: step / max_steps.
            once: the mask passes the ControlNet once, in one batch with the image.
        """
        model, schedule, t, text = self.model, self.model.schedule, self.timesteps, self.text
        net = model.controlnet
        noisy = schedule.add_noise(self.latents, self.noise, t)
        if once:
            both = model.control(
                noisy.repeat(2, 1, 1, 1), t.repeat(2), text.repeat(2, 1, 1), torch.cat([self.mask, self.image])
            )
            mask, image = ([residual.chunk(2)[side] for residual in both] for side in (0, 1))
            again = [residual.detach() for residual in mask]
        else:
            held = self.copy(net)
            mask = control(net, noisy, t, text, self.mask)
            again = control(held, noisy, t, text, self.mask)
            image = control(net, noisy, t, text, self.image)
        mixed = [a + progress * b for a, b in zip(again, image, strict=True)]
        encoded = model.encode(noisy, t, text)
        by_mask, by_mixed = model.decode(encoded, text, mask), model.decode(encoded, text, mixed, constant=True)
        loss = squared_error(by_mask, self.noise) + squared_error(by_mixed, self.noise)
        loss = loss + squared_error(by_mask, by_mixed.detach())
        if progress > 1 / 3:
            estimate = schedule.clean(noisy, by_mixed, t).detach()
            redrawn = schedule.add_noise(estimate, self.noise, t)
            third = model.predict(redrawn, t, text, control(net, redrawn, t, text, self.mask))
            loss = loss + (t <= 200) * squared_error(third, self.noise)
        return loss.mean()

    def checkpointing(self, kept: Kept, side: str) -> None:
        """Of both networks; our own decoder passes do it themselves, so that the recomputation holds what they held."""
        self.model.recompute = None
        for net in (self.model.unet, self.model.controlnet):
            net.disable_gradient_checkpointing()
        if kept == "none" and side == "plain":
            self.model.unet.enable_gradient_checkpointing()
            self.model.controlnet.enable_gradient_checkpointing()
        elif kept != "all":
            self.model.enable_gradient_checkpointing(selective=kept == "costly")

    def step(self, variant: "Variant", progress: float) -> float:
        """One step with its optimiser; the loss."""
        self.checkpointing(variant.kept, variant.side)
        self.model.single_pass = variant.release
        loss: Tensor = getattr(self, variant.side)(progress)
        hooks = release_gradients(self.optimizer) if variant.release else []
        loss.backward()
        for hook in hooks:
            hook.remove()
        if not variant.release:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


@dataclass(frozen=True)
class Change:
    name: str
    loss: Callable[["Bench", float], Tensor]
    kept: Kept = "none"
    release: bool = False  # gradients freed as soon as they are applied
    optimizer: str = "adamw"
    bf16: bool = False


CHANGES = (
    Change("straightforward", lambda bench, progress: bench.plain(progress)),
    Change("+ latents and text cached", lambda bench, progress: bench.plain(progress, cached=True)),
    Change("+ encoder once, decoder held constant", lambda bench, progress: bench.shared(progress)),
    Change("+ both hints in one pass", lambda bench, progress: bench.shared(progress, once=True)),
    Change("+ augmentation where t <= 200", lambda bench, progress: bench.ours(progress)),
    Change("+ activations kept: ours", lambda bench, progress: bench.ours(progress), kept="all"),
    Change("+ cheap activations recomputed", lambda bench, progress: bench.ours(progress), kept="costly"),
    Change("+ gradients released: ours, lean", lambda bench, progress: bench.ours(progress), kept="costly", release=True),
    Change("low memory", lambda bench, progress: bench.ours(progress), release=True, optimizer="adafactor", bf16=True),
)
"""Those with a + add a change to the one before; `low memory` is the preset sd15-low-memory."""


class Counted(Live):
    """And the FLOPs of matrix products and convolutions: PyTorch's own counter fails at checkpoints of such tensors."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if flops := flop_registry.get(func._overloadpacket):
            self.flops += flops(*args, **(kwargs or {}), out_val=out)
        return out


def count(size: Size) -> list[dict[str, Any]]:
    """TFLOP a sample and GiB of each variant, on tensors without data.

    After the gate a sample has t <= 200 in 201 of 1000 cases; the FLOPs are the mean over both cases, the memory the larger.
    """
    rows: list[dict[str, Any]] = []
    for number, change in enumerate(CHANGES):
        side = "plain" if number < 2 else "ours"  # whose forward passes are run
        for gate, progress in GATES.items():
            flops, peaks = [], []
            for early in (True, False):
                live = Counted()
                with FakeTensorMode(allow_non_fake_inputs=True), live:
                    bench = Bench(size, "ours" if number else "plain", fake=True)
                    bench.augmented_rows = [row for row in range(len(bench.timesteps)) if early]
                    bench.checkpointing(change.kept, side)
                    bench.model.single_pass = change.release
                    trained = [p for p in bench.model.parameters() if p.requires_grad]
                    if change.release:
                        for parameter in trained:
                            parameter.register_post_accumulate_grad_hook(_forget)
                    live.peak, live.flops = live.bytes, 0
                    with torch.autocast("cpu", torch.bfloat16, enabled=change.bf16):
                        loss = change.loss(bench, progress)
                    loss.backward()
                    peaks.append((live.peak + sum(state_bytes(p, change.optimizer) for p in trained)) / GIB)
                flops.append(live.flops / 1e12 / len(bench.timesteps))
            share = EARLY if progress > 1 / 3 else 0.0
            tflop = share * flops[0] + (1 - share) * flops[1]
            rows.append({"variant": change.name, "gate": gate, "tflop": tflop, "peak_gib": max(peaks)})
    first = {row["gate"]: row for row in rows[: len(GATES)]}
    for row in rows:
        row["flops_ratio"] = first[row["gate"]]["tflop"] / row["tflop"]
        row["memory_ratio"] = row["peak_gib"] / first[row["gate"]]["peak_gib"]
        print(
            f"{row['gate']:16} {row['variant']:38} {row['tflop']:8.4f} TFLOP a sample ({row['flops_ratio']:.2f} times less)"
            f"  {row['peak_gib']:6.2f} GiB ({row['memory_ratio']:.2f})",
            file=sys.stderr,
        )
    return rows


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


@dataclass(frozen=True)
class Variant:
    side: str
    kept: Kept
    release: bool = False


VARIANTS = {
    "plain": Variant("plain", "none"),
    "plain, not checkpointed": Variant("plain", "all"),
    "ours": Variant("ours", "all"),
    "ours, lean": Variant("ours", "costly", release=True),
}
GATES = {"before the gate": 0.2, "after the gate": 0.9}


def compare(size: Size, repeats: int) -> list[dict[str, Any]]:
    """Both sides in one process, in turn."""
    bench = Bench(size, "plain")
    rows = []
    for gate, progress in GATES.items():
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        losses = {name: bench.step(VARIANTS[name], progress) for name in VARIANTS}  # and a warm-up
        for name, loss in losses.items():
            assert abs(loss - losses["plain"]) <= 1e-5 * abs(losses["plain"]), (name, losses)
        for _ in range(repeats):
            for name in VARIANTS:
                start = time.perf_counter()
                bench.step(VARIANTS[name], progress)
                seconds[name].append(time.perf_counter() - start)
        for name in VARIANTS:
            step = partial(bench.step, VARIANTS[name], progress)
            ratios = [a / b for a, b in zip(seconds["plain"], seconds[name], strict=True)]
            rows.append(
                {
                    "gate": gate,
                    "variant": name,
                    "seconds": statistics.median(seconds[name]),
                    "faster": statistics.median(ratios),
                    "faster_range": [min(ratios), max(ratios)],
                    "tflop": _flops(step),
                    "peak_gib": _peak(bench, step),
                }
            )
    return rows


def _flops(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e12


def _peak(bench: Bench, call: Callable[[], Any]) -> float:
    """Live bytes at the worst moment of a step, weights and optimiser state included."""
    kept = sum(p.nbytes for p in bench.model.parameters())
    kept += sum(v.nbytes for entry in bench.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor))
    for parameter in bench.model.parameters():
        parameter.grad = None
    with Live() as live:
        call()
    return float(kept + live.peak) / GIB


def one_side(size: Size, name: str) -> dict[str, Any]:
    """One side alone: seconds of a step, after one that makes the optimiser's state, and the resident peak.

    After the gate they are the mean over t: its step with t <= 200, in `EARLY` of all cases, and else that before the gate,
    from which it does not differ. The straightforward step takes as long for every t.
    """
    variant = VARIANTS[name]
    bench = Bench(size, variant.side)
    bench.step(variant, GATES["before the gate"])
    result: dict[str, Any] = {"variant": name}
    for gate, progress in GATES.items():
        start = time.perf_counter()
        loss = bench.step(variant, progress)
        result[gate] = {"seconds": time.perf_counter() - start, "loss": loss}
        print(f"{name}, {gate}: {result[gate]['seconds']:.1f} s", file=sys.stderr, flush=True)
    if variant.side == "ours":
        before, after = (result[gate]["seconds"] for gate in GATES)
        result["after the gate"]["seconds"] = EARLY * after + (1 - EARLY) * before
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


def main(name: str, repeats: int) -> list[dict[str, Any]]:
    """Run a size; print a table on standard error."""
    if name == "sd15":
        rows = []
        for variant in ("plain", "ours", "ours, lean"):
            command = [sys.executable, __file__, "--size", name, "--side", variant]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        for gate in GATES:
            for row in rows:
                first, second = rows[0][gate]["loss"], row[gate]["loss"]
                assert abs(first - second) <= 1e-5 * abs(first), (gate, first, second)
                faster = rows[0][gate]["seconds"] / row[gate]["seconds"]
                share = row["peak_gib"] / rows[0]["peak_gib"]
                print(f"{gate}, {row['variant']}: {faster:.2f} times as fast, peak {share:.2f}", file=sys.stderr)
        return rows
    rows = compare(SIZES[name], repeats)
    print(f"{'':16} {'':24} seconds  faster (range)        TFLOP  peak GiB", file=sys.stderr)
    for row in rows:
        low, high = row["faster_range"]
        print(
            f"{row['gate']:16} {row['variant']:24} {row['seconds']:7.3f}  {row['faster']:5.2f} ({low:.2f} to {high:.2f})"
            f"  {row['tflop']:7.4f} {row['peak_gib']:8.3f}",
            file=sys.stderr,
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", action="store_true", help="FLOPs and bytes, without running anything")
    parser.add_argument("--side", choices=VARIANTS, help="this side only (Stable Diffusion's size)")
    arguments = parser.parse_args()
    if arguments.count:
        print(json.dumps(count(SIZES[arguments.size])))
    elif arguments.side:
        print(json.dumps(one_side(SIZES[arguments.size], arguments.side)))
    else:
        print(json.dumps(main(arguments.size, arguments.repeats)))
