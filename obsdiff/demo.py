"""The whole road on the built-in model: prune in four ways, draw, compare, write the page."""

import time
from pathlib import Path
from typing import Any

from .builtin import builtin_info, builtin_path
from .checkpoint import cast_, load_pipeline, whole_folder, write_pruned
from .config import PruningConfig
from .evaluate import cost_on_disk, draw, run_entry, save_images, write_results
from .folder import open_folder, read_prompts
from .progress import say
from .prune import prune_
from .report import write_page

MODEL = "emoji-sd3"
STEPS = 10  # fewer than the model's own 25, to keep the demo at some five minutes on two cores
CALIBRATION_PROMPTS = 8
EVALUATION_PROMPTS = 12
FIRST_SEED = 1_000_000  # noise that no calibration prompt starts from
ROADS = {
    "magnitude 50 %": {"method": "magnitude", "sparsity": 0.5},
    "obs 50 %": {"method": "obs", "sparsity": 0.5},
    "magnitude 2:4": {"method": "magnitude", "pattern": "2:4"},
    "obs 2:4": {"method": "obs", "pattern": "2:4"},
}


def run_demo(output: Path, overwrite: bool = False) -> None:
    """Write OUTPUT/demo.html, results.json, the pictures and the pruned pipelines."""
    path = builtin_path(MODEL)
    folder = open_folder(path)
    settings = builtin_info(path)["settings"] | {"num_inference_steps": STEPS}
    prompts = read_prompts(path / "evaluation_prompts.txt")[:EVALUATION_PROMPTS]
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    began = time.perf_counter()
    with whole_folder(output, overwrite) as inside:
        pipe, _ = load_pipeline(folder)
        say(f"dense: drawing {len(prompts)} prompts in {STEPS} steps")
        images, dense = draw(pipe, prompts, seeds, settings)
        dense_images = save_images(images, inside, "dense")
        component = folder.denoiser(None)
        runs = []
        for name, changes in ROADS.items():
            say(f"{name}: pruning, drawing ({time.perf_counter() - began:.0f} s so far)")
            config = PruningConfig(num_prompts=CALIBRATION_PROMPTS, **settings, **changes)
            runs.append(one_road(name, config, folder, component, inside, prompts, seeds, settings, dense))
        cost = cost_on_disk(path, component)
        write_results(inside, MODEL, dense_images, cost, runs, prompts, seeds, settings)
        write_page([inside], inside / "demo.html")
    say(f"{output / 'demo.html'}: the page ({time.perf_counter() - began:.0f} s in all)")


def one_road(
    name: str, config: PruningConfig, folder: Any, component: str, inside: Path, prompts: list[str], seeds: list[int], settings: dict, dense: Any
) -> dict[str, Any]:
    """Prune, save, draw what was saved, measure."""
    pipe, formats = load_pipeline(folder)
    report = prune_(pipe, read_prompts(folder.path / "calibration_prompts.txt"), config)
    cast_(pipe, formats)
    short = name.replace(" ", "-").replace("%", "").rstrip("-").replace(":", "of")
    write_pruned(pipe, inside / "models" / short, report)
    pipe, _ = load_pipeline(open_folder(inside / "models" / short))
    images, latents = draw(pipe, prompts, seeds, settings)
    cost = cost_on_disk(inside / "models" / short, component)
    return run_entry(name, f"models/{short}", report, cost, latents, dense, save_images(images, inside, short))
