"""Train the caption models: a CLIP with two text towers (they condition the pipelines; the first is
also the metric model) and, with --judge, a second CLIP trained apart that never conditions
anything.

    python -m training.clip            # about 20 minutes on one core
    python -m training.clip --judge
"""

import argparse
import json

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from obsdiff.pipelines.builtin import builtin_path

from .data import CACHE, SIZE, as_input, load
from .loop import BF16, train
from .muon import optimizers

LENGTH = 16
MERGES = 1500
OUT = CACHE / "clip"


def build_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer of our captions. Every byte is in the vocabulary, alone and at a
    word's end, so that no word of a held-out name becomes <|endoftext|>; the end token's id is not
    2, which transformers treats specially."""
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    word = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    learned.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(word, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    learned.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(learned.to_str())["model"]["merges"]]
    tokens = alphabet + [a + "</w>" for a in alphabet]
    tokens += [t for t in dict.fromkeys(a + b for a, b in merges) if t not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def text_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def clip_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    vision = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 16,
        "projection_dim": 256,
    }
    return CLIPConfig(
        text_config=text_config(tokenizer, 3).to_dict(), vision_config=vision, projection_dim=256
    )


class Captioner(nn.Module):
    """One image tower against one or two text towers."""

    def __init__(self, tokenizer: CLIPTokenizer, judge: bool):
        super().__init__()
        self.clip = CLIPModel(clip_config(tokenizer))
        self.second = None if judge else CLIPTextModelWithProjection(text_config(tokenizer, 2))

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.clip(input_ids=ids, pixel_values=x)
        scale = self.clip.logit_scale.exp().clamp(max=100)
        texts = [out.text_embeds]
        if self.second is not None:
            texts.append(F.normalize(self.second(input_ids=ids).text_embeds, dim=-1))
        target = torch.arange(len(x))
        logits = [scale * out.image_embeds @ text.T for text in texts]
        loss = sum(F.cross_entropy(z, target) + F.cross_entropy(z.T, target) for z in logits) / (
            2 * len(logits)
        )
        return {"loss": loss, "top1": (logits[0].argmax(1) == target).float().mean().detach()}


def augment(x: torch.Tensor) -> torch.Tensor:
    """Shifts of up to 4 pixels on white, and a little noise: (B, 3, 64, 64) -> the same shape."""
    padded = F.pad(x, (4, 4, 4, 4), value=1.0)
    dx, dy = torch.randint(9, (2,)).tolist()
    half = len(x) // 2
    shifted = padded[:half, :, dy : dy + SIZE, dx : dx + SIZE]
    ex, ey = torch.randint(9, (2,)).tolist()
    x = torch.cat([shifted, padded[half:, :, ey : ey + SIZE, ex : ex + SIZE]])
    return x + torch.randn_like(x) * 0.1 * torch.rand(len(x), 1, 1, 1)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def retrieval(clip: CLIPModel, pictures: torch.Tensor, ids: torch.Tensor) -> float:
    """Share of pictures (N, 64, 64, 3) whose own caption among the N is the nearest."""
    out = clip(input_ids=ids, pixel_values=as_input(pictures))
    return (out.logits_per_image.argmax(1) == torch.arange(len(pictures))).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help=BF16)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(2 if args.judge else 1)
    pictures, rows = load()
    known = torch.tensor([not row["held_out"] for row in rows])
    shipped = builtin_path("emoji-clip")
    if (OUT / "tokenizer").exists() or (
        args.judge and shipped.exists()
    ):  # the judges read the same words
        tokenizer = CLIPTokenizer.from_pretrained(
            OUT / "tokenizer" if (OUT / "tokenizer").exists() else shipped
        )
    else:
        tokenizer = build_tokenizer([row["caption"] for row in rows if not row["held_out"]])
        tokenizer.save_pretrained(OUT / "tokenizer")
    ids = tokenize(tokenizer, [row["caption"] for row in rows])
    train_set, train_ids = pictures[known], ids[known]
    name = "judge" if args.judge else "clip"
    model = Captioner(tokenizer, args.judge)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.randperm(len(train_set))[: args.batch_size]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            return model(train_ids[chosen], augment(as_input(train_set[chosen])))

    train(
        name,
        model,
        optimizers(model, ("encoder.layers",), lr=1.5e-3, weight_decay=0.05),
        loss_of,
        args.steps,
        ema_decay=0.99,
        seed=args.judge + 1,
    )
    model.clip.save_pretrained(OUT / name)
    if not args.judge:
        first = CLIPTextModelWithProjection.from_pretrained(
            OUT / name, config=text_config(tokenizer, 3)
        )
        first.save_pretrained(OUT / "text_encoder")
        model.second.save_pretrained(OUT / "text_encoder_2")
    chosen = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(5))[:200]
    held = (~known).nonzero().flatten()[:200]
    trained = retrieval(model.clip, train_set[chosen], train_ids[chosen])
    unseen = retrieval(model.clip, pictures[held], ids[held])
    print(f"{name}: caption among 200: trained {trained:.3f}, held-out names {unseen:.3f}")


if __name__ == "__main__":
    main()
