"""Time to quality: what a pruning costs, and how near its pictures are.

    python -m benchmarks.quality emoji-unet [emoji-sd3] [--seeds 0] [--threads 1]
    python -m benchmarks.quality --summary      # what reaches the error of preset paper, and when
    python -m benchmarks.quality --plot         # docs/quality.png

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
from collections import defaultdict
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

DOCS = Path(__file__).parents[1] / "docs"
UNIT = 100  # prompts of the plain inference that costs count in
TIMED = 4  # prompts that are timed for it
DRAWN = 32  # tuning prompts
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
        return {"num_prompts": self.prompts, "num_inference_steps": self.steps} | tokens

    def name(self, preset: str, target: str, seed: int) -> str:
        """The name of a row."""
        tokens = "" if self.tokens is None else f", {self.tokens:g} tokens"
        return (
            f"{preset}: {target}, {self.prompts} prompts, {self.steps} steps{tokens}, seed {seed}"
        )


PASSES = (
    *(Pass(prompts) for prompts in (4, 16, 32, 64, 100)),
    *(Pass(prompts, STEPS // 2, None, ("fast",)) for prompts in (16, 32, 64)),
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
        for one in (*PASSES, YARDSTICK):
            missing = {
                name: config_of(lab, one, preset, target, seed)
                for target in TARGETS
                for preset in one.presets
                if (name := one.name(preset, target, seed)) not in rows
            }
            for name, found in measured(lab, missing, shared=one is not YARDSTICK):
                rows[name] = {"seed": seed} | found
                write_json(file, about | {"rows": rows})
                print(f"{model}: {name}: {found['error']:.4f} for {found['cost']:.2f}", flush=True)


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


def stored(model: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """target -> setting -> cost and error of each seed."""
    file = RESULTS / f"quality-{model}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {t: defaultdict(list) for t in TARGETS}
    for name, one in rows.items():
        preset, _, rest = name.partition(": ")
        target, _, rest = rest.partition(", ")
        setting = f"{preset}, {rest.rpartition(', seed')[0]}"
        found[target][setting].append((one["cost"], one["error"]))
    return found


def mean_of(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean cost and mean error."""
    return sum(c for c, _ in pairs) / len(pairs), sum(e for _, e in pairs) / len(pairs)


def summary() -> None:
    """Print every setting by its cost, and its error over the yardstick's."""
    base = f"paper, {UNIT} prompts, {STEPS} steps"
    for model in BUILTINS:
        for target, settings in stored(model).items():
            yardstick = mean_of(settings[base])[1] if base in settings else None
            print(f"\n{model}, {target}")
            for setting, pairs in sorted(settings.items(), key=lambda item: mean_of(item[1])):
                cost, error = mean_of(pairs)
                share = "" if yardstick is None else f"  {error / yardstick:.2f} of paper's"
                print(f"  cost {cost:6.2f}  error {error:.4f}{share}  {setting}, {len(pairs)} sets")


def plot() -> None:
    """Draw error against cost, a panel for each model and target."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(BUILTINS), len(TARGETS), figsize=(12, 7), squeeze=False, layout="constrained"
    )
    for axes, model in zip(panels, BUILTINS, strict=True):
        for ax, (target, settings) in zip(axes, stored(model).items(), strict=True):
            lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for setting, pairs in settings.items():
                preset, _, rest = setting.partition(", ")
                lines[preset + rest.partition(" prompts")[2]].append(mean_of(pairs))
            for name, points in sorted(lines.items()):
                costs, errors = zip(*sorted(points), strict=True)
                ax.plot(costs, errors, marker="o", label=name.replace(f", {STEPS} steps", ""))
            ax.set(title=f"{model}, {target}", xscale="log", yscale="log")
            ax.set(xlabel=f"cost / plain inference of {UNIT} prompts", ylabel="latent error")
    handles = {
        text: handle
        for ax in panels.flat
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
    figure.savefig(DOCS / "quality.png", dpi=120)


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
