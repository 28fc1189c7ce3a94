"""Loading adapters that were made for the dense model into a model of a pruned class.

The weights of a LoRA, an IP-Adapter and Custom Diffusion are cut to what the model kept; what can't
be cut is refused before anything is loaded. diffusers itself would keep the model half wrapped if a
LoRA does not fit, and would read the wider keys of an IP-Adapter as more tokens without an error.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from diffusers.loaders import SD3LoraLoaderMixin
from torch import Tensor, nn

from ..errors import UserError
from .cuts import Cut, cuts_of
from .dense_shapes import dense_class
from .layout import layout_of
from .lora import cut_lora
from .surgery import keep_

Method = Callable[..., Any]
IP_LAYERS = ("to_k_ip", "to_v_ip")  # of an attention processor
CUSTOM = ("to_k_custom_diffusion", "to_v_custom_diffusion")
# models whose attention adds the tokens of an IP-Adapter head by head
HEADS_OF_IP_ADAPTER = ("UNet2DConditionModel", "SD3Transformer2DModel")


def guarded(base: type) -> dict[str, Method]:
    """Wrap the loading methods of a model class.

    Args:
        base: a model class of diffusers.

    Returns:
        Name -> method, for each method of GUARDS that the class has.
    """
    return {
        name: guard(getattr(base, name)) for name, guard in GUARDS.items() if hasattr(base, name)
    }


def loading_cut_lora(method: Method) -> Method:
    """Return load_lora_adapter for a pruned model: it cuts the LoRA first."""

    @wraps(method)
    def load(
        self: nn.Module,
        pretrained_model_name_or_path_or_dict: Any,
        prefix: str | None = "transformer",
        **kwargs: Any,
    ) -> Any:
        found = pretrained_model_name_or_path_or_dict
        if not isinstance(found, Mapping):
            found, metadata = SD3LoraLoaderMixin.lora_state_dict(
                found, **kwargs | {"use_safetensors": True, "return_lora_metadata": True}
            )
            kwargs["metadata"] = kwargs.get("metadata") or metadata
        return method(self, cut_lora(self, found, prefix), prefix=prefix, **kwargs)

    return load


def loading_cut_ip_adapter(method: Method) -> Method:
    """Return _load_ip_adapter_weights for a pruned model: it cuts keys and values afterwards."""

    @wraps(method)
    def load(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if dense_class(self).__name__ not in HEADS_OF_IP_ADAPTER:
            require_all_heads(self)
        cuts = key_cuts(self)
        require_known(self, cuts)
        result = method(self, *args, **kwargs)
        for owner, cut in cuts.items():
            processor = self.get_submodule(owner).processor
            for layer in ip_layers(processor):
                if len(layer.weight) == cut.shape[0]:
                    keep_(layer, "weight", cut.rows)
                    keep_(layer, "bias", cut.rows)
                    layer.out_features = len(cut.rows)
        return result

    return load


def ip_layers(processor: Any) -> list[nn.Linear]:
    """Return the layers of an attention processor that make keys and values of pictures."""
    found: list[nn.Linear] = []
    for name in IP_LAYERS:
        part = getattr(processor, name, None)
        layers = part if isinstance(part, nn.ModuleList) else [part]
        found += [layer for layer in layers if isinstance(layer, nn.Linear)]
    return found


def loading_cut_custom_diffusion(method: Method) -> Method:
    """Return _process_custom_diffusion for a pruned model: it cuts the weights first."""

    @wraps(method)
    def process(self: nn.Module, state_dict: Mapping[str, Tensor]) -> Any:
        cuts, cut = key_cuts(self), dict(state_dict)
        require_known(self, cuts)
        for name, weight in state_dict.items():
            owner, _, part = name.partition(".processor.")
            if owner not in cuts or not len(weight):
                continue
            if part.partition(".")[0] not in CUSTOM:
                raise UserError(
                    f"Custom Diffusion: expected a model with all its heads, or keys and values "
                    f"alone, but {owner} of this {type(self).__name__} lacks heads, found {name}; "
                    "use it with the dense pipeline, or prune with target='ffn'"
                )
            if len(weight) == cuts[owner].shape[0]:
                cut[name] = weight[cuts[owner].rows.to(weight.device)].contiguous()
        return method(self, cut)

    return process


def key_cuts(model: nn.Module) -> dict[str, Cut]:
    """Return the cut of the keys of each attention without some of its heads, by attention."""
    heads = [owner for owner, left in layout_of(model).items() if "heads" in left]
    if not heads:
        return {}
    cuts = cuts_of(model)
    named = {owner: cuts.get(f"{owner}.to_k") for owner in heads}
    return {owner: cut for owner, cut in named.items() if cut and cut.left != cut.shape}


def require_known(model: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Raise UserError if it is not known which heads were removed."""
    for owner, cut in cuts.items():
        if not cut.known:
            raise UserError(
                f"IP-Adapter or attention processors: {owner} of this {type(model).__name__} lacks "
                "heads, and its config.json does not state which, as an older version of obsdiff "
                "wrote it; use them with the dense pipeline, or prune again"
            )


def require_all_heads(model: nn.Module) -> None:
    """Refuse a model without some of its heads.

    Raises:
        UserError: names the first attention with fewer heads.
    """
    for owner, left in layout_of(model).items():
        if "heads" in left:
            raise UserError(
                "IP-Adapter or attention processors: expected a model with all its heads, but "
                f"{owner} of this {type(model).__name__} has only {left['heads']} left; use them "
                "with the dense pipeline, or prune with target='ffn'"
            )


GUARDS: dict[str, Callable[[Method], Method]] = {  # loading methods of diffusers' models
    "load_lora_adapter": loading_cut_lora,
    "_load_ip_adapter_weights": loading_cut_ip_adapter,
    "_process_custom_diffusion": loading_cut_custom_diffusion,
}
