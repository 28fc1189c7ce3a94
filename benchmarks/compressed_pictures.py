"""docs/compressed.png and compressed-emoji-unet.png: the same prompts from the same seeds, by the
dense model and by what makes it smaller otherwise than by zeros: 8 and 4 bits, folded modulation, a
correction of low rank, a block less.

    python -m benchmarks.compressed_pictures emoji-sd3 [emoji-unet] [--prompts 32] [--threads 2]

obsdiff.prune_ runs all of them. The prompts are the first of the evaluation prompts,
not selected; nothing was calibrated or decided on them. Bytes are those of the denoiser on disk in
half precision, errors those of all evaluation prompts.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from obsdiff import PruningConfig, dense_pass

from .paper.lab import Lab
from .paper.rows import live
from .paper.small import saved_and_opened
from .picture_sheet import sheet

DOCS = Path(__file__).parents[1] / "docs"
SHEETS = {"emoji-sd3": "compressed.png", "emoji-unet": "compressed-emoji-unet.png"}
DRAWN = 8
FOLDED = "small, nothing out"  # 8 bits alone for emoji-unet, which has nothing to fold
ROWS: dict[str, dict[str, Any]] = {
    "8 bits": {"sparsity": 0, "bits": 8, "round_layers": "all"},
    FOLDED: {"preset": "small", "sparsity": 0},
    "small": {"preset": "small"},
    "4 bits": {"sparsity": 0, "bits": 4},
    "4 bits + 5%": {"sparsity": 0, "bits": 4, "low_rank": 0.05},
    "2:4 + 10%": {"pattern": "2:4", "low_rank": 0.1},
}
DEPTH: dict[str, Any] = {"pattern": "depth", "sparsity": 0.25}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("models", nargs="+", choices=SHEETS)
    p.add_argument("--prompts", type=int, help="calibration prompts", default=32)
    p.add_argument("--threads", type=int)
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for model in args.models:
        draw(model, args.prompts)


def draw(model: str, prompts: int) -> None:
    """Draw the sheet of a model.

    Args:
        model: name of a built-in model.
        prompts: calibration prompts of each row.
    """
    lab = Lab(model)
    shared = lab.settings | {"num_prompts": prompts}
    configs = {
        name: PruningConfig(**settings, **shared)
        for name, settings in ROWS.items()
        if name != FOLDED or model == "emoji-sd3"
    }
    rows = [row_of(lab, "dense", lab.dense)]
    with dense_pass(lab.pipe, lab.calibration, list(configs.values())) as dense:
        for name, config in configs.items():
            rows.append(row_of(lab, name, live(lab, config, dense)[0]))
    rows.append(row_of(lab, "a block out", live(lab, PruningConfig(**DEPTH, **shared))[0]))
    sheet(rows, lab.sets["evaluation"][:DRAWN]).save(DOCS / SHEETS[model], optimize=True)
    print(DOCS / SHEETS[model])


def row_of(lab: Lab, name: str, denoiser: torch.nn.Module) -> tuple[str, str, list[Any]]:
    """Draw a row: its name, bytes and error, and its pictures."""
    error = lab.error_of(denoiser, "evaluation")["value"]
    title = f"{saved_and_opened(lab, denoiser)[1] / 1e6:.1f} MB\nerror {error:.4f}"
    print(name, title.replace("\n", ", "), flush=True)
    return name, title, lab.draw(denoiser, {})[0][:DRAWN]


if __name__ == "__main__":
    main()
