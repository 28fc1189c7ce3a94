"""The demo on a built-in model: prune in seven ways, draw, compare, write the page."""

import time
from pathlib import Path
from typing import Any

from ..calibration.dense_pass import dense_pass
from ..calibration.gather import DensePass
from ..config import PruningConfig
from ..evaluation.evaluate import Evaluation, evaluate
from ..evaluation.judges.files import find_judges
from ..evaluation.report.page import write_page
from ..pipelines.builtin import builtin_info, builtin_path
from ..pipelines.folder import Folder, open_folder
from ..pipelines.load import load_pipeline
from ..pipelines.prompt_files import read_prompts
from ..pipelines.save import whole_folder, write_pruned
from ..pipelines.stored_formats import saved_as_stored
from ..prune import prune_
from ..runtime.display import current
from ..runtime.progress import say

DEMO_MODEL = "emoji-unet"
DEMO_STEPS = 10  # of the model's own 25: the demo takes less than ten minutes on two cores
CALIBRATION_PROMPTS = 48
EVALUATION_PROMPTS = 12
DEMO_ROUNDS = 3  # timed pictures
FIRST_SEED = 1_000_000  # far from the noise of calibration prompts
VARIANTS: dict[str, dict[str, Any]] = {  # name -> changed settings
    "magnitude 50 %": {"method": "magnitude", "sparsity": 0.5},
    "obs 50 %": {"method": "obs", "sparsity": 0.5},
    "best 50 %": {"preset": "best", "sparsity": 0.5},
    "magnitude 2:4": {"method": "magnitude", "pattern": "2:4"},
    "best 2:4": {"preset": "best", "pattern": "2:4"},
    "l1 structured 20 %": {"method": "l1", "pattern": "structured", "sparsity": 0.2},
    "best structured 20 %": {"preset": "best", "pattern": "structured", "sparsity": 0.2},
}


def run_demo(output: Path, overwrite: bool = False) -> None:
    """Run the demo.

    Args:
        output: folder to write: demo.html, the pruned pipelines, results.json and pictures.
        overwrite: whether an output that obsdiff wrote is replaced.
    """
    path = builtin_path(DEMO_MODEL)
    folder = open_folder(path)
    settings = builtin_info(path)["settings"] | {"num_inference_steps": DEMO_STEPS}
    prompts = read_prompts(path / "evaluation_prompts.txt")[:EVALUATION_PROMPTS]
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    began = time.perf_counter()
    phases = current()
    phases.repeats = len(VARIANTS)
    phases.expect("dense pass", "solving", "measuring")
    with whole_folder(output, overwrite, [path.parent]) as inside:
        say("one dense pass over the calibration prompts, which all prunings share")
        configs = {
            name: PruningConfig(num_prompts=CALIBRATION_PROMPTS, **settings, **changes)
            for name, changes in VARIANTS.items()
        }
        known = read_prompts(path / "calibration_prompts.txt")
        runs = {}
        with dense_pass(load_pipeline(folder)[0], known, list(configs.values())) as dense:
            for name, config in configs.items():
                say(f"{name}: pruning ({time.perf_counter() - began:.0f} s so far)")
                short = name.replace(" %", "").replace(" ", "-").replace(":", "of")
                runs[name] = prune_into(inside / "models" / short, folder, known, config, dense)
        so_far = time.perf_counter() - began
        say(f"drawing {len(prompts)} prompts with each, measuring ({so_far:.0f} s so far)")
        job = Evaluation(
            folder,
            runs,
            prompts,
            seeds,
            settings,
            folder.denoiser(None),
            rounds=DEMO_ROUNDS,
            label=DEMO_MODEL,
            judges=find_judges({}, path),
        )
        evaluate(job, inside / "run")
        write_page([inside / "run"], inside / "demo.html")
    say(f"{output / 'demo.html'}: the page ({time.perf_counter() - began:.0f} s in all)")


def prune_into(
    target: Path, folder: Folder, prompts: list[str], config: PruningConfig, dense: DensePass
) -> Folder:
    """Prune the dense pipeline of a folder into a new one.

    Args:
        target: the new folder.
        folder: the dense pipeline.
        prompts: the calibration prompts.
        config: the settings of the pruning.
        dense: the dense pass that all prunings share.

    Returns:
        The new folder, opened.
    """
    pipe, formats = load_pipeline(folder)
    report = prune_(pipe, prompts, config, dense=dense)
    target.parent.mkdir(exist_ok=True)
    target.mkdir()
    with saved_as_stored(pipe, folder, None, [report.component], formats):
        write_pruned(pipe, target, report)
    return open_folder(target)
