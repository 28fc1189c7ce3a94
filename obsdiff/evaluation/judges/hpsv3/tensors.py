"""Names and shapes of HPSv3's tensors, checked against a file's header. Imports no torch.

The published names are those that transformers gave Qwen2-VL before 4.52: "model." the text model,
"visual." the image tower. Later ones have "model.language_model." and "model.visual.". Both are
read; here the names are those of transformers' Qwen2VLModel, and "rm_head." the head.

Shape letters: V tokens, H width of the text model, K width of its keys, F neurons of its FFN, E
width of the image tower, M neurons of its FFN, S width of the patches of one token.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....pipelines.headers import SAFETENSORS_DTYPES
from ....pipelines.strict_header import TensorInfo

EMBEDDING = "language_model.embed_tokens.weight"
HEAD = "rm_head."
UNUSED = "lm_head.weight"  # predicts the next token
WIDTHS = {0: 1024, 3: 16, 5: 2}  # outputs of the head's linear layers, by their published number
RENAMED = (  # the first that matches
    (r"^model\.(language_model|visual)\.", r"\1."),
    (r"^model\.", "language_model."),
)
MOST_LAYERS = 1_000
LARGEST = 10_000_000  # of a width
FORMATS = set(SAFETENSORS_DTYPES) - {"F64"}
PATCH, FRAMES, MERGE, RATIO = 14, 2, 2, 4  # Qwen2-VL's defaults
Shapes = dict[str, tuple[int, ...]]


def renamed(name: str) -> str:
    """Return the name of a tensor in Qwen2VLModel, or of the head, for either naming."""
    for pattern, new in RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, new, name)
    return name


def check_tensors(header: Mapping[str, TensorInfo], config: dict[str, Any], file: Path) -> None:
    """Check that a file has exactly the tensors of HPSv3.

    Args:
        header: of the file.
        config: the content of config.json.
        file: for the error message.

    Raises:
        UserError: tensors are missing, left over, of another shape or of another format.
    """
    found: Shapes = {renamed(name): tuple(info["shape"]) for name, info in header.items()}
    found.pop(UNUSED, None)
    rows = (found.get(EMBEDDING) or (0,))[0]
    wanted = shapes_of(config, rows, file.parent / "config.json")
    names_of = Counter(map(renamed, header))
    both = wanted.keys() & found.keys()
    problems = {
        "missing": sorted(wanted.keys() - found.keys(), key=lambda name: not name.startswith(HEAD)),
        "left over": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(name for name in both if wanted[name] != found[name]),
        "under two names": sorted(name for name, count in names_of.items() if count > 1),
        "of another number format": sorted(
            f"{name} ({info['dtype']})"
            for name, info in header.items()
            if info["dtype"] not in FORMATS
        ),
    }
    for problem, names in problems.items():
        if names:
            raise UserError(
                f"hpsv3: {file}: expected the weights of HPSv3 for the sizes of its config.json, "
                f"found {len(names)} tensors {problem}, such as {names[0]}"
            )


def shapes_of(config: dict[str, Any], rows: int, file: Path) -> Shapes:
    """Return the shapes of all tensors but the unused one, by name.

    Args:
        config: the content of config.json.
        rows: V, the rows of the embedding; the reward token makes it another than the config's.
        file: the config's path, for the error message.

    Raises:
        UserError: a size is missing or no such number.
    """
    text = config.get("text_config") or config
    vision = config.get("vision_config") or {}
    for part in (text, vision):
        if not isinstance(part, dict):
            raise UserError(f"hpsv3: {file}: expected sizes, found {type(part).__name__}")
    width = size(text, "hidden_size", file)
    shapes = text_shapes(text, width, rows, file) | vision_shapes(vision, width, file)
    inputs = width
    for number, outputs in WIDTHS.items():
        shapes |= linear(f"{HEAD}{number}", outputs, inputs)
        inputs = outputs
    return shapes


def text_shapes(text: dict[str, Any], width: int, rows: int, file: Path) -> Shapes:
    """Return the shapes of the text model; see shapes_of."""
    heads, groups = (size(text, f"num_{name}_heads", file) for name in ("attention", "key_value"))
    keys, neurons = width // heads * groups, size(text, "intermediate_size", file)
    shapes: Shapes = {EMBEDDING: (rows, width), "language_model.norm.weight": (width,)}
    for i in range(size(text, "num_hidden_layers", file, most=MOST_LAYERS)):
        layer = f"language_model.layers.{i}"
        shapes |= linear(f"{layer}.self_attn.q_proj", width, width)
        shapes |= linear(f"{layer}.self_attn.k_proj", keys, width)
        shapes |= linear(f"{layer}.self_attn.v_proj", keys, width)
        shapes |= {
            f"{layer}.self_attn.o_proj.weight": (width, width),
            f"{layer}.mlp.gate_proj.weight": (neurons, width),
            f"{layer}.mlp.up_proj.weight": (neurons, width),
            f"{layer}.mlp.down_proj.weight": (width, neurons),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def vision_shapes(vision: dict[str, Any], width: int, file: Path) -> Shapes:
    """Return the shapes of the image tower, whose merger makes tokens of `width`; see shapes_of."""
    own = size(vision, "embed_dim", file)
    side = size(vision, "patch_size", file, PATCH)
    frames = size(vision, "temporal_patch_size", file, FRAMES)
    merged = own * size(vision, "spatial_merge_size", file, MERGE) ** 2
    neurons = own * size(vision, "mlp_ratio", file, RATIO)
    shapes: Shapes = {"visual.patch_embed.proj.weight": (own, 3, frames, side, side)}
    for i in range(size(vision, "depth", file, most=MOST_LAYERS)):
        block = f"visual.blocks.{i}"
        shapes |= normalisation(f"{block}.norm1", own) | normalisation(f"{block}.norm2", own)
        shapes |= linear(f"{block}.attn.qkv", 3 * own, own)
        shapes |= linear(f"{block}.attn.proj", own, own)
        shapes |= linear(f"{block}.mlp.fc1", neurons, own)
        shapes |= linear(f"{block}.mlp.fc2", own, neurons)
    shapes |= normalisation("visual.merger.ln_q", own)
    shapes |= linear("visual.merger.mlp.0", merged, merged)
    return shapes | linear("visual.merger.mlp.2", width, merged)


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    """Return the shapes of a linear layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def normalisation(name: str, width: int) -> Shapes:
    """Return the shapes of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def size(
    config: dict[str, Any], name: str, file: Path, default: int | None = None, most: int = LARGEST
) -> int:
    """Return a size of a config, 1 to `most`; UserError for another value."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"hpsv3: {file}: expected a whole number from 1 to {most} as {name}, found {value!r}"
        )
    return value
