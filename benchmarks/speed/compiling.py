"""Whether `torch.compile` pays in a training step.

    python benchmarks/speed/compiling.py --size tiny|medium

Residual and transformer blocks are compiled one by one, as diffusers recommends for networks that repeat them: a graph
of the whole step takes longer still. Both sides hold the same weights and take the same batch, in turn; losses are
asserted equal to 1e-5. JSON on standard output.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from bench import GATES, SIZES, VARIANTS, Bench
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D


def main(name: str, repeats: int) -> dict[str, Any]:
    """Seconds to compile and of a step, before and after the gate, plain and compiled."""
    torch._dynamo.config.recompile_limit = 256  # a graph for each shape and use of a block
    plain, compiled = (Bench(SIZES[name], "ours") for _ in range(2))
    for net in (compiled.model.unet, compiled.model.controlnet):
        for module in net.modules():
            if isinstance(module, ResnetBlock2D | BasicTransformerBlock):
                module.compile()
    variant = VARIANTS["ours"]
    found: dict[str, Any] = {"size": name, "threads": torch.get_num_threads()}
    for gate, progress in GATES.items():
        expected = plain.step(variant, progress)
        start = time.perf_counter()
        loss = compiled.step(variant, progress)
        compiling = time.perf_counter() - start
        assert abs(loss - expected) <= 1e-5 * abs(expected), (gate, loss, expected)
        compiled.step(variant, progress)
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for bench, row in zip((plain, compiled), seconds, strict=True):
                start = time.perf_counter()
                bench.step(variant, progress)
                row.append(time.perf_counter() - start)
        ratios = [a / b for a, b in zip(*seconds, strict=True)]
        found[gate] = {
            "compiling": compiling,
            "plain": statistics.median(seconds[0]),
            "compiled": statistics.median(seconds[1]),
            "faster": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["tiny", "medium"], default="tiny")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.size, arguments.repeats)))
