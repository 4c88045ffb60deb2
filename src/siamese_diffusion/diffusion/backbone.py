"""The backbone both diffusions stand on: first stage, UNet, text encoder and noise schedule.

A backbone on disk is a folder in diffusers' layout (`vae/`, `unet/`, `text_encoder/`, `tokenizer/`, `scheduler/`), so
Stable Diffusion 1.5 and the small one trained here load the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from siamese_diffusion.config import BackboneConfig
from siamese_diffusion.diffusion import firststage, ldm
from siamese_diffusion.diffusion.autoencoder import ConvAutoencoder
from siamese_diffusion.errors import InputError, refused
from siamese_diffusion.files import whole_folder, write_json
from siamese_diffusion.hub import fetch, repository
from siamese_diffusion.interrupt import undisguised
from siamese_diffusion.pretrained import load_network, load_pretrained
from siamese_diffusion.tensors import require_finite

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Hub id of Stable Diffusion 1.5, the paper's backbone."""

CLIP = "openai/clip-vit-large-patch14"
"""Hub id of the text encoder of Stable Diffusion 1.x, for its tokenizer."""

_CLIP_BESIDES = ("text_projection.", "vision_model.", "visual_projection.")
"""What a text encoder's file may hold of the whole of CLIP."""

_OWN: dict[str, Any] = {kind.__name__: kind for kind in (firststage.PatchAutoencoder, ConvAutoencoder)}
"""First stages that are not diffusers', by the name in their configuration."""

_FILES = (".ckpt", ".safetensors", ".pth", ".pt")
_PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


