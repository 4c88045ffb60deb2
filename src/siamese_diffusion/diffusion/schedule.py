"""The forward process of a diffusion, and conversions between predictions: the noise, or v (Salimans & Ho 2022)."""

import torch
from torch import Tensor, nn


class Schedule(nn.Module):
    """The forward process z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps, and conversions between predictions.

    Args:
        alphas_cumprod: (T,) abar_t.
        prediction: "epsilon" or "v_prediction".
    """

    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor, prediction: str) -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction = {prediction!r}: must be epsilon or v_prediction")
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)
        self.prediction = prediction

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), each (B, 1, 1, 1)."""
        alphas = self.alphas_cumprod[timesteps][:, None, None, None]
        return alphas.sqrt(), (1 - alphas).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, spread = self.scales(timesteps)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict."""
        if self.prediction == "epsilon":
            return noise
        signal, spread = self.scales(timesteps)
        return signal * noise - spread * latents

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """One-step estimate of z0 from a prediction."""
        signal, spread = self.scales(timesteps)
        if self.prediction == "epsilon":
            return (noisy - spread * prediction) / signal
        return signal * noisy - spread * prediction

    def noise(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that a prediction stands for."""
        if self.prediction == "epsilon":
            return prediction
        signal, spread = self.scales(timesteps)
        return signal * prediction + spread * noisy

    def weights(self, timesteps: Tensor, min_snr: float | None) -> Tensor | None:
        """(B,) weights of the losses by min-SNR (Hang et al., arXiv 2303.09556); None where all count alike.

        With SNR(t) = abar_t / (1 - abar_t) the estimate of z0 is weighted by min(SNR, gamma). That is
        min(SNR, gamma) / SNR for an error in the noise, and min(SNR, gamma) / (SNR + 1) for one in v.

        Args:
            timesteps: (B,) integers.
            min_snr: gamma; None for none.
        """
        if min_snr is None:
            return None
        alphas = self.alphas_cumprod[timesteps]
        # Times (1 - abar): without a division by 0 at either end of the schedule.
        clipped = torch.minimum(alphas, min_snr * (1 - alphas))
        return clipped / alphas if self.prediction == "epsilon" else clipped
