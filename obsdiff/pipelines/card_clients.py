"""The part of a model card that says which programs open the folder, and why others refuse it.

docs/clients.md has the table of what was tried, with versions. No torch.
"""

from collections.abc import Collection

HEADING = "## Opens in"
ZEROS = [
    "- diffusers, without obsdiff.",
    "- Every program that opens the dense model: names and shapes of all tensors are the same.",
]
WITH_OBSDIFF = [
    "- diffusers, after `import obsdiff`.",
    "- Not in diffusers alone, which has no class for these shapes. Do not pass "
    "`ignore_mismatched_sizes=True`: it replaces every layer of another shape by random weights.",
]
WITH_CODE = [
    "- diffusers without obsdiff, with `trust_remote_code=True`: it runs the file `obsdiff.py` "
    "beside the weights. Read that file first, and trust its publisher.",
    "- `obsdiff.load(DIR)` and obsdiff's commands, which do not run the file.",
]
FEWER_IN_UNET = [
    "- diffusers, without obsdiff: the class of the dense model, with fewer blocks in "
    "`config.json`.",
    "- **Not ComfyUI as it is**: ComfyUI takes the UNet's file for the dense model's, and gives "
    "the blocks that are gone uninitialised weights. ComfyUI opens the file of `obsdiff export "
    "FOLDER --to single-file --output FILE`, whose blocks it counts (SD 1.5's structure was "
    "tried), or stops.",
    "- A LoRA for the dense model would change other blocks. `obsdiff.json` has the former numbers "
    "under `depth.kept`.",
]
FEWER_BLOCKS = [
    "- diffusers, without obsdiff: the class of the dense model, with fewer blocks in "
    "`config.json`.",
    "- ComfyUI opens the transformer's file of FLUX.1 and Qwen-Image, whose blocks it counts "
    "(tried with 0.3.64); it stops at SD3's, whose blocks it takes from the width. Others were not "
    "tried: a program that reads the number from the file or from `config.json` may open it.",
    "- What names blocks by their number is for the dense model: a LoRA would change other blocks, "
    "ControlNets and skip-layer guidance would reach others. `obsdiff.json` has the former numbers "
    "under `depth.kept`.",
]
PADDED = (
    "- Wherever the dense model opens, and as large as it, after `obsdiff export DIR --to padded "
    "--output OUT`: what was removed becomes zeros."
)
NODE = (
    "- ComfyUI with the node in obsdiff's `integrations/comfyui`, after `obsdiff export DIR --to "
    "comfyui --output FILE`, if the model is SD 1.5, SDXL, SD3 or FLUX.1."
)
WITHOUT_HEADS = [
    NODE,
    "- Not in ComfyUI alone, which stops with `Could not detect model type`. Its numbers of heads "
    "are constants, so it would compute another attention without an error; a marker in the "
    "weights prevents that.",
    "- Not in other programs that read head counts from anywhere but this folder's `config.json`.",
]
WITH_ALL_HEADS = [
    "- ComfyUI, where its linear layers take their shapes from the file (dynamic VRAM); else it "
    "stops with `size mismatch`.",
    NODE,
]
WITHOUT_CHANNELS = [
    "- Not in ComfyUI, which stops with `size mismatch`: channels of convolutions were removed.",
]


WITH_CORRECTIONS = [
    "- Not in ComfyUI, which stops with `Could not detect model type`. It would skip the "
    "corrections of low rank without an error; a marker in the weights prevents that.",
]
MERGED = (
    "- Wherever the dense model opens, without the zeros, after `obsdiff export DIR --to padded "
    "--output OUT`: the corrections are added to the weights."
)

WITH_BITMASKS = [
    "- diffusers, after `import obsdiff`, which makes the plain model from values and bitmasks.",
    "- Every program that opens the dense model, after `obsdiff unpack DIR --output OUT`; this "
    "folder itself in none: a marker in the weights prevents ComfyUI from trying.",
]


WITH_FOLDS = [
    "- Not in ComfyUI, which stops with `Could not detect model type`. It would not fill the "
    "modulation layers, which are two tensors here; a marker in the weights prevents that.",
]
UNFOLDED = (
    "- Wherever the dense model opens, and as large as it, after `obsdiff export DIR --to padded "
    "--output OUT`: the factors of each modulation layer are multiplied, corrections of low rank "
    "are added to their weights, and what was removed becomes zeros."
)


WITH_BITS = [
    "- with torchao 0.18 or newer (`pip install torchao`), whose tensors the rounded weights are; "
    "pass the dtype of the code above, since diffusers opens such a model in bfloat16 otherwise.",
    "- Not known of other programs: none was tried.",
]


def opens_in_depth(lists: Collection[str]) -> list[str]:
    """Return the lines of a card on the programs that open a model with fewer blocks.

    Args:
        lists: the names of the model's lists of blocks; those of a UNet are inside attentions.
    """
    in_unet = any(".attentions." in name for name in lists)
    return [HEADING, "", *(FEWER_IN_UNET if in_unet else FEWER_BLOCKS)]


def opens_in(kinds: Collection[str]) -> list[str]:
    """Return the lines of a card on the programs that open the folder.

    Args:
        kinds: what was removed from the denoiser, or "low rank" for corrections that were added,
            "modulation" for folded layers, "bits" for rounded weights, "bitmask" for zeros that
            are stored as bits, and "code" for a modelling file beside the weights; nothing for
            plain zeros.
    """
    if "bits" in kinds:
        return [HEADING, "", (WITH_OBSDIFF if set(kinds) - {"bits"} else ZEROS)[0], *WITH_BITS]
    if "bitmask" in kinds:
        more = [UNFOLDED] if "modulation" in kinds else [MERGED] if "low rank" in kinds else []
        return [HEADING, "", *WITH_BITMASKS, *more]
    if "modulation" in kinds:
        return [HEADING, "", *WITH_OBSDIFF, *WITH_FOLDS, UNFOLDED]
    if "low rank" in kinds:
        return [HEADING, "", *WITH_OBSDIFF, *WITH_CORRECTIONS, MERGED]
    if not kinds:
        return [HEADING, "", *ZEROS]
    opens = WITH_CODE if "code" in kinds else WITH_OBSDIFF
    if "heads" in kinds:
        return [HEADING, "", *opens, *WITHOUT_HEADS, PADDED]
    comfyui = WITHOUT_CHANNELS if "channels" in kinds else WITH_ALL_HEADS
    return [HEADING, "", *opens, *comfyui, PADDED]