@dataclass
class Backbone:
    vae: Any
    """AutoencoderKL, PatchAutoencoder or ConvAutoencoder."""
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @property
    def factor(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def divisor(self) -> int:
        """What the image side must be a multiple of."""
        return int(self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w), scaled, of the latents of images (B, 3, H, W) in [-1, 1]."""
        posterior = self.vae.encode(images).latent_dist
        return posterior.mean * self.vae.config.scaling_factor, posterior.std * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], clamped, of scaled latents (B, C, h, w)."""
        images: Tensor = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return images.float().clamp(-1, 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Prompt embeddings (B, L, D)."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        embedding: Tensor = self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state
        return embedding

    def to(self, device: torch.device | str) -> "Backbone":
        for part in (self.vae, self.unet, self.text_encoder):
            part.to(device)
        return self

    def require_finite(self, where: object) -> None:
        """Raise `InputError` naming `where` if a weight is not finite."""
        for part in ("vae", "unet", "text_encoder"):
            require_finite({part: getattr(self, part).state_dict()}, where)

    def save(self, folder: Path) -> None:
        """Write the backbone as a folder `load_backbone` and diffusers read.

        Raises:
            InputError: a weight is not finite.
        """
        self.require_finite(folder)
        with whole_folder(folder) as temporary:
            self.save_parts(temporary)
            index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
            write_json(temporary / "model_index.json", index | self.index())

    def save_parts(self, folder: Path) -> None:
        for part in _PARTS:
            getattr(self, part).save_pretrained(folder / part)

    def index(self) -> dict[str, Any]:
        """The parts as diffusers lists them in `model_index.json`."""
        own = type(self.vae).__name__ in _OWN
        return {
            "vae": [type(self.vae).__module__ if own else "diffusers", type(self.vae).__name__],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", type(self.scheduler).__name__],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        }


def load_backbone(source: str | Path, option: str = "--backbone") -> Backbone:
    """Load a backbone.

    Args:
        source: a folder in diffusers' layout, a hub id, "sd15" for Stable Diffusion 1.5 from the hub, or one file of
            Stable Diffusion 1.x weights (`.ckpt`, `.safetensors`; nothing in it is executed), whose tokenizer comes
            from a folder `tokenizer/` beside it or from the hub.
        option: the one that named `source`, for the error.

    Raises:
        InputError: there is no backbone at `source`; a key of the file is missing, left over or of the wrong shape; or
            a weight is not finite.
    """
    backbone = (
        _from_file(Path(source)) if Path(source).suffix in _FILES else Backbone(**load_parts(source, _PARTS, option))
    )
    backbone.require_finite(f"{option} {source}")
    return backbone


def load_parts(source: str | Path, parts: Sequence[str], option: str = "--backbone") -> dict[str, Any]:
    """Some parts of a backbone in diffusers' layout: a folder, a hub id or "sd15".

    Raises:
        InputError: they are not there.
    """
    named = SD15 if source == "sd15" else str(source)
    repo = repository(named)
    where = str(fetch(repo, option)) if repo is not None else named
    what = f"{option} {source}: no backbone could be loaded from there"
    weights: dict[str, Any] = {"use_safetensors": True}
    loaders = {
        "vae": lambda: load_network(_vae_class(where, what), where, "vae", what, **weights),
        "unet": lambda: load_network(UNet2DConditionModel, where, "unet", what, **weights),
        "text_encoder": lambda: load_network(CLIPTextModel, where, "text_encoder", what, _CLIP_BESIDES, **weights),
        "tokenizer": lambda: load_pretrained(CLIPTokenizer, where, "tokenizer", what),
        "scheduler": lambda: load_pretrained(DDIMScheduler, where, "scheduler", what, **_SAMPLING),
    }
    loaded = {part: loaders[part]() for part in parts}
    for part in loaded.values():
        if isinstance(part, nn.Module):
            part.float().eval()  # weights may be stored in half precision
    with refused(what):
        _require_fit(loaded)
    return loaded


def _require_fit(parts: dict[str, Any]) -> None:
    """Parts that were loaded together work together, which else their first use would show.

    Raises:
        ValueError: two do not.
    """
    unet, text_encoder, tokenizer, scheduler = (parts.get(name) for name in _PARTS[1:])
    if text_encoder is not None and tokenizer is not None:
        words, length = max(tokenizer.get_vocab().values()), tokenizer.model_max_length
        if type(length) is not int or not 1 <= length <= text_encoder.config.max_position_embeddings:
            raise ValueError(
                f"the tokenizer's model_max_length is {length}, more than the text encoder takes or no length"
            )
        if words >= text_encoder.config.vocab_size:
            raise ValueError(
                f"the tokenizer has the word {words}, the text encoder {text_encoder.config.vocab_size} words"
            )
    if text_encoder is not None and unet is not None:
        widths = text_encoder.config.hidden_size, unet.config.cross_attention_dim
        if widths[0] != widths[1]:
            raise ValueError(f"the text encoder is {widths[0]} wide, the UNet wants {widths[1]}")
    if scheduler is not None:
        betas = scheduler.betas
        if not bool(((betas >= 0) & (betas <= 1)).all()):  # NaN is neither
            raise ValueError("the scheduler's betas are not between 0 and 1")


def _vae_class(where: str, what: str) -> Any:
    with undisguised(), refused(what):
        name = AutoencoderKL.load_config(where, subfolder="vae")["_class_name"]
    return _OWN.get(name, AutoencoderKL)


def _from_file(path: Path) -> Backbone:
    parts = ldm.split(ldm.read_state(path), str(path))
    if parts[ldm.CONTROL]:
        raise InputError(
            f"--backbone {path}: is a Siamese-Diffusion checkpoint, not a backbone; use the command `import`"
        )
    return Backbone(
        vae=ldm.build_vae(parts[ldm.VAE], str(path)),
        unet=ldm.build_unet(parts[ldm.UNET], {}, str(path)).eval(),
        text_encoder=ldm.build_text_encoder(parts[ldm.TEXT], str(path)),
        tokenizer=load_tokenizer(path.parent),
        scheduler=sd15_scheduler(),
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, which no file of weights holds: `folder/tokenizer`, or from the hub.

    Raises:
        InputError: it is in neither place.
    """
    beside = folder / "tokenizer"
    what = f"{beside}: no CLIP tokenizer there, and {CLIP} cannot be had from the hub"
    return load_pretrained(CLIPTokenizer, beside if beside.is_dir() else CLIP, "", what)


def sd15_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule, for the original's DDIM."""
    return DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **_SAMPLING)


_SAMPLING: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
"""The original's DDIM: timesteps 981 ... 1, and the last step ends at the alpha of timestep 0, not at 1."""

_NOISE_ALONE: dict[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""Zero terminal SNR (Lin et al., arXiv 2305.08891): sqrt(abar_t) is shifted and scaled so that it is 0 at the last
timestep and what it was at the first (their algorithm 1), and sampling begins at that last one (their section 3.3)."""


def require_shape(settings: BackboneConfig, resolution: int) -> None:
    """Refuse a small backbone that cannot be built for images of this side, in pixels.

    Raises:
        InputError: the shape does not fit together, or the resolution cannot be divided that often.
    """
    levels = len(settings.channels)
    if len(settings.attention) != levels:
        raise InputError(f"backbone.attention: {len(settings.attention)} values for {levels} backbone.channels")
    if settings.patch & (settings.patch - 1):
        raise InputError(f"backbone.patch = {settings.patch}: must be a power of two")
    if any(channels % 16 for channels in settings.channels):
        raise InputError(f"backbone.channels = {list(settings.channels)}: must be multiples of 16")
    require_divisible(resolution, settings.patch * 2 ** (levels - 1))


def require_divisible(resolution: int, divisor: int) -> None:
    """Refuse a resolution that first stage and UNet cannot halve as often as they do: `divisor` is by how much."""
    if resolution % divisor:
        raise InputError(f"data.resolution = {resolution}: must be a multiple of {divisor} for this backbone")


def small_backbone(settings: BackboneConfig, images: Tensor, seed: int = 0) -> Backbone:
    """An untrained small backbone whose first stage is fitted to `images`.

    Args:
        settings: its shape.
        images: (N, 3, H, W) in [-1, 1].
        seed: of the initial weights.

    Raises:
        InputError: as `require_shape`.
    """
    require_shape(settings, images.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in settings.attention)
        unet = UNet2DConditionModel(
            sample_size=images.shape[-1] // settings.patch,
            in_channels=settings.latent_channels,
            out_channels=settings.latent_channels,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            block_out_channels=settings.channels,
            layers_per_block=settings.layers,
            attention_head_dim=tuple(max(1, channels // 32) for channels in settings.channels),  # diffusers: head count
            cross_attention_dim=settings.text_dim,
            norm_num_groups=16,
        )
        text_encoder, tokenizer = _small_text_encoder(settings.text_dim)
    return Backbone(
        vae=firststage.fit(images, settings.patch, settings.latent_channels, settings.whitening),
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_schedule=settings.schedule,
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type=settings.prediction,
            **(_NOISE_ALONE if settings.zero_snr else {}),
            **_SAMPLING,
        ),
    )


def _small_text_encoder(width: int) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """A one-layer CLIP text encoder over bytes, random and frozen: distinct prompts get distinct embeddings."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = list(bytes_to_unicode().values())
    words = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=32)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    return CLIPTextModel(config).eval(), tokenizer
