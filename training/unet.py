"""Train the SD-style UNet to predict the noise (epsilon) on cached latents and cached text.

    python -m training.unet            # some 70 minutes on one core with bf16 units

    x_t  = sqrt(a_t) x + sqrt(1 - a_t) noise
    loss = w_t |noise - UNet(x_t, t, text)|^2,   SNR_t = a_t / (1 - a_t)

w_t is min(SNR_t, 5) / SNR_t (`--weighting snr`), or min(1 / a_t, 25) (`--weighting v`): the error
of v, limited at the noisiest steps. These decide the shapes; their weight is near zero in the first
and largest in the second.

The VAE and the text tower are emoji-sd3's, as they ship. Three levels (16x16, 8x8, 4x4 latents),
cross-attention on the lower two as in SDXL: four fifths of the weights are at the cheapest levels.

References:
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022.
        https://arxiv.org/abs/2112.10752
    Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023.
        https://arxiv.org/abs/2303.09556 (snr)
    Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022.
        https://arxiv.org/abs/2202.00512 (v)
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from obsdiff.pipelines.builtin import builtin_path

from .clip import tokenize
from .data import CACHE, load
from .loop import arguments, averaged, train
from .muon import optimizers
from .vae import encode

SHARED = builtin_path("emoji-sd3")
DROP = 0.1  # captions replaced by the empty prompt, for classifier-free guidance
WEIGHTINGS = {
    "snr": lambda a: (5.0 * (1 - a) / a).clamp(max=1.0),
    "v": lambda a: (1 / a).clamp(max=25.0),
}
CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (96, 128, 224),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (3, 4, 7),  # diffusers reads these as NUMBERS of heads: 32 columns each
    "cross_attention_dim": 256,
    "norm_num_groups": 16,
}
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
OUT = CACHE / "unet"


@torch.no_grad()
def encode_text(captions: list[str]) -> torch.Tensor:
    """The text input of StableDiffusionPipeline: the text tower's last hidden states, (N, 16,
    256)."""
    ids = tokenize(CLIPTokenizer.from_pretrained(SHARED / "tokenizer"), captions)
    encoder = CLIPTextModel.from_pretrained(SHARED / "text_encoder", dtype=torch.float32).eval()
    return torch.cat([encoder(part)[0] for part in ids.split(256)])


def cached_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Latents of the pictures by the shipped VAE, encoded once and stored in the cache."""
    file = CACHE / "latents-shipped.safetensors"
    if not file.exists():
        vae = AutoencoderKL.from_pretrained(SHARED / "vae", torch_dtype=torch.float32).eval()
        save_file({"latents": encode(vae, pictures).contiguous()}, file)
    return load_file(file)["latents"]


def noise_loss(
    unet: UNet2DConditionModel,
    x: torch.Tensor,
    text: torch.Tensor,
    alphas: torch.Tensor,
    weighting: str,
) -> dict[str, torch.Tensor]:
    """Weighted and plain mean squared error of the predicted noise. alphas: (1000,), the products
    a_t."""
    t = torch.randint(len(alphas), (len(x),))
    a, noise = alphas[t], torch.randn_like(x)
    mixed = a.sqrt()[:, None, None, None] * x + (1 - a).sqrt()[:, None, None, None] * noise
    found = unet(mixed.contiguous(memory_format=torch.channels_last), t, text, return_dict=False)[0]
    errors = (found - noise).square().mean((1, 2, 3))
    return {"loss": (errors * WEIGHTINGS[weighting](a)).mean(), "plain": errors.mean().detach()}


def main() -> None:
    parser = arguments(__doc__, "unet", steps=1500, batch_size=96, lr=1.5e-3)
    parser.add_argument("--weighting", choices=WEIGHTINGS, default="v")
    args = parser.parse_args()
    if args.export:
        averaged(UNet2DConditionModel(**CONFIG), args.name).save_pretrained(OUT)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(4)
    pictures, rows = load()
    latents = cached_latents(pictures[torch.tensor([not row["held_out"] for row in rows])])
    text = encode_text([row["caption"] for row in rows if not row["held_out"]])
    nothing = encode_text([""])
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    unet = UNet2DConditionModel(**CONFIG)
    unet = (averaged(unet, args.start) if args.start else unet).to(
        memory_format=torch.channels_last
    )
    unet.set_attn_processor(AttnProcessor())  # the fused CPU attention has a slow backward
    count = sum(p.numel() for p in unet.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(latents)} pictures", flush=True)
    if args.compile:
        unet.compile()

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(latents), (args.batch_size,))
        drop = torch.rand(args.batch_size) < DROP
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            return noise_loss(
                unet,
                latents[chosen],
                torch.where(drop[:, None, None], nothing, text[chosen]),
                alphas,
                args.weighting,
            )

    inside = ("resnets.", "attentions.", "samplers.")
    train(
        args.name,
        unet,
        optimizers(unet, inside, lr=args.lr, weight_decay=0.01),
        loss_of,
        args.steps,
        ema_decay=0.995,
    )
    unet.save_pretrained(OUT)


if __name__ == "__main__":
    main()
