"""The effect of pruning each layer: on its own output, and alone on the final latents.

A layer is a tap. One factor of its Hessian serves the sweeps at every sparsity of the GRID. The
effect on the latents is measured at one sparsity, and taken as proportional to the layer error. If
that sparsity has next to no effect on a layer, because it has that many zeros already, the layer is
tried at the lowest sparsity that has one.

sensitivity   all taps at once, each to first order (jacobian.py), at the sparsity REFERENCE: the
              ratio of effect to layer error then serves every target of one dense pass
drawn         taps are pruned one at a time at the target's sparsity, the pipeline draws the latents
              of a few calibration prompts, and the weight is restored
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ..calibration.context import CalibrationContext
from ..calibration.gather import DensePass
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..errors import CalibrationError
from ..evaluation.metrics import relative_latent_error
from ..layerwise.journal import NullJournal
from ..layerwise.problem import named
from ..layerwise.run_phases import DRAWN_FIRST
from ..models.linear_view import layer_at, matrix
from ..models.structure import Tap
from ..runtime.precision import exact_products
from ..solvers.obs import obs_each
from ..solvers.problem import Inputs, Solution, Target, squared_error
from .alpha_pruning import by_spectrum, tail_exponent
from .candidates import candidates
from .equal_price import GRID, by_loss, interpolated
from .jacobian import effects_of
from .owl import by_outliers, outlier_ratio
from .trials import Trial, all_measured

MEASURED = ("sensitivity", "drawn")  # allocations by the effect on the latents
REFERENCE = 0.5  # sparsity at which the effect of a tap is taken to first order
LEAST_ERROR = 1e-7  # layer errors up to this have no measurable effect on the latents
SAME_DRAWING = 1e-6  # relative latent error up to which two drawings are the same


@dataclass(frozen=True)
class SweepTrial:
    """The sweep of a tap.

    Attributes:
        errors: the layer errors (G,) at the GRID, summed over the tap's layers.
        error: the layer error at the target's sparsity.
        weights: the pruned weights (O, I) there, by layer.
    """

    errors: list[float]
    error: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class TapEffect:
    """The measurements that decide the sparsity of a tap.

    Attributes:
        effect: the relative latent error of pruning the tap alone; 0 if it was not measured.
        basis: its costs at the GRID, or one figure of it.
    """

    effect: float
    basis: list[float] | float


def layer_sparsities(
    context: CalibrationContext, plan: PruningPlan, dense: DensePass, journal: NullJournal
) -> dict[str, dict[str, float]]:
    """Return the sparsity of every layer.

    Args:
        context: the calibration context; each process measures its own taps.
        plan: the pruning.
        dense: the Hessians.
        journal: stores the measurements.

    Returns:
        {"shares": the sparsity of every layer, "sensitivity": the relative latent error of pruning
        its tap alone, if measured}.
    """
    taps, config = plan.taps, plan.config
    if config.allocation == "sensitivity":
        rows = first_order(context, plan, dense, journal)
    else:
        rows = one_by_one(context, plan, dense, journal)
    sizes = torch.tensor(
        [
            sum(matrix(context.denoiser.get_submodule(layer)).numel() for layer in tap.layers)
            for tap in taps
        ],
        dtype=torch.float64,
    )
    values = torch.tensor([row.basis for row in rows], dtype=torch.float64)
    spread = {"owl": by_outliers, "alpha": by_spectrum}.get(config.allocation, by_loss)
    shares = spread(values, sizes, config.removed).tolist()
    found = {
        "shares": {
            layer: share for tap, share in zip(taps, shares, strict=True) for layer in tap.layers
        },
        "sensitivity": {},
    }
    if config.allocation in MEASURED:
        found["sensitivity"] = {
            layer: row.effect for tap, row in zip(taps, rows, strict=True) for layer in tap.layers
        }
    return found


def one_by_one(
    context: CalibrationContext, plan: PruningPlan, dense: DensePass, journal: NullJournal
) -> list[TapEffect]:
    """Return the measurements of every tap, each a trial of its own."""
    taps, config = plan.taps, plan.config

    def trial(tap: Tap) -> Trial:
        return Trial(
            tap.layers[0],
            context.owners.get(tap, 0),
            lambda base: asdict(measured_sensitivity(context, tap, dense, config, base)),
        )

    rows = all_measured(context, journal, [trial(tap) for tap in taps], first_latents, config)
    return [TapEffect(**rows[tap.layers[0]]) for tap in taps]


def first_order(
    context: CalibrationContext, plan: PruningPlan, dense: DensePass, journal: NullJournal
) -> list[TapEffect]:
    """Return the measurements of every tap, by the gradients of a few prompts.

    The ratios of effect and layer error are kept with the dense pass, for its other prunings.
    """
    taps, config = plan.taps, replace(plan.config, sparsity=REFERENCE)
    key = repr(
        (
            [tap.layers for tap in taps],
            config.allocation_prompts,
            config.damping,
            config.compensation,
        )
    )
    known = dense.ratios.get(key)

    def sweep(tap: Tap) -> tuple[SweepTrial | None, dict[str, Tensor]]:
        weights = [matrix(context.denoiser.get_submodule(layer)) for layer in tap.layers]
        tried = try_visibly(tap, weights, inputs_of(tap, dense), config)
        if tried is None:
            return None, {}
        return replace(tried, weights={}), {} if known else tried.weights

    by_name = {tap.layers[0]: tap for tap in taps}
    owners = {name: context.owners.get(tap, 0) for name, tap in by_name.items()}
    with candidates(context, by_name, owners, sweep) as (sweeps, changes):
        if known is None:
            effects = effects_of(context, journal, changes, config)
            known = {name: effect / sweeps[name].error for name, effect in effects.items()}
            dense.ratios[key] = known
    share = torch.tensor([plan.config.removed], dtype=torch.float64)

    def row(name: str) -> TapEffect:
        if name not in known:
            return TapEffect(0.0, [0.0 for _ in GRID])
        basis = [known[name] * error for error in sweeps[name].errors]
        at_target = interpolated(torch.tensor([basis], dtype=torch.float64), share)
        return TapEffect(at_target.item(), basis)

    return [row(name) for name in by_name]


def measured_sensitivity(
    context: CalibrationContext,
    tap: Tap,
    dense: DensePass,
    config: PruningConfig,
    base: Tensor | None,
) -> TapEffect:
    """Return the measurements that decide the sparsity of one tap."""
    layers = [context.denoiser.get_submodule(layer) for layer in tap.layers]
    places = context.computing(layers)
    weights = [matrix(layer).to(place) for layer, place in zip(layers, places, strict=True)]
    if config.allocation == "alpha":
        known = [exponent for exponent in map(tail_exponent, weights) if math.isfinite(exponent)]
        return TapEffect(0.0, sum(known) / len(known) if known else math.inf)
    inputs = inputs_of(tap, dense)
    if config.allocation == "owl":
        ratios = [outlier_ratio(w, inputs.hessian) for w in weights]
        return TapEffect(0.0, sum(ratios) / len(weights))
    if base is None:
        return TapEffect(0.0, try_out(tap, weights, inputs, config).errors)
    tried = try_visibly(tap, weights, inputs, config)
    del inputs  # drawing needs its memory
    if tried is None:
        return TapEffect(0.0, [0.0 for _ in GRID])
    effect = effect_of(context, tried.weights, base, config)
    return TapEffect(effect, [effect * error / tried.error for error in tried.errors])


def inputs_of(tap: Tap, dense: DensePass) -> Inputs:
    """Return the statistics of the inputs of a tap."""
    calibrated = dense.of((tap,))[tap]
    return Inputs(calibrated.matrix(), calibrated.mean(), calibrated.variance())


def try_visibly(
    tap: Tap, weights: list[Tensor], inputs: Inputs, config: PruningConfig
) -> SweepTrial | None:
    """Return the sweep of a tap at the config's sparsity, or the lowest with an effect, if any."""
    tried = try_out(tap, weights, inputs, config)
    if tried.error > LEAST_ERROR:
        return tried
    visible = [
        share for share, error in zip(GRID, tried.errors, strict=True) if error > LEAST_ERROR
    ]
    if not visible:
        return None
    return try_out(tap, weights, inputs, replace(config, sparsity=visible[0]))


