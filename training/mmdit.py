"""Train the SD3 transformer on cached latents and cached text by flow matching (rectified flow).

    python -m training.mmdit           # some 100 minutes on two cores

    x_s = (1 - s) x + s noise,  target v = noise - x,  s from a logit-normal distribution

The pipeline without a third text encoder feeds 256 zero tokens beside the CLIP tokens. They carry
no position and stay equal in every layer, so training uses ONE of them and adds ln(256) to its
attention logit: exactly the same function at a third of the cost. `python -m training.mmdit
--check` shows the difference in float64.

References:
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024.
        https://arxiv.org/abs/2403.03206
"""

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch._inductor import config as inductor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .clip import OUT as CLIP
from .clip import tokenize
from .data import CACHE, load
from .loop import arguments, averaged, train
from .muon import optimizers
from .null_token import NULL_TOKENS, OneNullToken
from .vae import OUT as VAE
from .vae import encode

DROP = 0.1  # captions replaced by the empty prompt, for classifier-free guidance
CONFIG = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 6,
    "attention_head_dim": 64,
    "num_attention_heads": 5,
    "joint_attention_dim": 512,
    "caption_projection_dim": 320,
    "pooled_projection_dim": 512,
    "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
}
OUT = CACHE / "transformer"


def build() -> SD3Transformer2DModel:
    """A fresh transformer; modulation and output start at zero, so that every block starts as the
    identity."""
    model = SD3Transformer2DModel(**CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(
                ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")
            ):
                nn.init.zeros_(module.weight)
    return model


@torch.no_grad()
def encode_text(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The text inputs of the pipeline: tokens (N, 17, 512), the last being the zero token, and
    pooled (N, 512)."""
    ids = tokenize(CLIPTokenizer.from_pretrained(CLIP / "tokenizer"), captions)
    states, pooled = [], []
    for folder in ("text_encoder", "text_encoder_2"):
        encoder = CLIPTextModelWithProjection.from_pretrained(CLIP / folder).eval()
        outs = [encoder(part, output_hidden_states=True) for part in ids.split(256)]
        states.append(torch.cat([out.hidden_states[-2] for out in outs]))
        pooled.append(torch.cat([out.text_embeds for out in outs]))
    return F.pad(torch.cat(states, 2), (0, 0, 0, 1)), torch.cat(pooled, 1)


def cached_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Latents of the pictures, encoded once and stored in the cache."""
    file = CACHE / "latents.safetensors"
    if not file.exists():
        save_file(
            {"latents": encode(AutoencoderKL.from_pretrained(VAE).eval(), pictures).contiguous()},
            file,
        )
    return load_file(file)["latents"]


def flow_loss(
    model: nn.Module, x: torch.Tensor, tokens: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    noise = torch.randn_like(x)
    s = torch.sigmoid(torch.randn(len(x)))
    mixed = torch.lerp(x, noise, s[:, None, None, None])
    v = model(
        mixed,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=s * 1000,
        return_dict=False,
    )[0]
    return F.mse_loss(v, noise - x)


@torch.no_grad()
def check() -> float:
    """Largest difference between one weighted null token and NULL_TOKENS of them, in float64."""
    torch.manual_seed(0)
    model = build().double().eval()
    for p in model.parameters():
        p.add_(0.05 * torch.randn_like(p))
    x, text, pooled = (
        torch.randn(2, 4, 16, 16).double(),
        torch.randn(2, 16, 512).double(),
        torch.randn(2, 512).double(),
    )
    t = torch.tensor([900.0, 100.0]).double()
    many = model(x, F.pad(text, (0, 0, 0, NULL_TOKENS)), pooled, t, return_dict=False)[0]
    for block in model.transformer_blocks:
        block.attn.set_processor(OneNullToken())
    one = model(x, F.pad(text, (0, 0, 0, 1)), pooled, t, return_dict=False)[0]
    return (many - one).abs().max().item()


def main() -> None:
    parser = arguments(__doc__, "mmdit", steps=1050, batch_size=96, lr=1.5e-3)
    parser.add_argument(
        "--adamw",
        action="store_true",
        help="AdamW for every parameter instead of Muon for the matrices",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare one weighted null token with 256"
    )
    args = parser.parse_args()
    if args.check:
        print(f"one weighted null token against {NULL_TOKENS}: largest difference {check():.1e}")
        return
    if args.export:
        averaged(build(), args.name).save_pretrained(OUT)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(3)
    pictures, rows = load()
    known = torch.tensor([not row["held_out"] for row in rows])
    latents = cached_latents(pictures[known])
    tokens, pooled = encode_text([row["caption"] for row in rows if not row["held_out"]])
    no_tokens, no_pooled = encode_text([""])
    model = averaged(build(), args.start) if args.start else build()
    for block in model.transformer_blocks:
        block.attn.set_processor(OneNullToken())
    if args.compile:
        inductor.pattern_matcher = (
            False  # its attention pattern does not fit ours, and stops the compilation
        )
        for block in model.transformer_blocks:
            block.compile()

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(latents), (args.batch_size,))
        drop = torch.rand(args.batch_size) < DROP
        text = torch.where(drop[:, None, None], no_tokens, tokens[chosen])
        pool = torch.where(drop[:, None], no_pooled, pooled[chosen])
        return {"loss": flow_loss(model, latents[chosen], text, pool)}

    inside = () if args.adamw else ("attn.", "ff.", "ff_context.")
    model = train(
        args.name,
        model,
        optimizers(model, inside, lr=args.lr, weight_decay=0.01),
        loss_of,
        args.steps,
        ema_decay=0.99,
    )
    model.save_pretrained(OUT)


if __name__ == "__main__":
    main()
