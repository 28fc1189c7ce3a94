"""The table of the blocks of diffusers' denoisers, keyed by the names of their linear layers.

Data only, no torch. One entry describes an attention, FFN or residual block whatever class it
belongs to, and whatever the names of its block and of its list of blocks. models/discovery.py finds
a block as the module that contains such parts. Entries are tried from the top; a layer of an
earlier entry is not matched again.

To add a model, so that it can be pruned with every pattern:

1. Add a tiny config and the arguments of one forward to tests/tiny_models.py.
2. Run `python -m tests.coverage_of_models CLASS`: it lists the layers that no entry covers.
3. Add one entry to ENTRIES with those names, in most cases one line: `attention(...)`,
   `self_and_cross(...)` or `ffn(...)` of models/block_entry.py. A tap in it names the layers that
   read the same tensor. If a layer inside a block is part of no attention and no FFN, add its name
   to DENSE_PATTERNS instead.
4. Run `python -m tests.coverage_of_models`: it checks every class on real runs and writes
   docs/models.md.

A few models need another fact, in this file, too: blocks that run in another order than their names
suggest (FORWARD_RANK, RUN_LAST), an attention processor that depends on its heads (FIXED), other
names of the attributes that count heads or neurons (HEAD_COUNTS, COUNT_ATTRIBUTES).

Pruning needs nothing else. The prediction of `inspect`, and budgets in multiply-accumulates there,
also require the arguments of a forward and the pipeline's text tokens: ARGUMENTS and FAMILIES in
models/call_shapes.py.
"""

from .block_entry import (
    HEADS,
    NEURONS,
    Entry,
    FixedHeads,
    attention,
    cross,
    ffn,
    image,
    joint,
    parallel,
    self_and_cross,
    text,
)
from .structure import Group, Tap

QKV, ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
# Linears inside a block that stay dense: modulation, gates, positions, projections of a condition.
DENSE_PATTERNS = (
    "*norm*.*",
    "*mod*",
    "*ada[lL_]*",
    "*emb*",
    "*gate*",
    "*film*",
    "*FiLM*",
    "*mapper*",
    "*beta_proj",
    "encoder_proj",
    "plucker_proj",
    "proj_in",
    "proj_out",
    "*scale_output*",
    "*to_bias",
)
# Lists of blocks by the first part of their names, in the order in which they run. All other lists
# have the rank of the star.
FORWARD_RANK = (
    ("*embedder", "*refiner*", "text_fusion", "perceiver", "transformer_in", "image_latents*"),
    ("*text_transformer_blocks", "txt_*", "vace_blocks", "add_*"),
    ("down_block*",),
    ("*",),
    ("single_*",),
    ("up_block*", "face_adapter"),
)
# Of blocks with the same numbers, those with such a part in their names run last.
RUN_LAST = ("temporal_*", "attention_blocks", "audio_*")
STAY_DENSE = ("conv_in", "conv_out")  # convolutions outside all blocks of the table
TEXT_WORDS = ("context", "text", "txt")  # in the names of FFNs that read text tokens
# Attributes of attention modules that store the number of query heads.
HEAD_COUNTS = ("heads", "num_heads", "num_attention_heads", "n_heads")
# Attributes of a module that are proportional to its number of heads or neurons.
COUNT_ATTRIBUTES = {
    "heads": (
        *HEAD_COUNTS,
        "kv_heads",
        "num_kv_heads",
        "num_key_value_heads",
        "inner_dim",
        "inner_kv_dim",
        "kv_inner_dim",
        "sliceable_head_dim",
    ),
    "neurons": ("mlp_hidden_dim",),
}
PAST_OUTPUT = "EasyAnimateAttnProcessor2_0"
# Attention processors whose heads cannot be removed.
FIXED = {
    PAST_OUTPUT: FixedHeads(1, "the text reads the heads themselves, past the output projection"),
    "MochiAttnProcessor2_0": FixedHeads(
        2, "every head has rotary frequencies of its own, which all blocks share"
    ),
    "OmniGenAttnProcessor2_0": FixedHeads(
        1, "its processor requires as many head channels as outputs"
    ),
}
# Those of them in whose heads the value dimensions cannot be reordered.
FIXED_ORDER = {name: FIXED[name] for name in (PAST_OUTPUT,)}