@exact_products()
def try_out(tap: Tap, weights: list[Tensor], inputs: Inputs, config: PruningConfig) -> SweepTrial:
    """Return the sweep of a tap at every sparsity of the GRID, and at the config's.

    With compensation its losses are half of the squared error, damping included: (1) of obs.py.
    """
    whole = [squared_error(w, None, inputs.hessian) for w in weights]
    targets = [
        Target(share, None, config.damping, config.compensation)
        for share in (*GRID, config.removed)
    ]

    def lost(w: Tensor, solution: Solution) -> float:
        return (
            2 * solution.loss
            if config.compensation
            else squared_error(w, solution.weight, inputs.hessian)
        )

    errors = []
    with named(tap.layers[0]):
        for solutions in obs_each([w.to(inputs.hessian.device) for w in weights], inputs, targets):
            errors.append(
                sum(
                    lost(w, s) / energy
                    for w, s, energy in zip(weights, solutions, whole, strict=True)
                    if energy > 0
                )
            )
    return SweepTrial(
        errors[:-1], errors[-1], dict(zip(tap.layers, (s.weight for s in solutions), strict=True))
    )


def latents(context: CalibrationContext, count: int) -> Tensor:
    """Return the final latents of the first `count` calibration prompts, by the present denoiser.

    Noise that a scheduler draws by itself starts from the same seed every time.
    """
    few = replace(
        context.calibration_set,
        prompts=context.calibration_set.prompts[:count],
        seeds=context.calibration_set.seeds[:count],
        rank=0,
        ranks=1,
    )
    found = []
    for prompts, seeds in few.batches():
        torch.manual_seed(seeds[0])  # prepared() has set the user's state aside
        found.append(context.run.latents(prompts, seeds, few.settings).float().cpu())
    return torch.cat(found)


