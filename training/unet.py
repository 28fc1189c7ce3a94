"""Train the SD-style UNet and its text encoder together to predict the noise (epsilon) on cached
latents.

    python -m training.unet            # some two hours on one core with bf16 units

    x_t  = sqrt(a_t) x + sqrt(1 - a_t) noise
    loss = w_t |noise - UNet(x_t, t, text)|^2,   SNR_t = a_t / (1 - a_t)

w_t is min(1 / a_t, 25) (`--weighting v`), or min(SNR_t, 5) / SNR_t (`--weighting snr`). The first
is the error of v, limited at the noisiest steps. These decide the shapes; their weight is largest
in the first and near zero in the second.

The VAE is emoji-sd3's; the text encoder begins as emoji-sd3's first. Two levels (16x16 and 8x8
latents) with all attention on the lower, four transformer blocks in all. The ResNets learn at
RESNET_RATE of the others' learning rate, or they do all the work and the FFNs stay idle.

References:
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022.
        https://arxiv.org/abs/2112.10752
    Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022.
        https://arxiv.org/abs/2202.00512 (v)
    Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023.
        https://arxiv.org/abs/2303.09556 (snr)
"""

from functools import partial

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from .clip import OUT as CLIP
from .clip import tokenize
from .data import CACHE, load
from .loop import adamw, arguments, averaged, schedule_of, train
from .mmdit import cached_latents

DROP = 0.1  # captions replaced by the empty prompt, for classifier-free guidance
WEIGHTINGS = {
    "snr": lambda a: (5.0 * (1 - a) / a).clamp(max=1.0),
    "v": lambda a: (1 / a).clamp(max=25.0),
}
RESNET_RATE = 0.3
TEXT_RATE = 0.5
GEGLU_GAIN = 1.5  # one over the root mean square of a GELU(b) with a and b normal
CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (1, 3),  # diffusers reads these as NUMBERS of heads: 64 columns each
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


def build() -> UNet2DConditionModel:
    """A fresh UNet. The ResNets start as their shortcuts; the FFNs with outputs as large as their
    inputs, or the ResNets do all the work and the FFNs stay idle."""
    unet = UNet2DConditionModel(**CONFIG)
    for name, module in unet.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
        if name.endswith(("ff.net.0.proj", "ff.net.2")):
            gain = GEGLU_GAIN if name.endswith("net.2") else 1.0
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    return unet


@torch.no_grad()
def wake_(unet: UNet2DConditionModel, factor: float) -> None:
    """Let every FFN speak `factor` times louder."""
    for name, module in unet.named_modules():
        if name.endswith("ff.net.2"):
            module.weight.mul_(factor)
            module.bias.mul_(factor)


class Conditioned(nn.Module):
    """The UNet and its text encoder: what is trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = build().to(memory_format=torch.channels_last)
        self.text_encoder = CLIPTextModel.from_pretrained(
            CLIP / "text_encoder", dtype=torch.float32
        )

    def forward(self, x: torch.Tensor, ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise (B, 4, 16, 16) in x at the time steps t (B,), for the ids (B, 16)."""
        text = self.text_encoder(ids)[0]
        return self.unet(x, t, text, return_dict=False)[0]


def noise_loss(
    model: Conditioned, x: torch.Tensor, ids: torch.Tensor, alphas: torch.Tensor, weighting: str
) -> dict[str, torch.Tensor]:
    """Weighted and plain mean squared error of the predicted noise. alphas: (1000,), the products
    a_t."""
    t = torch.randint(len(alphas), (len(x),), device=x.device)
    a, noise = alphas[t], torch.randn_like(x)
    mixed = a.sqrt()[:, None, None, None] * x + (1 - a).sqrt()[:, None, None, None] * noise
    found = model(mixed.contiguous(memory_format=torch.channels_last), ids, t)
    errors = (found.float() - noise).square().mean((1, 2, 3))
    return {"loss": (errors * WEIGHTINGS[weighting](a)).mean(), "plain": errors.mean().detach()}


def rate(name: str, resnets: float = RESNET_RATE) -> float:
    """The factor of a parameter's learning rate."""
    if "resnets." in name or "samplers." in name:
        return resnets
    return TEXT_RATE if name.startswith("text_encoder.") else 1.0


def main() -> None:
    parser = arguments(__doc__, "unet", steps=5000, batch_size=64, lr=1e-3)
    parser.add_argument("--weighting", choices=WEIGHTINGS, default="v")
    parser.add_argument("--resnet-rate", type=float, default=RESNET_RATE)
    parser.add_argument("--wake", type=float, default=1.0, help="factor of the FFNs' outputs")
    args = parser.parse_args()
    torch.manual_seed(4)
    model = Conditioned()
    if args.export:
        save_parts(averaged(model, args.name))
        return
    torch.set_num_threads(args.threads)
    pictures, rows = load()
    latents = cached_latents(pictures[torch.tensor([not row["held_out"] for row in rows])])
    tokenizer = CLIPTokenizer.from_pretrained(CLIP / "tokenizer")
    ids = tokenize(tokenizer, [row["caption"] for row in rows if not row["held_out"]])
    nothing = tokenize(tokenizer, [""])
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    count = sum(p.numel() for p in model.unet.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(latents)} pictures", flush=True)
    if args.start:
        averaged(model, args.start)
    wake_(model.unet, args.wake)
    if args.compile:
        model.unet.compile()
    if args.device.type == "cpu":
        model.unet.set_attn_processor(AttnProcessor())  # the fused one has a slow backward there
    model.to(args.device)
    latents, ids, nothing, alphas = (x.to(args.device) for x in (latents, ids, nothing, alphas))

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(latents), (args.batch_size,), device=args.device)
        drop = torch.rand(args.batch_size, device=args.device) < DROP
        text = torch.where(drop[:, None], nothing, ids[chosen])
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            return noise_loss(model, latents[chosen], text, alphas, args.weighting)

    optimizer = adamw(
        model, lr=args.lr, weight_decay=0.01, rate=partial(rate, resnets=args.resnet_rate)
    )
    save_parts(train(args.name, model, [optimizer], loss_of, **schedule_of(args)).cpu())


def save_parts(model: Conditioned) -> None:
    model.unet.save_pretrained(OUT)
    model.text_encoder.save_pretrained(OUT / "text_encoder")


if __name__ == "__main__":
    main()
