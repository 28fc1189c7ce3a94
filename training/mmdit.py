"""Train the SD3 transformer and its third text encoder together by flow matching (rectified flow),
on cached latents and cached CLIP text.

    python -m training.mmdit --bf16 --until 1500     # 27 minutes on one core with bf16 units
    python -m training.mmdit --bf16 --start mmdit --wake --name mmdit-woken --steps 2800     # 50

    x_s = (1 - s) x + s noise,  target v = noise - x,  s from a logit-normal distribution

The caption travels in the text stream: of the pooled CLIP embeddings only the POOLED strongest
directions of each encoder are left (the style and the kind of thing, not the thing). The third
encoder's 256 tokens are zero behind the caption: training uses ONE of the zero tokens and adds the
logarithm of their number to its attention logit, exactly the same function at a third of the cost.
`python -m training.mmdit --check` shows the difference in float64.

References:
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024.
        https://arxiv.org/abs/2403.03206
"""

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import nn
from torch._inductor import config as inductor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5Tokenizer

from . import third_encoder
from .clip import OUT as CLIP
from .clip import tokenize
from .data import CACHE, load
from .loop import adamw, arguments, averaged, schedule_of, train
from .null_token import NULL_TOKENS, OneNullToken
from .vae import OUT as VAE
from .vae import encode

DROP = 0.1  # captions replaced by the empty prompt, for classifier-free guidance
TEXT_GAIN = 3.0
WAKE = 10.0
WOKEN_RATE = 0.1  # of the learning rate, for the woken parameters: or they fall silent again
LATE = 0.12  # share of the pictures that read their caption from block 1, 2, ... on
POOLED = 8  # columns of each pooled CLIP embedding
CONFIG = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 6,
    "joint_attention_dim": third_encoder.WIDTH,
    "caption_projection_dim": 384,
    "pooled_projection_dim": 2 * POOLED,
    "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
}
OUT = CACHE / "transformer"


