"""Train the autoencoder: 64x64 pictures to 16x16 latents of 4 channels and back.

    python -m training.vae    # about 25 minutes on one core; then `psnr` on held-out pictures

shift_factor is 0 so that StableDiffusionPipeline, which has no shift, can share it. The scaling
factor brings the latents of the training pictures to unit standard deviation.
"""

import argparse

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from .data import CACHE, SIZE, as_input, load
from .loop import train

CONFIG = {
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    "mid_block_add_attention": False,
    "shift_factor": 0.0,
}
OUT = CACHE / "vae"


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def losses(vae: AutoencoderKL, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Absolute error, absolute error of the picture's gradients (sharp outlines), and a light pull
    to N(0, 1)."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    l1 = F.l1_loss(y, x)
    outline = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return {"loss": l1 + 0.5 * outline + 1e-3 * kl, "l1": l1, "outline": outline, "kl": kl}


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Scaled latent means (N, 4, 16, 16) of pictures (N, 64, 64, 3) uint8."""
    parts = [vae.encode(as_input(part)).latent_dist.mean for part in pictures.split(64)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of encode and decode, over all pictures together."""
    latents = encode(vae, pictures) / vae.config.scaling_factor
    back = torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in latents.split(64)])
    return (10 * torch.log10(4 / F.mse_loss(back, as_input(pictures)))).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    pictures, rows = load()
    known = torch.tensor([not row["held_out"] for row in rows])
    train_set = pictures[known]
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3, betas=(0.9, 0.99))

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        x = as_input(train_set[torch.randint(len(train_set), (args.batch_size,))])
        return losses(vae, x.contiguous(memory_format=torch.channels_last))

    train("vae", vae, [optimizer], loss_of, args.steps, ema_decay=0.99)
    vae.register_to_config(scaling_factor=1.0)
    vae.register_to_config(scaling_factor=round(1 / encode(vae, train_set[::8]).std().item(), 5))
    vae.save_pretrained(OUT)
    print(
        f"PSNR {psnr(vae, train_set[:256]):.2f} dB trained, "
        f"{psnr(vae, pictures[~known]):.2f} dB held out, scaling {vae.config.scaling_factor}"
    )


if __name__ == "__main__":
    main()
