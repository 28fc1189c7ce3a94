"""The table of what diffusers' blocks are made of: attentions and FFNs, recognised by the names of their linear layers.

Data only. An attention or FFN is one entry whatever class it belongs to, whatever its block and its list of blocks are called; a
block is found as the place where some of them stand together (models/discovery.py). Entries are tried from the top; a layer that
one of them has taken is not looked at again.

To add a model: see which of its linear layers no entry covers (`obsdiff inspect` says so), add an entry that has their names, and one
tiny config in tests/tiny_models.py.
"""

from dataclasses import dataclass

from .structure import Group, Tap, Unit

HEADS, NEURONS = "heads", "neurons"
# owners whose q, k and v read one tensor; of others it is not known, and k and v get a Hessian of their own
SELF = (
    "attn",
    "attn1",
    "*_attn1",
    "self_attn",
    "self_attention",
    "mha",
    "layers.*.attention",
    "*refiner.*.attention",
    "attentions.*",
)
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
# Lists of blocks by the first part of their names, in the order they run in; all others run where the star is.
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
STAY_DENSE = ("conv_in", "conv_out")  # of the convolutions that stand in no block of the table


@dataclass(frozen=True)
class Entry:
    """One kind of attention or FFN. Names are relative to its module, the owner (to the block, if the entry `is_block`); a layer
    that is missing is skipped, unless required."""

    name: str
    requires: tuple[str, ...]
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    owners: tuple[str, ...] = ("*",)  # wildcards of the owner's own name, or of its last names
    lacks: tuple[str, ...] = ()  # layers that must not be there
    keep_ends: bool = False  # the paper leaves the first and last block of these models whole in structured pruning
    is_block: bool = False
    alone: bool = False  # an FFN that may stand where no attention is


def attention(*layers: str, stream: str = "image") -> Tap:
    return Tap(layers, "attention", stream)


def outputs(*layers: str) -> tuple[Tap, ...]:
    """One tap for each: an attention of two streams has two output projections, which read different tokens."""
    return tuple(
        attention(layer, stream="text" if layer in ("to_add_out", "to_out_t") else "image")
        for layer in layers
    )


def standard(
    name: str, qkv: tuple[str, ...], out: str, owners: tuple[str, ...] = ("*",)
) -> tuple[Entry, Entry]:
    """Self attention, whose q, k and v (and gate) read one tensor, and cross attention, whose k and v read another."""
    q, k, v, *gates = qkv
    groups = (Group(HEADS, "", qkv, (out,)),)
    outs = (attention(out),)
    alike = (attention(*qkv),)
    apart = (attention(q, *gates), attention(k, v, stream="text"))
    return (
        Entry(
            f"self {name}",
            (q, k, v, out),
            (alike, outs),
            groups,
            owners=SELF if owners == ("*",) else owners,
        ),
        Entry(f"cross {name}", (q, k, v, out), (apart, outs), groups, owners=owners),
    )


def ffn(*ups: str, down: str, owners: tuple[str, ...] = ("*",), alone: bool = False) -> Entry:
    """Up projections (one, one of two rows a neuron, or a gate and an up) and the down projection that reads the neurons."""
    units = ((Tap(ups, "ffn"),), (Tap((down,), "ffn"),))
    return Entry(
        "FFN", (*ups, down), units, (Group(NEURONS, "", ups, (down,)),), owners=owners, alone=alone
    )


