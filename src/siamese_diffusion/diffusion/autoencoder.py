"""A learned first stage: a small convolutional autoencoder that begins as the linear one.

Design note: encoder and decoder are the linear first stage plus a correction whose last convolution begins at zero, so
training starts from the best linear code and not from noise, and takes minutes. All but the last layers work at latent
resolution: that is what makes it cheap. There is no normalisation, so a crop and the whole image are coded alike.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from siamese_diffusion.diffusion.firststage import Decoded, Encoded, Exactly, PatchAutoencoder
from siamese_diffusion.diffusion.hint import Residual


class ConvAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Images (B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/patch, W/patch) and back, as a VAE's.

    Args:
        patch: down-sampling factor, a power of two.
        latent_channels: channels of the latent image.
        width: features at latent resolution; half of them at twice that.
        encoder_blocks, decoder_blocks: residual blocks at latent resolution.
        block_out_channels: read by diffusers' pipelines, which take the factor as 2 ** (length - 1).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch: int = 4,
        latent_channels: int = 8,
        width: int = 64,
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
        block_out_channels: tuple[int, ...] = (1, 1, 1),
        scaling_factor: float = 1.0,
        in_channels: int = 3,
        sample_size: int = 96,
    ) -> None:
        super().__init__()
        self.linear = PatchAutoencoder(patch, latent_channels, block_out_channels, 1.0, in_channels, sample_size)
        cells = in_channels * patch * patch
        to_latents = nn.Conv2d(width, latent_channels, 3, padding=1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch),
            nn.Conv2d(cells, width, 3, padding=1, padding_mode="replicate"),
            *(Residual(width) for _ in range(encoder_blocks)),
            to_latents,
        )
        fine = max(width // 2, 8)
        to_pixels = nn.Conv2d(fine, cells // 4, 3, padding=1)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1, padding_mode="replicate"),
            *(Residual(width) for _ in range(decoder_blocks)),
            nn.Conv2d(width, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(fine),
            to_pixels,
            nn.PixelShuffle(patch // 2),
        )
        for parameter in (*to_latents.parameters(), *to_pixels.parameters()):
            nn.init.zeros_(parameter)

    def encode(self, images: Tensor) -> Encoded:
        return Encoded(Exactly(self.linear.encoder(images) + self.encoder(images)))

    def decode(self, latents: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        images = self.linear.decode(latents).sample + self.decoder(latents)
        return Decoded(images) if return_dict else (images,)
