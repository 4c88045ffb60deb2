"""Images a second on a GPU, drawn as the original does it and as we do.

    python benchmarks/speed/gpu_sampling.py --out FILE

Stable Diffusion 1.5's size with random weights, 384 px, guidance 9 on the prompt, the first stage's decoder included.
The original draws one image at a time in fp32 through 50 DDIM steps and embeds the mask anew in each. What 8 and 12
steps do to quality is measured on trained runs (`experiments/sampling_quality.py`); what 16 bits do is told here, as
the RMS of the difference of the latents after 50 steps, over their RMS. JSON goes to `--out` after each line.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench import SCALE, SIZES, Bench, Size
from drawing import GUIDANCE, STRAIGHTFORWARD, Sampler, Task
from torch import Tensor, nn

from siamese_diffusion.device import SIXTEEN_BITS, set_tf32
from siamese_diffusion.diffusion.backbone import sd15_scheduler
from siamese_diffusion.diffusion.compiling import compile_blocks

GIB = 2**30
DDIM = replace(STRAIGHTFORWARD, name="50 DDIM steps", hint_once=True)
DPM = Sampler("12 DPM-Solver++ steps", steps=12)
UNIPC = Sampler("8 UniPC steps, guided at 0 to 0.8", "unipc", 8, interval=(0.0, 0.8))


def listed(most: int) -> list[tuple[str, bool, int, Sampler]]:
    """(precision, channels-last, images, variant): each draws its images in one batch, but the first."""
    few = max(1, most // 4)
    return [
        ("fp32", False, 2, STRAIGHTFORWARD),
        ("fp16", False, most, replace(UNIPC, batch=most)),
        ("fp16", False, most, replace(DPM, batch=most)),
        ("fp16", False, few, replace(DDIM, batch=few)),
        ("fp16", True, most, replace(UNIPC, batch=most)),
        ("fp16", False, 2 * most, replace(UNIPC, batch=2 * most)),
        ("bf16", False, most, replace(UNIPC, batch=most)),
        ("bf16", False, few, replace(DDIM, batch=few)),
        ("tf32", False, few, replace(DDIM, batch=few)),
        ("fp32", False, few, replace(DDIM, batch=few)),
    ]


def main(size: Size, most: int, steps: int, device: str, out: Path, compiled: bool) -> None:
    bench = Bench(size, "plain", device=device)
    model, vae = bench.model.eval(), bench.vae
    where = torch.device(device)
    with torch.device(device):
        count = 2 * most
        noise = torch.randn(count, 4, size.resolution // 8, size.resolution // 8)
        hints = (torch.rand(count, 1, size.resolution, size.resolution) > 0.7).float().expand(-1, 3, -1, -1)
    text = bench.text[:1].expand(count, -1, -1)
    task = Task(model, sd15_scheduler(), hints, text, torch.zeros_like(text), GUIDANCE, 1.0)

    def wait() -> float:
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def draw(variant: Sampler, images: int) -> Tensor:
        latents = task.draw(variant, noise, images)
        for part in latents.split(min(variant.batch, 16)):
            vae.decode((part / SCALE).to(vae.dtype)).sample.float().clamp(-1, 1)
        return latents

    if compiled:
        compile_blocks(model)
        compile_blocks(vae)
    rows: list[dict[str, Any]] = []
    reference: Tensor | None = None
    variants = listed(most)
    for precision, last, images, whole in variants[1:2] if compiled else variants:
        variant = replace(whole, steps=min(whole.steps, steps))
        set_tf32(where, precision)
        torch.backends.cudnn.allow_tf32 = True  # torch's default, in which the original draws
        for net in (model.unet, model.controlnet, vae):
            nn.Module.to(net, SIXTEEN_BITS.get(precision, torch.float32))
            nn.Module.to(net, memory_format=torch.channels_last if last else torch.contiguous_format)
        row: dict[str, Any] = {"precision": precision, "channels_last": last, "images": images, "variant": variant.name}
        row |= {"batch": variant.batch, "compiled": compiled}
        if where.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            start = wait()
            draw(replace(variant, steps=2), images)  # a warm-up
            row["warm_up_seconds"] = wait() - start
            start = wait()
            latents = draw(variant, images)
            row["images_per_second"] = images / (wait() - start)
        except torch.cuda.OutOfMemoryError:
            row["images_per_second"] = None
        else:
            if variant.scheduler == "ddim":
                if reference is None:
                    reference = latents[:1]
                else:
                    row["rms_from_first"] = float((latents[:1] - reference).std() / reference.std())
            row["finite"] = bool(latents.isfinite().all())
        row["peak_gib"] = torch.cuda.max_memory_allocated() / GIB if where.type == "cuda" else None
        rows.append(row)
        out.write_text(json.dumps(rows, indent=1))
        print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--most", type=int, default=64, help="images of a batch")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps at most, to rehearse")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    size, most, steps = SIZES[arguments.size], arguments.most, arguments.steps
    main(size, most, steps, arguments.device, arguments.out, arguments.compile)
