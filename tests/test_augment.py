import pytest
import torch
from torch import Tensor

from siamese_diffusion.segmentation.augment import Augmentation, augment, draw, draw_flips, identity, rescale


def discs(count: int = 64, side: int = 48) -> tuple[Tensor, Tensor]:
    """Images that are white inside their mask and black outside."""
    random = torch.Generator().manual_seed(1)
    centre = (torch.rand(count, 2, 1, 1, generator=random) * 0.5 + 0.25) * side
    place = torch.arange(side, dtype=torch.float)
    masks = (place[:, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2 < (side / 5) ** 2
    return (masks[:, None].expand(-1, 3, -1, -1) * 255).to(torch.uint8), masks[:, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_identity_changes_nothing() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator())
    masks = torch.rand(3, 1, 32, 32, generator=generator()) < 0.5
    moved, moved_masks = augment(images, masks, identity(3))
    torch.testing.assert_close(moved, images / 255, rtol=0, atol=1e-5)
    assert torch.equal(moved_masks, masks.float())


def test_image_and_mask_stay_aligned() -> None:
    images, masks = discs()
    how = draw(len(images), generator())
    moved, moved_masks = augment(images, masks, how._replace(colour=torch.ones(len(images), 3)))
    assert torch.equal((moved[:, :1] > 0.5).float(), moved_masks)
    assert (moved_masks != masks.float()).flatten(1).any(1).float().mean() > 0.7  # and it did move most of them


def test_draws_contain_flips_turns_and_small_maps() -> None:
    matrix = draw(400, generator()).affine[:, :, :2]
    determinant = torch.linalg.det(matrix)
    scale = determinant.abs().sqrt()
    exact = (scale - 1).abs() < 1e-5
    assert 150 < int(exact.sum()) < 250
    assert 150 < int((determinant < 0).sum()) < 250
    assert scale.min() >= 1 / 1.26
    assert scale.max() <= 1 / 0.74
    turned = matrix[exact][:, 0, 0].abs() < 1e-5
    assert 50 < int(turned.sum()) < 150


@pytest.mark.parametrize(("turns", "flip"), [(1, False), (2, False), (3, True), (0, True)])
def test_quarter_turns_and_flips_are_exact(turns: int, flip: bool) -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator())
    masks = torch.rand(1, 1, 32, 32, generator=generator()) < 0.5
    drawn = draw(400, generator())
    corner = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    corner[..., 2, 9] = 255
    expected = corner.flip(3) if flip else corner
    expected = expected.rot90(turns, (2, 3)) / 255
    for row in range(400):
        how = drawn.rows(range(row, row + 1))._replace(colour=torch.ones(1, 3))
        if torch.allclose(augment(corner, masks, how)[0], expected, atol=1e-4):
            break
    else:
        pytest.fail("never drawn")
    want = (images.flip(3) if flip else images).rot90(turns, (2, 3)) / 255
    torch.testing.assert_close(augment(images, masks, how)[0], want, rtol=0, atol=1e-4)
    assert torch.equal(augment(images, masks, how)[1], (masks.flip(3) if flip else masks).rot90(turns, (2, 3)).float())


def test_a_seed_is_a_draw_and_rows_are_parts_of_the_batch() -> None:
    images, masks = discs(8)
    whole = augment(images, masks, draw(8, generator()))
    again = augment(images, masks, draw(8, generator()))
    other = augment(images, masks, draw(8, generator(1)))
    part = augment(images[2:5], masks[2:5], draw(8, generator()).rows(range(2, 5)))
    assert torch.equal(whole[0], again[0])
    assert not torch.equal(whole[0], other[0])
    assert torch.equal(whole[0][2:5], part[0])
    assert torch.equal(whole[1][2:5], part[1])


def test_colour_changes_the_image_only_and_stays_in_range() -> None:
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=generator())
    masks = torch.rand(16, 1, 32, 32, generator=generator()) < 0.5
    how = Augmentation(identity(16).affine, draw(16, generator()).colour)
    moved, moved_masks = augment(images, masks, how)
    assert torch.equal(moved_masks, masks.float())
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - images / 255).abs().mean() > 0.01


def test_brightness_contrast_and_saturation_do_what_they_say() -> None:
    images = torch.randint(60, 180, (1, 3, 32, 32), dtype=torch.uint8, generator=generator())
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    plain = images / 255

    def changed(*factors: float) -> Tensor:
        return augment(images, masks, Augmentation(identity(1).affine, torch.tensor([factors])))[0]

    torch.testing.assert_close(changed(1.2, 1, 1), plain * 1.2)
    assert float(changed(1, 0.5, 1).std()) == pytest.approx(float(plain.std()) / 2, rel=0.05)
    assert float(changed(1, 1, 0).std(1).max()) < 1e-5


def test_flips_and_turns_alone_are_exact_permutations() -> None:
    images, masks = discs(200, 16)
    images = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator())
    moved, moved_masks = augment(images, masks, draw_flips(len(images), generator()))
    turned = 0
    for before, after, mask, moved_mask in zip(images / 255, moved, masks, moved_masks, strict=True):
        fits = [
            (turns, flipped)
            for turns in range(4)
            for flipped in (before, before.flip(2))
            if torch.allclose(flipped.rot90(turns, (1, 2)), after, atol=1e-4)
        ]
        assert len(fits) == 1
        turned += fits[0][0] % 2
        assert moved_mask.sum() == mask.sum()
    assert 30 < turned < 70  # half are turned at all, half of those by an odd number of quarters


def test_rescaling_as_the_recipes_do() -> None:
    images = torch.rand(2, 3, 64, 64, generator=generator())
    masks = (torch.rand(2, 1, 64, 64, generator=generator()) < 0.5).float()
    for soft in (True, False):
        same = rescale(images, masks, 64, soft)
        assert same[0] is images
        assert same[1] is masks
        small, small_masks = rescale(images, masks, 32, soft)
        assert small.shape == (2, 3, 32, 32)
        assert small_masks.shape == (2, 1, 32, 32)
        assert bool((small_masks % 1 != 0).any()) == soft
        corner = torch.allclose(small[..., 0, 0], images[..., 0, 0])
        assert corner == soft  # aligned corners keep theirs
