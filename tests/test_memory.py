"""The batch that fits: bytes a sample are what its tensors take, and the free memory bounds them."""

import pytest
import torch

from siamese_diffusion import memory
from siamese_diffusion.memory import MOST_TOGETHER, Live, fitting, free_bytes, powers_of_two

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


@pytest.mark.parametrize(("free", "expected"), [(71 * MIB, 16), (69 * MIB, 8), (MIB, 1), (2**40, MOST_TOGETHER)])
def test_half_of_the_free_memory_is_filled(monkeypatch: pytest.MonkeyPatch, free: int, expected: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert fitting(work, powers_of_two(MOST_TOGETHER), torch.device("cpu")) == expected


def test_what_is_needed_besides_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 64 * MIB)
    assert fitting(work, [1, 2, 3, 4, 6, 12], torch.device("cpu")) == 12
    assert fitting(work, [1, 2, 3, 4, 6, 12], torch.device("cpu"), reserve=16 * MIB) == 6


def test_free_memory_is_shared_between_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_bytes(torch.device("cpu"))
    assert alone > 16 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)