def build() -> SD3Transformer2DModel:
    """A fresh transformer. The image stream's modulation and the output start at zero, so that
    every block starts as the identity on the picture; the text stream starts with open gates and
    large FFNs, which otherwise never come to work."""
    model = SD3Transformer2DModel(**CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(
                module.weight, gain=TEXT_GAIN if name.endswith("ff_context.net.2") else 1.0
            )
            nn.init.zeros_(module.bias)
            if name.endswith(
                ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")
            ):
                nn.init.zeros_(module.weight)
            if name.endswith("norm1_context.linear"):
                open_gates_(module)
    return model


@torch.no_grad()
def open_gates_(modulation: nn.Linear) -> None:
    """Set the gates to 1: chunks 2 and 5 of (shift, scale, gate) of attention and FFN. The last
    block's text stream has a scale and a shift alone."""
    chunks = modulation.bias.view(-1, modulation.in_features)
    if len(chunks) == 6:
        chunks[[2, 5]] = 1.0


def is_late_text(name: str) -> bool:
    """Whether a parameter decides how much the text FFNs behind the first one say."""
    late = "transformer_blocks." in name and "transformer_blocks.0." not in name
    return late and ("ff_context.net.2." in name or "norm1_context.linear." in name)


@torch.no_grad()
def wake_(model: SD3Transformer2DModel) -> None:
    """Let the text FFNs behind the first one speak WAKE times louder. The first one's output grows
    to seven times the text's embedding, next to which those behind it were 0.04 and idle."""
    for block in model.transformer_blocks[1:-1]:
        block.ff_context.net[2].weight.mul_(WAKE)


@torch.no_grad()
def pooled_directions(embeds: torch.Tensor) -> torch.Tensor:
    """The directions (POOLED, columns) in which the embeddings (N, columns) differ most, scaled to
    unit variance over the N."""
    _, sizes, directions = torch.linalg.svd(embeds - embeds.mean(0), full_matrices=False)
    return directions[:POOLED] * len(embeds) ** 0.5 / sizes[:POOLED, None]


@torch.no_grad()
def narrow_text_encoders() -> None:
    """Save both CLIP text encoders again with projections onto POOLED columns."""
    _, rows = load()
    captions = [row["caption"] for row in rows if not row["held_out"]]
    ids = tokenize(CLIPTokenizer.from_pretrained(CLIP / "tokenizer"), captions)
    for folder in ("text_encoder", "text_encoder_2"):
        encoder = CLIPTextModelWithProjection.from_pretrained(
            CLIP / folder, dtype=torch.float32
        ).eval()
        if encoder.config.projection_dim == POOLED:
            continue
        embeds = torch.cat([encoder(part).text_embeds for part in ids.split(256)])
        narrow = nn.Linear(encoder.config.hidden_size, POOLED, bias=False)
        narrow.weight.copy_(pooled_directions(embeds) @ encoder.text_projection.weight)
        encoder.text_projection = narrow
        encoder.config.projection_dim = POOLED
        encoder.save_pretrained(CLIP / folder)


@torch.no_grad()
def encode_text(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The CLIP inputs of the pipeline: tokens (N, 16, 512) and pooled (N, 2 POOLED)."""
    ids = tokenize(CLIPTokenizer.from_pretrained(CLIP / "tokenizer"), captions)
    states, pooled = [], []
    for folder in ("text_encoder", "text_encoder_2"):
        encoder = CLIPTextModelWithProjection.from_pretrained(
            CLIP / folder, dtype=torch.float32
        ).eval()
        outs = [encoder(part, output_hidden_states=True) for part in ids.split(256)]
        states.append(torch.cat([out.hidden_states[-2] for out in outs]))
        pooled.append(torch.cat([out.text_embeds for out in outs]))
    return torch.cat(states, 2), torch.cat(pooled, 1)


def cached_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Latents of the pictures, encoded once and stored in the cache."""
    file = CACHE / "latents.safetensors"
    if not file.exists():
        save_file(
            {"latents": encode(AutoencoderKL.from_pretrained(VAE).eval(), pictures).contiguous()},
            file,
        )
    return load_file(file)["latents"]


class Conditioned(nn.Module):
    """The transformer and the third text encoder: what is trained together."""

    def __init__(self, t5_tokenizer: T5Tokenizer):
        super().__init__()
        self.transformer = build()
        self.text_encoder_3 = third_encoder.build(t5_tokenizer)
        for i, block in enumerate(self.transformer.transformer_blocks):
            block.attn.set_processor(OneNullToken(block=i))

    def forward(
        self,
        x: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        ids: torch.Tensor,
        time: torch.Tensor,
        first_reader: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The velocity (B, 4, 16, 16) at x, from CLIP tokens (B, 16, 512), pooled (B, 2 POOLED),
        ids of the third encoder (B, READ) and time (B,) in 0..1000. first_reader (B,), if given:
        the picture reads the caption in no block before this one."""
        words = self.text_encoder_3(ids).last_hidden_state[:, : third_encoder.LENGTH + 1]
        return self.transformer(
            x,
            encoder_hidden_states=torch.cat([tokens, words], 1),
            pooled_projections=pooled,
            timestep=time,
            joint_attention_kwargs={"first_reader": first_reader},
            return_dict=False,
        )[0]


def first_readers(count: int, device: torch.device) -> torch.Tensor:
    """The block in which each of `count` pictures may first read its caption: the first one, or,
    for a share of LATE each, any later one. A caption is read once and remembered otherwise, and
    the text stream of the later blocks stays idle."""
    blocks = CONFIG["num_layers"]
    drawn = torch.rand(count, device=device) / LATE
    return torch.where(drawn < blocks - 1, drawn.long() + 1, 0)


def flow_loss(
    model: Conditioned,
    x: torch.Tensor,
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    ids: torch.Tensor,
    first_reader: torch.Tensor | None,
) -> torch.Tensor:
    noise = torch.randn_like(x)
    s = torch.sigmoid(torch.randn(len(x), device=x.device))
    mixed = torch.lerp(x, noise, s[:, None, None, None])
    v = model(mixed, tokens, pooled, ids, s * 1000, first_reader)
    return F.mse_loss(v.float(), noise - x)


@torch.no_grad()
def check() -> float:
    """Largest difference between one weighted null token and all of the pipeline's 256 tokens, in
    float64."""
    torch.manual_seed(0)
    captions = [row["caption"] for row in load()[1]]
    t5_tokenizer = third_encoder.build_tokenizer(captions)
    model = Conditioned(t5_tokenizer).double().eval()
    for p in model.transformer.parameters():
        p.add_(0.05 * torch.randn_like(p))
    x, tokens, pooled = (
        torch.randn(2, 4, 16, 16).double(),
        torch.randn(2, 16, 512).double(),
        torch.randn(2, 2 * POOLED).double(),
    )
    t = torch.tensor([900.0, 100.0]).double()
    chosen = ["red apple, noto style", max(captions, key=lambda c: c.count(" "))]
    one = model(x, tokens, pooled, third_encoder.tokenize(t5_tokenizer, chosen), t)
    for block in model.transformer.transformer_blocks:
        block.attn.set_processor(JointAttnProcessor2_0())
    words = model.text_encoder_3(third_encoder.tokenize(t5_tokenizer, chosen, 256))[0]
    text = torch.cat([tokens, words], 1)
    many = model.transformer(x, text, pooled, t, return_dict=False)[0]
    return ((many - one).abs().max() / many.abs().max()).item()


def main() -> None:
    parser = arguments(__doc__, "mmdit", steps=4300, batch_size=64, lr=1e-3)
    parser.add_argument(
        "--check", action="store_true", help="compare one weighted null token with all"
    )
    parser.add_argument(
        "--late-from", type=int, default=700, help="step from which some captions are read late"
    )
    parser.add_argument("--wake", action="store_true", help="make the later text FFNs louder")
    args = parser.parse_args()
    if args.check:
        print(f"one null token for {NULL_TOKENS}: largest relative difference {check():.1e}")
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(3)
    pictures, rows = load()
    known = torch.tensor([not row["held_out"] for row in rows])
    captions = [row["caption"] for row in rows if not row["held_out"]]
    t5_tokenizer = third_encoder.build_tokenizer(captions)
    t5_tokenizer.save_pretrained(OUT / "tokenizer_3")
    model = Conditioned(t5_tokenizer)
    ids, no_ids = (third_encoder.tokenize(t5_tokenizer, texts) for texts in (captions, [""]))
    if args.export:
        save_parts(averaged(model, args.name), ids)
        return
    narrow_text_encoders()
    latents = cached_latents(pictures[known])
    known_text, no_text = encode_text(captions), encode_text([""])
    count = sum(p.numel() for p in model.transformer.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(latents)} pictures", flush=True)
    if args.start:
        averaged(model, args.start)
    if args.wake:
        wake_(model.transformer)
    if args.compile:
        # its attention pattern does not fit ours, and stops the compilation
        inductor.pattern_matcher = False
        for block in model.transformer.transformer_blocks:
            block.compile()

    model.to(args.device)
    latents, ids, no_ids, tokens, pooled, no_tokens, no_pooled = (
        x.to(args.device) for x in (latents, ids, no_ids, *known_text, *no_text)
    )
    woken = bool(args.start)  # now, or before the run that this one goes on from

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.randint(len(latents), (args.batch_size,), device=args.device)
        drop = torch.rand(args.batch_size, device=args.device) < DROP
        late = woken or step >= args.late_from
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            loss = flow_loss(
                model,
                latents[chosen],
                torch.where(drop[:, None, None], no_tokens, tokens[chosen]),
                torch.where(drop[:, None], no_pooled, pooled[chosen]),
                torch.where(drop[:, None], no_ids, ids[chosen]),
                first_readers(args.batch_size, args.device) if late else None,
            )
        return {"loss": loss}

    optimizer = adamw(
        model,
        lr=args.lr,
        weight_decay=0.01,
        rate=lambda name: WOKEN_RATE if woken and is_late_text(name) else 1.0,
    )
    trained = train(args.name, model, [optimizer], loss_of, **schedule_of(args))
    save_parts(trained.cpu(), ids.cpu())


def save_parts(model: Conditioned, ids: torch.Tensor) -> None:
    """Save the transformer and the third encoder, which knows the tokens of ids."""
    third_encoder.forget_(model.text_encoder_3, ids)
    model.transformer.save_pretrained(OUT)
    model.text_encoder_3.save_pretrained(OUT / "text_encoder_3")


if __name__ == "__main__":
    main()
