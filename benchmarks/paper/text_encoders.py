"""Ours: text encoders instead of the denoiser, and what that does to the picture.

One step of the pipeline for every calibration prompt feeds a Hessian of every linear layer of every
text encoder, padding and the empty prompt of guidance included, as the denoiser's layers have them.
Single weights leave by magnitude, obs and alps; FFN neurons and heads by l1 and obs, an equal share
of every layer. Neurons and heads are set to zero here: what they leave is what a smaller encoder
computes. The denoiser is dense.

What an encoder is worth at all is the row that has it switched off: zeros in place of all of its
outputs, as Stable Diffusion 3 draws without its third encoder.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from obsdiff import PruningConfig
from obsdiff.calibration.hessian import Hessian
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.run import hooked
from obsdiff.solvers import BASELINES, SOLVERS, Inputs, Target
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons

from .lab import BATCH, CALIBRATION, REPORTED, Lab
from .rows import Row, Rows

DAMPING = 0.01
OFF = "switched off"
Hessians = dict[str, Hessian]  # layer -> its input's


class Unit(NamedTuple):
    """The layers of an attention or FFN from which heads or neurons leave.

    Attributes:
        produces: the layers whose rows are theirs.
        consumes: the layer that reads them.
        width: columns of one head, 1 for a neuron.
    """

    produces: tuple[str, ...]
    consumes: str
    width: int


def text_encoders(lab: Lab, rows: Rows) -> None:
    """Prune every text encoder alone, by every method, to every target."""
    for prompt_set in REPORTED:  # the dense pictures, before an encoder is changed
        lab.error_of(lab.dense, prompt_set)
    missing = [
        (name, target, method)
        for name in encoders(lab)
        for target, (_, methods, _) in TARGETS.items()
        for method in methods
        if f"{name}: {target}, {method}" not in rows.rows
    ]
    hessians = gathered(lab, CALIBRATION) if missing else {}
    for name, target, method in missing:
        measure = partial(encoder_row, lab, name, target, method, hessians[name])
        rows.keep(f"{name}: {target}, {method}", measure)


def encoder_row(lab: Lab, name: str, target: str, method: str, hessians: Hessians) -> Row:
    """Prune one encoder, draw with it, measure."""
    dense = getattr(lab.pipe, name)
    prune_, _, settings = TARGETS[target]
    pruned = copy.deepcopy(dense)
    gone = prune_(pruned, hessians, method, settings)
    try:
        setattr(lab.pipe, name, pruned)
        errors = {which: lab.error_of(lab.dense, which) for which in REPORTED}
    finally:
        setattr(lab.pipe, name, dense)
    key = "relative_latent_error"
    return {
        "encoder": name,
        "target": target,
        "method": method,
        "metrics": {key: errors[REPORTED[0]]},
        "held_out": {key: errors[REPORTED[1]]},
        "removed": gone,
        "parameters": sum(p.numel() for p in dense.parameters()),
    }


def encoders(lab: Lab) -> dict[str, nn.Module]:
    """The text encoders of the pipeline, by name."""
    named = lab.pipe.components.items()
    return {name: part for name, part in named if name.startswith("text_encoder") and part}


def linear_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that reach the denoiser's text tokens: without CLIP's projection."""
    layers = encoder.named_modules()
    return {
        name: layer
        for name, layer in layers
        if isinstance(layer, nn.Linear) and name != "text_projection"
    }


def gathered(lab: Lab, prompts: int) -> dict[str, Hessians]:
    """The Hessians of every encoder's layers over the calibration prompts."""
    chosen, seeds = choose_prompts(lab.calibration, PruningConfig(num_prompts=prompts))
    found: dict[str, Hessians] = {}

    def summed(hessian: Hessian) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: hessian.update(args[0].detach().float())

    def hooks() -> Iterator[Any]:
        for name, encoder in encoders(lab).items():
            layers = linear_layers(encoder)
            found[name] = {key: Hessian.zeros(layer.in_features) for key, layer in layers.items()}
            for key, layer in layers.items():
                yield layer.register_forward_pre_hook(summed(found[name][key]))

    with hooked(hooks()), torch.no_grad():
        for i in range(0, len(chosen), BATCH):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[i : i + BATCH]]
            settings = lab.settings | {"num_inference_steps": 1, "output_type": "latent"}
            lab.pipe(prompt=chosen[i : i + BATCH], generator=generators, **settings)
    return found


