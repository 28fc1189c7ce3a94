"""The measurements behind each table of the paper, as rows: a name and a function.

Every measured row is written at once, so a killed run continues with the next one. Unless stated
otherwise, every row is pruned in one package from shared Hessians of one dense pass over 100
calibration prompts.
"""

import contextlib
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from obsdiff import PruningConfig, dense_pass
from obsdiff.config.choices import STEP_WEIGHTINGS
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.run import prepared
from obsdiff.runtime.timing import interleaved

from .bits import bits
from .depth import depth
from .lab import CALIBRATION, COUNTS, Lab, Scheduler
from .learned_masks import NAME as ECODIFF
from .learned_masks import REPAIRED, ecodiff_row, repaired_row
from .low_rank import low_rank
from .modulation import modulation
from .off import SWITCHED, alone_rows, off_row
from .portable import portable
from .rows import Row, Rows, dense_row, live, live_row, pruned_row
from .small import small
from .text_encoders import text_encoders

SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7)
COMPARED_PRESETS = ("paper", "best", "fast")
METHODS = ("magnitude", "dsnot", "wanda", "obs")
STRUCTURED = ("random", "l1", "obs")
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)
SEEDS = (0, 1, 2)
# calibration sets of each preset; a row of paper takes three times the time of the others, and fast
# is compared with best on the same set
SETS_OF = {"paper": SEEDS[:1], "best": SEEDS, "fast": SEEDS[:1]}
PACKAGES = (1, 2, 4, 8, 16)
CALIBRATED = {"emoji-sd3": 16, "emoji-unet": 64}  # prompts of the table of calibrations
PRESET_PROMPTS = {"emoji-sd3": 32, "emoji-unet": 100}  # calibration prompts of the table of presets
TARGETS: dict[str, Row] = {
    "50%": {"sparsity": 0.5},
    "60%": {"sparsity": 0.6},
    "2:4": {"pattern": "2:4"},
    "structured 20%": {"pattern": "structured", "sparsity": 0.2},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3},
}
OFF_TARGETS = [target for target in TARGETS if target != "2:4"]  # where places are free
LIVE_PROMPTS = 12  # of the tables that run the calibration anew for every row
TIMED_PROMPTS, ROUNDS = 4, 3


def off(lab: Lab, rows: Rows) -> None:
    """Ours: what every attention and FFN does alone, and all shares that can be switched off."""
    rows.keep("dense", lambda: dense_row(lab))
    alone_rows(lab, rows)
    for share in SWITCHED:
        least = share * sum(lab.weights.values())
        rows.keep(f"off {share:.0%}", lambda least=least: off_row(lab, least))


def unstructured(lab: Lab, rows: Rows) -> None:
    """Table 1 and Figure 4: single weights, four methods, and whole groups switched off."""
    rows.keep("dense", lambda: dense_row(lab))
    for sparsity in SPARSITIES:
        least = sparsity * sum(lab.weights.values())
        rows.keep(f"off {sparsity:.0%}", lambda least=least: off_row(lab, least))
        for method in METHODS:
            config = PruningConfig(method=method, sparsity=sparsity)
            rows.keep(f"{method} {sparsity:.0%}", lambda config=config: pruned_row(lab, config))


def semistructured(lab: Lab, rows: Rows) -> None:
    """Table 2: 2:4, and 4:8 beside it."""
    rows.keep("dense", lambda: dense_row(lab))
    for pattern in ("2:4", "4:8"):
        for method in METHODS:
            config = PruningConfig(method=method, pattern=pattern)
            rows.keep(f"{method} {pattern}", lambda config=config: pruned_row(lab, config))


def structured(lab: Lab, rows: Rows) -> None:
    """Tables 3, 4 and 9: heads and FFN neurons."""
    rows.keep("dense", lambda: dense_row(lab))
    for share in SHARES:
        for method in STRUCTURED:
            config = PruningConfig(method=method, pattern="structured", sparsity=share)
            rows.keep(f"{method} {share:.0%}", lambda config=config: pruned_row(lab, config))
        least = removed_parameters(rows, f"obs {share:.0%}")
        rows.keep(f"off {share:.0%}", lambda least=least: off_row(lab, least))
        for method, row in ((ECODIFF, ecodiff_row), (REPAIRED, repaired_row)):
            rows.keep(
                f"{method} {share:.0%}",
                lambda row=row, share=share, least=least: row(lab, share, least),
            )


