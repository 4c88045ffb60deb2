import pytest
import torch
from torch import nn

from siamese_diffusion.diffusion.hint import DenseHintInput, PatchMerge, Residual


@pytest.mark.parametrize(("factor", "width"), [(4, 128), (8, 256)])
def test_one_merge_per_factor_of_two(factor: int, width: int) -> None:
    hint = DenseHintInput(320, factor)
    features = hint.features(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, width, 32 // factor, 32 // factor)
    assert hint(torch.rand(2, 3, 32, 32)).shape == (2, 320, 32 // factor, 32 // factor)


def test_starts_as_zero_but_learns() -> None:
    hint = DenseHintInput(16)
    out = hint(torch.rand(1, 3, 16, 16))
    assert not out.any()
    out.sum().backward()
    assert hint.project.weight.grad is not None
    assert hint.project.weight.grad.abs().sum() > 0


def test_merge_order_of_the_four_pixels() -> None:
    merge = PatchMerge(1)
    merge.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        merge.reduction.weight.copy_(torch.tensor([[1.0, 10, 100, 1000], [0, 0, 0, 0]]))
        merge.reduction.bias.zero_()
    cell = torch.tensor([[[[1.0, 2], [3, 4]]]])  # (even, even) 1, (even, odd) 2, (odd, even) 3, (odd, odd) 4
    assert merge(cell)[0, 0, 0, 0] == 1 + 3 * 10 + 2 * 100 + 4 * 1000


def test_residual_is_silu_of_the_sum() -> None:
    block = Residual(4)
    with torch.no_grad():
        block.conv2.weight.zero_()
        assert block.conv2.bias is not None
        block.conv2.bias.zero_()
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(block(x), nn.functional.silu(x))
