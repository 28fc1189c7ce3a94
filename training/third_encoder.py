"""The third text encoder of emoji-sd3: a T5 of one layer, trained with the transformer.

StableDiffusion3Pipeline feeds 256 tokens of it, without a mask. Here a token attends to neighbours
of at most four positions (the bias of everything farther is -30), padding is embedded as zero, and
T5 has no biases: beyond four positions behind the caption every output is zero. So training keeps
the first LENGTH positions and one zero token that represents the others (`null_token.py`).

References:
    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
        Transformer", 2020. https://arxiv.org/abs/1910.10683
"""

import re
import string

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

LENGTH = 16  # positions with a caption in reach: at most 12 tokens and the four behind them
NEIGHBOURS = 4
READ = LENGTH + 1 + NEIGHBOURS  # what the encoder reads, so that the positions above are exact
WIDTH = 512
FAR = -30.0


def build_tokenizer(captions: list[str]) -> T5Tokenizer:
    """A unigram tokenizer whose pieces are the captions' words; other words are spelt."""
    words = sorted({word for caption in captions for word in re.findall(r"[^\s,]+", caption)})
    letters = string.ascii_lowercase + string.digits
    spelt = [(piece, -20.0) for piece in (*letters, "\u2581") if piece not in words]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), (",", -2.0)]
    return T5Tokenizer(
        vocab=vocab + spelt + [("\u2581" + word, -8.0) for word in words], extra_ids=0
    )


def tokenize(tokenizer: T5Tokenizer, captions: list[str], length: int = READ) -> torch.Tensor:
    """Ids (N, length), as the pipeline makes them with max_sequence_length=length."""
    return tokenizer(
        captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def build(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A fresh encoder whose padding stays zero and whose attention stays near."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=512,
        num_layers=1,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=NEIGHBOURS + 1,
        dropout_rate=0.0,
        pad_token_id=0,
    )
    encoder = T5EncoderModel(config)
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    with torch.no_grad():
        encoder.shared.weight[0].zero_()
        bias.zero_()
        bias[7::8] = FAR
    keep_(encoder)
    return encoder


def keep_(encoder: T5EncoderModel) -> None:
    """Give the padding's embedding and the bias of far positions no gradient."""
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight

    def without(rows: slice):
        def zeroed(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient[rows] = 0
            return gradient

        return zeroed

    encoder.shared.weight.register_hook(without(slice(0, 1)))
    bias.register_hook(without(slice(7, None, 8)))


@torch.no_grad()
def forget_(encoder: T5EncoderModel, ids: torch.Tensor) -> None:
    """Set the embeddings of all tokens that are not among the ids to zero: they were never
    trained, and a letter of an unknown word says nothing."""
    unseen = torch.ones(len(encoder.shared.weight), dtype=torch.bool)
    unseen[ids.flatten()] = False
    encoder.shared.weight[unseen] = 0
