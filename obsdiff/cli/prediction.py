"""What structured pruning would leave: heads, neurons, channels, parameters and multiply-accumulates, from config.json alone.

The model is built on the meta device, shrunk as a run would shrink it, and counted before and after.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..allocation.uniform_latency import shrunk
from ..config import PruningConfig
from ..models.call_shapes import CallArguments
from ..models.meta_device import build_on_meta, example_inputs, macs_or_why_not
from .paper_count import paper_count


def predict(
    model_config: Mapping[str, Any],
    config: PruningConfig,
    latents: tuple[int, int],
    text_tokens: int,
) -> dict[str, Any]:
    """Parameters and MACs of one forward for one picture, dense and pruned, and the heads and neurons that leave, apart.

    latents: height and width of the latents. MACs that can't be counted have a total of None and say `why_not`. UserError for a
    model that can't be pruned so.
    """
    dense = build_on_meta(model_config)
    inputs = example_inputs(dense, *latents, text_tokens)
    pruned, gone = shrunk(dense, config)
    return {
        "dense": count(dense, inputs),
        "pruned": count(pruned, inputs),
        **gone,
        "latents": list(latents),
        "text_tokens": text_tokens,
    }


def count(model: nn.Module, inputs: CallArguments | None) -> dict[str, Any]:
    unknown = f"the arguments of {type(model).__name__} are not known here; obsdiff evaluate counts a real call"
    macs = macs_or_why_not(model, inputs) if inputs else {"total": None, "why_not": unknown}
    return {"parameters": sum(p.numel() for p in model.parameters()), "macs": macs}


def as_the_paper_counts(
    model_config: Mapping[str, Any], config: PruningConfig, pixels_per_latent: int
) -> dict[str, dict[str, float]]:
    """Billions of parameters and "TFLOPs" of dense and pruned, as the OBS-Diff paper prints them; see cli/paper_count.py."""
    dense = build_on_meta(model_config)
    return {
        "dense": paper_count(dense, pixels_per_latent),
        "pruned": paper_count(shrunk(dense, config)[0], pixels_per_latent),
    }
