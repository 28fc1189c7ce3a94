"""Time to quality: what a pruning costs, and how near its pictures are.

    python -m benchmarks.quality emoji-unet [emoji-sd3] [--seeds 0] [--threads 1]
    python -m benchmarks.quality --summary      # what reaches the error of preset paper, and when
    python -m benchmarks.quality --plot         # docs/quality.png
    python -m benchmarks.tables                 # docs/measurements.md

The cost of a row is the CPU time of the whole pruning, its dense pass and allocation included, over
that of plain inference of 100 prompts with the model's steps. Plain inference of a few prompts is
timed beside every dense pass, in the same process. Error: relative latent error over the tuning
prompts, on which alone settings are chosen. The yardstick is preset paper with 100 prompts.

Rows vary the preset, the number of prompts, the steps of the calibration's schedule, and the tokens
per column. They are kept in benchmarks/results/quality-MODEL.json; a killed measurement continues
with the next row.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from obsdiff import PruningConfig, dense_pass
from obsdiff.calibration.gather import DensePass
from obsdiff.pipelines.builtin import BUILTINS
from obsdiff.pipelines.run import prepared
from obsdiff.runtime.json_files import write_json

from .conditions import RESULTS, conditions, model_version
from .paper.lab import STEPS, Lab
from .paper.rows import live
from .tables.quality import MODELS, Found, Setting, by_target, yardstick

DOCS = Path(__file__).parents[1] / "docs"
UNIT = 100  # prompts of the plain inference that costs count in
TIMED = 4  # prompts that are timed for it
DRAWN = 32  # tuning prompts
COSTS = (0.1, 0.2, 0.5, 1, 2, 5)  # ticks of the plot
ERRORS = (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.5, 0.8)
DEFAULT = "default"  # no preset
TARGETS: dict[str, dict[str, Any]] = {
    "50%": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3},
}


class Pass(NamedTuple):
    """A dense pass, which several prunings share.

    Attributes:
        prompts: number of calibration prompts.
        steps: steps of the calibration's schedule.
        tokens: tokens per column; None for the default.
        presets: what is pruned from it.
    """

    prompts: int
    steps: int = STEPS
    tokens: float | None = None
    presets: tuple[str, ...] = (DEFAULT, "fast", "best")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a config."""
        tokens = {} if self.tokens is None else {"tokens_per_column": self.tokens}
        return {"num_prompts": self.prompts, "step_share": self.steps / STEPS} | tokens

    def row(self, preset: str, target: str, seed: int) -> dict[str, Any]:
        """What tells a row from others."""
        return {
            "preset": preset,
            "target": target,
            **{name: getattr(self, name) for name in ("prompts", "steps", "tokens")},
            "seed": seed,
        }