def units(encoder: nn.Module, kind: str) -> list[Unit]:
    """The attentions ("heads") or FFNs ("neurons") of a CLIP text model or of a T5 encoder."""
    layers, config = linear_layers(encoder), encoder.config
    width = getattr(config, "d_kv", None) or config.hidden_size // config.num_attention_heads
    last, first, each = {
        "heads": (("out_proj", "SelfAttention.o"), ("q_proj", "k_proj", "v_proj", *"qkv"), width),
        "neurons": (("fc2", "wo"), ("fc1", "wi", "wi_0", "wi_1"), 1),
    }[kind]
    found = []
    for name in layers:
        if not name.endswith(last):
            continue
        inside = name.rpartition(".")[0]
        produces = tuple(f"{inside}.{one}" for one in first if f"{inside}.{one}" in layers)
        found.append(Unit(produces, name, each))
    return found


def single_weights_(
    encoder: nn.Module, hessians: Hessians, method: str, target: dict[str, Any]
) -> int:
    """Prune single weights of all layers; returns how many left."""
    gone = 0
    for name, layer in linear_layers(encoder).items():
        hessian = hessians[name]
        h, mean = hessian.matrix(), hessian.x / hessian.samples
        inputs = Inputs(h, mean, h.diagonal() / 2 - mean.square())
        wanted = Target(target.get("sparsity", 0.5), target.get("group"), DAMPING)
        (solution,) = SOLVERS[method]([layer.weight.detach()], inputs, wanted)
        layer.weight.data.copy_(solution.weight)
        gone += int((~solution.kept).sum())
    return gone


def structured_(encoder: nn.Module, hessians: Hessians, method: str, target: dict[str, Any]) -> int:
    """Set a share of the neurons or heads of every layer to zero; returns the parameters gone."""
    layers, gone = linear_layers(encoder), 0
    for unit in units(encoder, target["kind"]):
        reads = layers[unit.consumes]
        columns = torch.arange(reads.in_features).view(-1, unit.width)
        count = round(target["sparsity"] * len(columns))
        weight = reads.weight.detach()
        if method == "l1":
            writes = [layers[name].weight.detach() for name in unit.produces]
            away, _ = BASELINES["l1"](
                [weight.T.reshape(len(columns), -1)],
                [rows.reshape(len(columns), -1) for rows in writes],
                count,
            )
            new = weight.clone()
            new[:, columns[away].flatten()] = 0
        else:
            consumer = Consumer.begin(weight, hessians[unit.consumes].matrix(), DAMPING)
            if target["kind"] == "heads":
                obs_heads([consumer], list(columns), count)
            else:
                obs_neurons(consumer, columns.flatten(), count)
            new = consumer.weight
        reads.weight.data.copy_(new)
        around = len(reads.weight) + sum(layers[name].in_features for name in unit.produces)
        gone += count * unit.width * around
    return gone


def switched_off_(
    encoder: nn.Module, hessians: Hessians, method: str, target: dict[str, Any]
) -> int:
    """Make every output of an encoder zero; returns its parameters, all of them gone."""
    encoder.register_forward_hook(
        lambda module, args, found: tree_map_only(Tensor, torch.zeros_like, found)
    )
    return sum(p.numel() for p in encoder.parameters())


TARGETS: dict[str, tuple[Callable[..., int], tuple[str, ...], dict[str, Any]]] = {
    "50%": (single_weights_, ("magnitude", "obs", "alps"), {"sparsity": 0.5}),
    "70%": (single_weights_, ("magnitude", "obs", "alps"), {"sparsity": 0.7}),
    "2:4": (single_weights_, ("magnitude", "obs", "alps"), {"group": (2, 4)}),
    "neurons 30%": (structured_, ("l1", "obs"), {"kind": "neurons", "sparsity": 0.3}),
    "neurons 50%": (structured_, ("l1", "obs"), {"kind": "neurons", "sparsity": 0.5}),
    "heads 25%": (structured_, ("l1", "obs"), {"kind": "heads", "sparsity": 0.25}),
    OFF: (switched_off_, (OFF,), {}),
}