def removed_parameters(rows: Rows, name: str) -> int:
    """Number of parameters that a structured row has less than dense."""
    dense, row = (rows.rows[key]["cost"]["parameters"] for key in ("dense", name))
    return dense - row


def weighting(lab: Lab, rows: Rows) -> None:
    """Table 6: how the denoising steps are weighted, 50 %, three sets of calibration prompts and
    noises."""
    for seed in SEEDS:
        for kind in STEP_WEIGHTINGS:
            config = PruningConfig(sparsity=0.5, step_weighting=kind, seed=seed)
            rows.keep(
                f"{kind} seed {seed}",
                lambda config=config, seed=seed, kind=kind: pruned_row(
                    lab, config, seed=seed, weighting=kind
                ),
            )


def prompts(lab: Lab, rows: Rows) -> None:
    """Figure 3: the number of calibration prompts, 50 %."""
    for count in (*COUNTS, CALIBRATION):
        config = PruningConfig(sparsity=0.5, num_prompts=count)
        rows.keep(
            f"{count}", lambda config=config, count=count: pruned_row(lab, config, count=count)
        )


def packages(lab: Lab, rows: Rows) -> None:
    """Table 7: the number of packages, calibrated anew for each, 50 %."""
    for count in PACKAGES:
        config = PruningConfig(
            sparsity=0.5,
            calibration="live",
            packages=count,
            num_prompts=LIVE_PROMPTS,
            **lab.settings,
        )
        rows.keep(f"{count}", lambda config=config: live_row(lab, config))


def calibration(lab: Lab, rows: Rows) -> None:
    """Ours: where the Hessians come from, from one dense pass to a pass for every package. 2:4 with
    three calibration sets."""
    for way, settings in {
        "single": {},
        "replay, 4 packages": {"packages": 4},
        "live, 4 packages": {"packages": 4},
    }.items():
        shared = (
            settings
            | lab.settings
            | {"calibration": way.partition(",")[0], "num_prompts": CALIBRATED[lab.model]}
        )
        configs = {f"{s:.0%}": PruningConfig(sparsity=s, **shared) for s in (0.5, 0.6, 0.7)} | {
            "2:4": PruningConfig(pattern="2:4", **shared)
        }
        configs |= {"structured 30%": PruningConfig(pattern="structured", sparsity=0.3, **shared)}
        configs |= {
            f"2:4, seed {seed}": PruningConfig(pattern="2:4", seed=seed, **shared)
            for seed in SEEDS[1:]
        }
        missing = {
            target: config
            for target, config in configs.items()
            if f"{way}: {target}" not in rows.rows
        }
        together = [config for config in missing.values() if config.seed == SEEDS[0]]
        with contextlib.ExitStack() as stack:
            dense = (
                stack.enter_context(dense_pass(lab.pipe, lab.calibration, together))
                if together and shared["calibration"] != "live"
                else None
            )
            for target, config in missing.items():
                mine = dense if config in together else None
                rows.keep(
                    f"{way}: {target}", lambda config=config, mine=mine: live_row(lab, config, mine)
                )


def presets(lab: Lab, rows: Rows) -> None:
    """Ours: the presets, with sets of calibration prompts and noises. One dense pass a set serves
    best and fast."""
    rows.keep("dense", lambda: dense_row(lab))
    for seed in SEEDS:
        amount = {"num_prompts": PRESET_PROMPTS[lab.model], "step_share": 1}  # the same for all
        shared = lab.settings | amount | {"seed": seed}
        configs = {
            f"{preset}: {target}, seed {seed}": PruningConfig(preset=preset, **settings, **shared)
            for preset in COMPARED_PRESETS
            if seed in SETS_OF[preset]
            for target, settings in TARGETS.items()
        }
        single = [
            config
            for name, config in configs.items()
            if config.calibrating == "single" and name not in rows.rows
        ]
        with contextlib.ExitStack() as stack:
            began = time.process_time()
            dense = (
                stack.enter_context(dense_pass(lab.pipe, lab.calibration, single))
                if single
                else None
            )
            shared_seconds = time.process_time() - began
            for name, config in sorted(
                configs.items(), key=lambda item: item[1].calibrating, reverse=True
            ):
                mine, besides = (
                    (dense, shared_seconds) if config.calibrating == "single" else (None, 0.0)
                )
                rows.keep(
                    name,
                    lambda config=config, mine=mine, besides=besides: live_row(
                        lab, config, mine, besides
                    ),
                )
    for target in OFF_TARGETS:
        least = (
            removed_parameters(rows, f"paper: {target}, seed {SEEDS[0]}")
            if "pattern" in TARGETS[target]
            else TARGETS[target]["sparsity"] * sum(lab.weights.values())
        )
        rows.keep(f"off: {target}", lambda least=least: off_row(lab, least))