def first_latents(context: CalibrationContext, config: PruningConfig) -> Tensor | None:
    """Return the dense latents that sensitivities are measured against; None for other allocations.

    Raises:
        CalibrationError: the pipeline does not draw the same latents twice.
    """
    if config.allocation != "drawn":
        return None
    return drawn_twice(context, config, "allocation drawn")


def drawn_twice(context: CalibrationContext, config: PruningConfig, name: str) -> Tensor:
    """Return the latents of the present denoiser, once two drawings of them are the same.

    Args:
        context: the model, and how it draws.
        config: the settings.
        name: the setting that needs them, for the message.

    Raises:
        CalibrationError: the pipeline does not draw the same latents twice, or not finite ones.
    """
    base, again = (latents(context, config.allocation_prompts) for _ in range(DRAWN_FIRST))
    found = relative_latent_error(again, base)
    if found["value"] is None:
        raise CalibrationError(f"{name}: no effect can be seen: {found['why_not']}")
    if not found["value"] < SAME_DRAWING:
        raise CalibrationError(
            f"{name}: the same prompts and seeds drawn twice differ "
            f"(relative error {found['value']:.1e}), so no effect can be seen"
        )
    return base


def effect_of(
    context: CalibrationContext, weights: Mapping[str, Tensor], base: Tensor, config: PruningConfig
) -> float:
    """Return the relative latent error of the model with other weights.

    Args:
        context: the model, and how it draws.
        weights: the weight (O, I) of some layers.
        base: the dense latents.
        config: the settings.

    Raises:
        CalibrationError: the latents have inf or NaN.
    """
    with with_weights(context.denoiser, weights):
        effect = relative_latent_error(latents(context, config.allocation_prompts), base)["value"]
    if not math.isfinite(effect):
        raise CalibrationError(
            f"{next(iter(weights))}: the latents have inf or NaN when it is pruned alone; "
            "try another --dtype"
        )
    return effect


@contextlib.contextmanager
def with_weights(denoiser: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Set the weights (O, I) of some layers; restore their own at the end."""
    modules = {layer: layer_at(denoiser, layer) for layer in weights}
    own = {layer: module.weight.data for layer, module in modules.items()}
    try:
        for layer, module in modules.items():
            module.weight.data = weights[layer].to(own[layer]).view(own[layer].shape)
        yield
    finally:
        for layer, module in modules.items():
            module.weight.data = own[layer]