PASSES = (
    *(Pass(prompts, STEPS // 2, None, ("fast",)) for prompts in (24, 16, 8, 32, 64)),
    *(Pass(prompts) for prompts in (16, 64, 100, 4, 32)),
    *(Pass(prompts, STEPS, 32.0, ("fast",)) for prompts in (32, 64)),
)
YARDSTICK = Pass(UNIT, presets=("paper",))


def plain_seconds(lab: Lab) -> float:
    """CPU seconds of the denoising of UNIT prompts, from those of a few."""
    prompts, seeds = lab.calibration[:TIMED], list(range(TIMED))
    with prepared(lab.pipe) as run:
        began = time.process_time()
        run.latents(prompts, seeds, lab.settings)
        return (time.process_time() - began) * UNIT / TIMED


def config_of(lab: Lab, one: Pass, preset: str, target: str, seed: int) -> PruningConfig:
    """The settings of a row."""
    named = {} if preset == DEFAULT else {"preset": preset}
    return PruningConfig(**lab.settings | one.settings | TARGETS[target] | named, seed=seed)


def row(
    lab: Lab, config: PruningConfig, plain: float, dense: DensePass | None, besides: float
) -> dict[str, Any]:
    """Prune, draw and measure.

    Args:
        lab: the model.
        config: the settings.
        plain: CPU seconds of plain inference.
        dense: a dense pass that others share, or None.
        besides: its CPU seconds.
    """
    if dense:
        dense.ratios.clear()  # each row pays for its own allocation
    began = time.process_time()
    denoiser, _ = live(lab, config, dense)
    spent = besides + time.process_time() - began
    error = lab.error_of(denoiser, lab.prompt_set)
    return {
        "cost": round(spent / plain, 4),
        "cpu_seconds": round(spent, 2),
        "plain_seconds": round(plain, 2),
        "error": error["value"],
        "per_prompt": [round(value, 6) for value in error["per_prompt"]],
    }


def measure(model: str, seeds: list[int]) -> None:
    """Measure the missing rows of a model."""
    lab = Lab(model, prompts=DRAWN, prompt_set="tuning")
    file = RESULTS / f"quality-{model}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}
    about = {
        "model": model,
        "model_version": model_version(model),
        "settings": lab.settings,
        "tuning_prompts": DRAWN,
    } | conditions("benchmarks.quality")
    plain_seconds(lab)  # warm
    for seed in seeds:
        for one in (YARDSTICK, *PASSES):
            about_rows = [one.row(p, t, seed) for t in TARGETS for p in one.presets]
            missing = {
                name: (row, config_of(lab, one, row["preset"], row["target"], seed))
                for row in about_rows
                if (name := name_of(row)) not in rows
            }
            configs = {name: config for name, (_, config) in missing.items()}
            for name, found in measured(lab, configs, shared=one is not YARDSTICK):
                rows[name] = missing[name][0] | found
                write_json(file, about | {"rows": rows})
                print(f"{model}: {name}: {found['error']:.4f} for {found['cost']:.2f}", flush=True)


def name_of(row: dict[str, Any]) -> str:
    """The name of a row."""
    return f"{Setting(*(row[key] for key in Setting._fields))}: {row['target']}, seed {row['seed']}"


def measured(
    lab: Lab, configs: dict[str, PruningConfig], shared: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the row of each config, all from one dense pass if it is shared."""
    if not configs:
        return
    plain = plain_seconds(lab)
    if not shared:
        for name, config in configs.items():
            yield name, row(lab, config, plain, None, 0.0)
        return
    began = time.process_time()
    with dense_pass(lab.pipe, lab.calibration, list(configs.values())) as dense:
        besides = time.process_time() - began
        for name, config in configs.items():
            yield name, row(lab, config, plain, dense, besides)


def summary() -> None:
    """Print every setting by its cost, and its error over the yardstick's."""
    for model, targets in measured_models():
        for target, settings in targets.items():
            base = yardstick(settings)
            print(f"\n{model}, {target}")
            for setting, found in sorted(settings.items(), key=lambda item: item[1]):
                share = "" if base is None else f"  {found.error / base:.2f} of paper's"
                print(f"  cost {found.cost:6.2f}  error {found.error:.4f}{share}  {setting}")


def measured_models() -> Iterator[tuple[str, dict[str, dict[Setting, Found]]]]:
    """Yield each model that has rows, and these."""
    for model in MODELS:
        file = RESULTS / f"quality-{model}.json"
        if file.exists():
            yield model, by_target(json.loads(file.read_text()))


def plot() -> None:
    """Draw error against cost, a panel for each model and target; a line joins numbers of prompts.

    The dotted line is the error of the yardstick.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    models = list(measured_models())
    names = sorted({line_of(s) for _, targets in models for rows in targets.values() for s in rows})
    size = (12, 3.6 * len(models) + 0.6)
    figure, panels = plt.subplots(
        len(models), len(TARGETS), figsize=size, squeeze=False, layout="constrained"
    )
    for axes, (model, targets) in zip(panels, models, strict=True):
        for ax, (target, settings) in zip(axes, targets.items(), strict=True):
            for i, name in enumerate(names):
                mine = sorted(
                    (s.prompts, found) for s, found in settings.items() if line_of(s) == name
                )
                ax.plot(
                    [found.cost for _, found in mine],
                    [found.error for _, found in mine],
                    **{"marker": "o", "markersize": 4, "color": f"C{i}", "label": name},
                )
            if base := yardstick(settings):
                ax.axhline(base, color="grey", linestyle=":", linewidth=1)
            ax.set(title=f"{model}, {target}", xscale="log", yscale="log")
            for axis, ticks in ((ax.xaxis, COSTS), (ax.yaxis, ERRORS)):
                axis.set_major_locator(FixedLocator(ticks))
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_locator(NullLocator())
    figure.supxlabel(f"CPU time of the pruning / plain inference of {UNIT} prompts")
    figure.supylabel("relative latent error")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=7)
    figure.savefig(DOCS / "quality.png", dpi=120)


def line_of(setting: Setting) -> str:
    """The line of a setting: all that is the same whatever the number of prompts."""
    steps = "" if setting.steps == STEPS else f", {setting.steps} steps"
    tokens = "" if setting.tokens is None else f", {setting.tokens:g} tokens"
    return setting.preset + steps + tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", choices=[*BUILTINS, []])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for model in args.models:
        measure(model, args.seeds)
    if args.summary:
        summary()
    if args.plot:
        plot()


if __name__ == "__main__":
    main()
