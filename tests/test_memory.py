"""The batch that fits: bytes a sample are what its tensors take, and the free memory bounds them."""

import pytest
import torch

from siamese_diffusion.memory import LARGEST, Live, fitting_batch, free_bytes

MIB = 2**20


def work(count: int) -> None:
    shared = torch.zeros(3 * MIB, dtype=torch.uint8)  # whatever the batch
    first = torch.zeros(count, MIB, dtype=torch.uint8)
    second = first + 1
    del first
    (second + shared[:MIB]).sum()


def test_peak_counts_what_lives_at_once() -> None:
    with Live() as live:
        work(2)
    assert live.peak == pytest.approx((3 + 4) * MIB, rel=0.001)
    assert live.bytes == 0


@pytest.mark.parametrize(("free", "fitting"), [(64 * MIB, 16), (63 * MIB, 8), (MIB, 1), (2**40, LARGEST)])
def test_half_of_the_free_memory_is_filled(free: int, fitting: int) -> None:
    assert fitting_batch(work, free) == fitting


def test_free_memory_is_shared_between_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_bytes(torch.device("cpu"))
    assert alone > 16 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)