def seconds(lab: Lab, rows: Rows) -> None:
    """Table 8: time to prune, against plain inference of the calibration prompts, in turn. Measure
    on an idle machine."""
    calls = {"plain inference": lambda: plain_inference(lab)}
    for method in (*METHODS, "structured"):
        changes = (
            {"pattern": "structured", "sparsity": 0.3}
            if method == "structured"
            else {"method": method}
        )
        config = PruningConfig(
            num_prompts=TIMED_PROMPTS, calibration="live", **changes, **lab.settings
        )
        calls[method] = lambda config=config: live(lab, config)
    for calibration in ("replay", "single"):
        config = PruningConfig(num_prompts=TIMED_PROMPTS, calibration=calibration, **lab.settings)
        calls[f"obs, {calibration}"] = lambda config=config: live(lab, config)
    rows.keep(
        "seconds",
        lambda: {"seconds": interleaved(calls, ROUNDS, warmup=0), "prompts": TIMED_PROMPTS},
    )


def plain_inference(lab: Lab) -> None:
    """The denoising of the calibration prompts, once, without hooks."""
    config = PruningConfig(num_prompts=TIMED_PROMPTS)
    chosen, seeds = choose_prompts(lab.calibration, config)
    with prepared(lab.pipe) as run:
        run.latents(chosen, seeds, lab.settings)


def robustness(lab: Lab, rows: Rows) -> None:
    """Tables 11 to 13: pruned once at 50 %, drawn with other guidance, steps and samplers than it
    was calibrated with."""
    pruned = {"dense": lambda: lab.dense}
    for method in ("wanda", "obs"):
        config = PruningConfig(method=method, sparsity=0.5)
        pruned[method] = cache(lambda config=config: lab.pruned(config, lab.hessians())[0])
    for way, (changes, scheduler) in ways(lab).items():
        for method, denoiser in pruned.items():
            rows.keep(
                f"{method}, {way}",
                lambda d=denoiser, w=way, c=changes, s=scheduler: {
                    "metrics": lab.figures(d(), w, c, s)
                },
            )


def ways(lab: Lab) -> dict[str, tuple[dict[str, Any], Scheduler | None]]:
    """Name -> changed settings of the call, and another scheduler."""
    own = lab.settings["guidance_scale"]
    found: dict[str, tuple[dict[str, Any], Scheduler | None]] = {
        f"guidance {g:g}": ({"guidance_scale": float(g)}, None) for g in (own - 2, own, own + 3)
    }
    found |= {name: ({}, scheduler) for name, scheduler in samplers(lab).items()}
    return found | {f"{n} steps": ({"num_inference_steps": n}, None) for n in (25, 50)}


def samplers(lab: Lab) -> dict[str, Scheduler]:
    if lab.component == "transformer":
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        return {
            "Heun": lambda own: FlowMatchHeunDiscreteScheduler(shift=own.config.shift),
            "DPM++": lambda own: DPMSolverMultistepScheduler(flow_shift=own.config.shift, **flow),
        }
    return {
        "Euler": lambda own: EulerDiscreteScheduler.from_config(own.config),
        "Heun": lambda own: HeunDiscreteScheduler.from_config(own.config),
        "DPM++": lambda own: DPMSolverMultistepScheduler.from_config(own.config),
        "PNDM": lambda own: PNDMScheduler.from_config(own.config),
    }


TABLES: dict[str, Callable[[Lab, Rows], None]] = {
    "off": off,
    "unstructured": unstructured,
    "semistructured": semistructured,
    "structured": structured,
    "prompts": prompts,
    "weighting": weighting,
    "robustness": robustness,
    "packages": packages,
    "calibration": calibration,
    "presets": presets,
    "low_rank": low_rank,
    "bits": bits,
    "portable": portable,
    "depth": depth,
    "modulation": modulation,
    "small": small,
    "text_encoders": text_encoders,
    "seconds": seconds,
}
# the models of a table that not all have
MODELS_OF = {"modulation": ("emoji-sd3",)}