ENTRIES = (
    Entry(  # SD3.5-medium: a second attention beside the first, on the image alone
        "joint attention",
        ("attn.to_q", "attn.add_q_proj", "attn.to_out.0", "attn2.to_q", "attn2.to_out.0"),
        (
            (
                attention("attn.to_q", "attn.to_k", "attn.to_v"),
                attention("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", stream="text"),
                attention("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            ),
            (
                attention("attn.to_out.0"),
                attention("attn.to_add_out", stream="text"),
                attention("attn2.to_out.0"),
            ),
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
    Entry(  # SD3, FLUX's double blocks and most that came after: two streams, one attention
        "joint attention",
        ("to_q", "add_q_proj"),
        (
            (attention(*QKV), attention(*ADDED, stream="text")),
            outputs("to_out.0", "to_out", "to_add_out"),
        ),
        (Group(HEADS, "", (*QKV, *ADDED), ("to_out.0", "to_out", "to_add_out")),),
        keep_ends=True,
    ),
    Entry(  # Motif: a cross attention is added to the heads before the output projection
        "parallel attention and FFN",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out", "cross_attn.to_out.0"),
        (
            (attention("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", stream="joint"),),
            (attention("proj_out", stream="joint"),),
        ),
        (
            Group(
                HEADS,
                "attn",
                ("attn.to_q", "attn.to_k", "attn.to_v"),
                ("proj_out",),
                refused="the cross attention is added to its heads",
            ),
            Group(NEURONS, "", ("proj_mlp",), ("proj_out",), beside=("attn.to_q",)),
        ),
        keep_ends=True,
        is_block=True,
    ),
    Entry(  # FLUX's single blocks: attention and FFN in parallel, one output projection reads [heads | neurons]
        "parallel attention and FFN",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"),
        (
            (attention("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", stream="joint"),),
            (attention("proj_out", stream="joint"),),
        ),
        (
            Group(HEADS, "attn", ("attn.to_q", "attn.to_k", "attn.to_v"), ("proj_out",)),
            Group(NEURONS, "", ("proj_mlp",), ("proj_out",), beside=("attn.to_q",)),
        ),
        keep_ends=True,
        is_block=True,
    ),
    Entry(  # the same in FLUX.2, with one input projection: q, k, v, gate and up
        "parallel attention and FFN",
        ("to_qkv_mlp_proj", "to_out"),
        ((attention("to_qkv_mlp_proj", stream="joint"),), (attention("to_out", stream="joint"),)),
        (
            Group(
                HEADS,
                "",
                ("to_qkv_mlp_proj",),
                ("to_out",),
                rows=((HEADS, HEADS, HEADS, NEURONS, NEURONS),),
            ),
            Group(
                NEURONS,
                "",
                ("to_qkv_mlp_proj",),
                ("to_out",),
                rows=((HEADS, HEADS, HEADS, NEURONS, NEURONS),),
            ),
        ),
        keep_ends=True,
    ),
    Entry(  # HiDream's double blocks
        "joint attention",
        ("to_q", "to_q_t", "to_out", "to_out_t"),
        (
            (attention(*QKV), attention("to_q_t", "to_k_t", "to_v_t", stream="text")),
            outputs("to_out", "to_out_t"),
        ),
        (Group(HEADS, "", (*QKV, "to_q_t", "to_k_t", "to_v_t"), ("to_out", "to_out_t")),),
        keep_ends=True,
    ),
    Entry(  # JoyImage: two streams, q, k and v of each in one layer
        "joint attention",
        ("img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj"),
        (
            (attention("img_attn_qkv"), attention("txt_attn_qkv", stream="text")),
            (attention("img_attn_proj"), attention("txt_attn_proj", stream="text")),
        ),
        (Group(HEADS, "", ("img_attn_qkv", "txt_attn_qkv"), ("img_attn_proj", "txt_attn_proj")),),
        keep_ends=True,
    ),
    Entry(  # PRX: the image asks both streams
        "joint attention",
        ("img_qkv_proj", "txt_kv_proj", "to_out.0"),
        (
            (attention("img_qkv_proj"), attention("txt_kv_proj", stream="text")),
            (attention("to_out.0"),),
        ),
        (Group(HEADS, "", ("img_qkv_proj", "txt_kv_proj"), ("to_out.0",)),),
    ),
    Entry(  # keys and values of a second text or of an image beside those of a first one: Wan from images
        "cross attention",
        ("to_q", "to_k", "add_k_proj", "add_v_proj", "to_out.0"),
        (
            (
                attention("to_q"),
                attention("to_k", "to_v", stream="text"),
                attention("add_k_proj", "add_v_proj", stream="text"),
            ),
            (attention("to_out.0"),),
        ),
        (Group(HEADS, "", (*QKV, "add_k_proj", "add_v_proj"), ("to_out.0",)),),
        owners=("attn2", "cross_attn"),
    ),
    Entry(  # self attention that reads the text as well: the UNets of IF and Kandinsky 2, Nucleus
        "self attention with text",
        ("to_q", "add_k_proj", "add_v_proj", "to_out.0"),
        (
            (attention(*QKV), attention("add_k_proj", "add_v_proj", stream="text")),
            (attention("to_out.0"),),
        ),
        (Group(HEADS, "", (*QKV, "add_k_proj", "add_v_proj"), ("to_out.0",)),),
    ),
    Entry(  # Stable Audio 3
        "self attention",
        ("to_qkv", "to_out"),
        ((attention("to_qkv"),), (attention("to_out"),)),
        (Group(HEADS, "", ("to_qkv",), ("to_out",)),),
    ),
    Entry(
        "cross attention",
        ("to_q", "to_kv", "to_out"),
        ((attention("to_q"), attention("to_kv", stream="text")), (attention("to_out"),)),
        (Group(HEADS, "", ("to_q", "to_kv"), ("to_out",)),),
        owners=("cross_attn",),
    ),
    Entry(  # Sana-WM: linear attention, and a second one on the camera's path
        "self attention",
        ("qkv", "proj"),
        (
            (attention("qkv", "q_proj_cam", "k_proj_cam", "v_proj_cam", "output_gate"),),
            (attention("proj"), attention("out_proj_cam")),
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
    Entry(
        "cross attention",
        ("q_linear", "kv_linear", "proj"),
        ((attention("q_linear"), attention("kv_linear", stream="text")), (attention("proj"),)),
        (Group(HEADS, "", ("q_linear", "kv_linear"), ("proj",)),),
    ),
    Entry(  # Lumina-Next: the sum of both attentions goes through the second one's output projection
        "self and cross attention",
        ("attn1.to_q", "attn2.to_q", "attn2.to_out.0"),
        (
            (
                attention("attn1.to_q", "attn1.to_k", "attn1.to_v"),
                attention("attn2.to_q"),
                attention("attn2.to_k", "attn2.to_v", stream="text"),
            ),
            (attention("attn2.to_out.0"),),
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
    *standard(
        "attention", (*QKV, "to_gate"), "to_out.0", owners=("attn",)
    ),  # Krea 2: a gate on what the heads give
    *standard("attention", (*QKV, "to_g"), "to_out", owners=("mha",)),  # RFD4: the same
    standard("attention", QKV, "to_out.0", owners=("attention_blocks.*.attn1",))[1],  # UVit
    *standard("attention", QKV, "to_out.0"),  # the UNets of SD and SDXL, and most transformers
    *standard("attention", QKV, "to_out"),
    *standard("attention", ("to_query", "to_key", "to_value"), "out_layer"),  # Kandinsky 5 and 6
    Entry(  # UNet1D
        "self attention",
        ("query", "key", "value", "proj_attn"),
        ((attention("query", "key", "value"),), (attention("proj_attn"),)),
        (
            Group(
                HEADS,
                "",
                ("query", "key", "value"),
                ("proj_attn",),
                refused="its forward wants as many channels of heads as of inputs",
            ),
        ),
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
    Entry(  # the shortcut reads the block's input as it is, conv1 what norm and activation make of it
        "residual block",
        ("conv1", "conv2"),
        ((Tap(("conv1",), "conv"), Tap(("conv_shortcut",), "conv")), (Tap(("conv2",), "conv"),)),
        (Group("channels", "", ("conv1", "time_emb_proj"), ("conv2",), norm="norm2"),),
        owners=("resnets.*", "*samplers.*", "resnet_*"),
    ),
    Entry("sampler", ("conv",), ((Tap(("conv",), "conv"),),), (), owners=("*samplers.*",)),
)