FUSED_ROWS = ((HEADS, HEADS, HEADS, NEURONS, NEURONS),)  # q, k, v, gate, up in one layer
ENTRIES = (
    Entry(  # SD3.5-medium: a second attention beside the first, on the image alone
        "joint attention",
        ("attn.to_q", "attn.add_q_proj", "attn.to_out.0", "attn2.to_q", "attn2.to_out.0"),
        (
            (
                image("attn.to_q", "attn.to_k", "attn.to_v"),
                text("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                image("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            ),
            (image("attn.to_out.0"), text("attn.to_add_out"), image("attn2.to_out.0")),
        ),
        (
            Group(
                HEADS,
                "attn",
                tuple(f"attn.{x}" for x in (*QKV, *ADDED)),
                ("attn.to_out.0", "attn.to_add_out"),
            ),
            Group(HEADS, "attn2", tuple(f"attn2.{x}" for x in QKV), ("attn2.to_out.0",)),
        ),
        keep_ends=True,
        is_block=True,
    ),
    attention(  # SD3, FLUX's double blocks and most later models: two streams, one attention
        "joint attention",
        image(*QKV),
        text(*ADDED),
        out=("to_out.0", "to_out", "to_add_out"),
        requires=("to_q", "add_q_proj"),
        keep_ends=True,
    ),
    # Motif: a cross attention is added to the heads before the output projection
    parallel("cross_attn.to_out.0", refused="the cross attention is added to its heads"),
    parallel(),  # FLUX's single blocks
    Entry(  # the same in FLUX.2, with one input projection: q, k, v, gate and up
        "parallel attention and FFN",
        ("to_qkv_mlp_proj", "to_out"),
        ((joint("to_qkv_mlp_proj"),), (joint("to_out"),)),
        (
            Group(HEADS, "", ("to_qkv_mlp_proj",), ("to_out",), rows=FUSED_ROWS),
            Group(NEURONS, "", ("to_qkv_mlp_proj",), ("to_out",), rows=FUSED_ROWS),
        ),
        keep_ends=True,
    ),
    attention(  # HiDream's double blocks
        "joint attention",
        image(*QKV),
        text("to_q_t", "to_k_t", "to_v_t"),
        out=("to_out", "to_out_t"),
        requires=("to_q", "to_q_t", "to_out", "to_out_t"),
        keep_ends=True,
    ),
    attention(  # JoyImage: two streams, q, k and v of each in one layer
        "joint attention",
        image("img_attn_qkv"),
        text("txt_attn_qkv"),
        out=("img_attn_proj", "txt_attn_proj"),
        keep_ends=True,
    ),
    attention(  # PRX: queries of the image alone, keys and values of both streams
        "joint attention", image("img_qkv_proj"), text("txt_kv_proj"), out="to_out.0"
    ),
    attention(  # Wan from images: more keys and values, of a second text or of an image
        "cross attention",
        image("to_q"),
        text("to_k", "to_v"),
        text("add_k_proj", "add_v_proj"),
        out="to_out.0",
        requires=("to_q", "to_k", "add_k_proj", "add_v_proj", "to_out.0"),
        owners=("attn2", "cross_attn"),
    ),
    attention(  # self attention that also reads the text: the UNets of IF and Kandinsky 2, Nucleus
        "self attention with text",
        image(*QKV),
        text("add_k_proj", "add_v_proj"),
        out="to_out.0",
        requires=("to_q", "add_k_proj", "add_v_proj", "to_out.0"),
    ),
    attention("self attention", image("to_qkv"), out="to_out"),  # Stable Audio 3
    attention(
        "cross attention", image("to_q"), text("to_kv"), out="to_out", owners=("cross_attn",)
    ),
    Entry(  # Sana-WM: linear attention, and a second one on the camera's path
        "self attention",
        ("qkv", "proj"),
        (
            (image("qkv", "q_proj_cam", "k_proj_cam", "v_proj_cam", "output_gate"),),
            (image("proj"), image("out_proj_cam")),
        ),
        (
            Group(
                HEADS,
                "",
                ("qkv",),
                ("proj",),
                refused="its heads and those of the camera's path share gates",
            ),
        ),
    ),
    attention("cross attention", image("q_linear"), text("kv_linear"), out="proj"),
    Entry(  # Lumina-Next: the sum of both attentions is projected by the second one's output layer
        "self and cross attention",
        ("attn1.to_q", "attn2.to_q", "attn2.to_out.0"),
        (
            (
                image("attn1.to_q", "attn1.to_k", "attn1.to_v"),
                image("attn2.to_q"),
                text("attn2.to_k", "attn2.to_v"),
            ),
            (image("attn2.to_out.0"),),
        ),
        (
            Group(
                HEADS,
                "attn2",
                ("attn1.to_q", "attn2.to_q"),
                ("attn2.to_out.0",),
                refused="two attentions share one output projection",
            ),
        ),
        lacks=("attn1.to_out.0",),
        is_block=True,
    ),
    *self_and_cross((*QKV, "to_gate"), "to_out.0", owners=("attn",)),  # Krea 2: gated heads
    *self_and_cross((*QKV, "to_g"), "to_out", owners=("mha",)),  # RFD4: gated heads
    cross(QKV, "to_out.0", owners=("attention_blocks.*.attn1",)),  # UVit
    *self_and_cross(QKV, "to_out.0"),  # the UNets of SD and SDXL, and most transformers
    *self_and_cross(QKV, "to_out"),
    *self_and_cross(("to_query", "to_key", "to_value"), "out_layer"),  # Kandinsky 5 and 6
    attention(  # UNet1D
        "self attention",
        image("query", "key", "value"),
        out="proj_attn",
        refused="its forward requires as many head channels as inputs",
    ),
    ffn("net.0.proj", down="net.2"),
    ffn("linear_1", "linear_2", down="out_projection"),  # AuraFlow
    ffn("linear_1", "linear_3", down="linear_2"),  # Lumina
    ffn("w1", "w3", down="w2"),
    ffn("gate_proj", "up_proj", down="down_proj"),
    ffn("gate_proj", "up_proj", down="linear_fc2"),  # Ernie
    ffn("gate_layer", "proj", down="out"),  # Qwen-Image 2.1
    ffn("gate", "up", down="down"),  # Krea 2
    ffn("gate_up_proj", down="down_proj"),  # OmniGen
    ffn("linear_in", down="linear_out"),  # FLUX.2 and 3
    ffn("in_layer", down="out_layer", owners=("feed_forward",)),  # Kandinsky 5
    ffn("ff.0", down="ff.3"),  # LongCat audio
    ffn("ff_in", down="ff_out"),  # MiniMax music
    ffn("proj_in", down="proj_out", owners=("ff",)),  # Stable Audio 3
    ffn("0", down="2", owners=("ffn",)),  # Wan-Animate 2
    ffn("swish_linear.0", down="linear_out", owners=("transition",), alone=True),  # RFD4
    ffn("wi_0", "wi_1", down="wo", alone=True),  # T5
    ffn("channelwise_linear_1", down="channelwise_linear_2", alone=True),  # UVit
    ffn("channelwise.0", down="channelwise.4", alone=True),  # Stable Cascade
)
CONVOLUTIONS = (
    Entry(  # conv1 reads the block's input normalised and activated, the shortcut reads it as it is
        "residual block",
        ("conv1", "conv2"),
        ((Tap(("conv1",), "conv"), Tap(("conv_shortcut",), "conv")), (Tap(("conv2",), "conv"),)),
        (Group("channels", "", ("conv1", "time_emb_proj"), ("conv2",), norm="norm2"),),
        owners=("resnets.*", "*samplers.*", "resnet_*"),
    ),
    Entry("sampler", ("conv",), ((Tap(("conv",), "conv"),),), (), owners=("*samplers.*",)),
)
