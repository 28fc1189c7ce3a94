"""The sizes after structured pruning or a fold of modulation, from config.json alone.

Heads, neurons, channels, parameters, bytes, multiply-accumulates (MACs): the model is built on the
meta device, shrunk as a run would shrink it, and counted before and after. Modulation is folded to
the largest rank that a run may take; where a run may keep it, that is counted, too.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..allocation.uniform_latency import shrunk
from ..config import PruningConfig
from ..models.call_shapes import CallArguments
from ..models.folded import folded_ranks
from ..models.meta_device import build_on_meta, example_inputs, macs_or_why_not
from .paper_count import paper_count
from .predicted_size import WIDTHS, predicted_model, rounded_layers, stored_bytes


def predict(
    model_config: Mapping[str, Any],
    config: PruningConfig,
    latents: tuple[int, int],
    text_tokens: int,
    dtype: str | None = None,
    frames: int = 1,
) -> dict[str, Any]:
    """Count parameters, MACs of one forward for one picture, and bytes, dense and pruned.

    Args:
        model_config: the denoiser's config.json.
        config: the settings of the pruning.
        latents: height and width of the latents.
        text_tokens: text tokens of a prompt; 0 without text.
        dtype: torch name of the format of the result; bytes are not counted without it.
        frames: frames of the latents.

    Returns:
        dense and pruned: parameters and MACs, whose total is None if they can't be counted, with
        the reason in `why_not`, and bytes; unfolded, the same of a run that keeps modulation, if
        it may; the removed heads, neurons and channels; equal_shares, whether these and the MACs
        are those of equal shares where the run decides; latents, text_tokens.

    Raises:
        UserError: the model can't be pruned with this config.
    """
    dense = build_on_meta(model_config)
    inputs = example_inputs(dense, *latents, text_tokens, frames)
    pruned, gone = predicted_model(dense, config)
    width = WIDTHS.get(dtype or "")
    found = {"dense": with_bytes(count(dense, inputs), dense, [], config, width)}
    rounded = rounded_layers(dense, pruned, config)
    found["pruned"] = with_bytes(count(pruned, inputs), pruned, rounded, config, width)
    if config.unfoldable == "keep" and folded_ranks(pruned):
        kept = predicted_model(dense, config, folded=False)[0]
        rounded = rounded_layers(dense, kept, config)
        found["unfolded"] = with_bytes(count(kept, inputs), kept, rounded, config, width)
    return {
        **found,
        **gone,
        "equal_shares": config.pattern == "structured" and config.allocation != "uniform",
        "latents": list(latents),
        "text_tokens": text_tokens,
    }


def with_bytes(
    counted: dict[str, Any],
    model: nn.Module,
    rounded: list[str],
    config: PruningConfig,
    width: int | None,
) -> dict[str, Any]:
    """Return the counts of a model with its bytes, None without the width of a weight."""
    return counted | {"bytes": width and stored_bytes(model, rounded, config, width)}


def count(model: nn.Module, inputs: CallArguments | None) -> dict[str, Any]:
    """Return parameters and MACs of a model on the meta device; without inputs why not."""
    unknown = (
        f"the arguments of {type(model).__name__} are not known here; "
        "obsdiff evaluate counts a real call"
    )
    macs = macs_or_why_not(model, inputs) if inputs else {"total": None, "why_not": unknown}
    return {"parameters": sum(p.numel() for p in model.parameters()), "macs": macs}


def as_the_paper_counts(
    model_config: Mapping[str, Any], config: PruningConfig, pixels_per_latent: int
) -> dict[str, dict[str, float]]:
    """Count parameters and "TFLOPs" as the OBS-Diff paper prints them; see cli/paper_count.py.

    Args:
        model_config: the denoiser's config.json.
        config: the settings of the pruning.
        pixels_per_latent: along a side.

    Returns:
        The counts of dense and pruned.
    """
    dense = build_on_meta(model_config)
    return {
        "dense": paper_count(dense, pixels_per_latent),
        "pruned": paper_count(shrunk(dense, config)[0], pixels_per_latent),
    }
