"""docs/presets.png, the picture of the README: the same prompts from the same seeds, by the dense
model and by the baseline, `--preset paper` and `--preset best` at 50 %, 2:4 and structured 30 %.

    python -m benchmarks.preset_pictures [--model emoji-sd3] [--prompts 32]

obsdiff.prune_ runs every pruning. The prompts are the first of the evaluation prompts, not
selected; nothing was calibrated or decided on them.
"""

import argparse
from pathlib import Path
from typing import Any

from obsdiff import PruningConfig

from .paper.lab import Lab
from .paper.rows import live
from .paper.tables import TARGETS
from .picture_sheet import sheet

SHEET = Path(__file__).parents[1] / "docs" / "presets.png"
SHOWN = ("50%", "2:4", "structured 30%")
DRAWN = 8


def rows_of(target: str) -> dict[str, dict[str, Any]]:
    """The pruned rows of a target: name -> settings."""
    baseline = "l1" if target.startswith("structured") else "magnitude"
    return {
        f"{baseline} {target}": {"method": baseline},
        f"paper {target}": {"preset": "paper"},
        f"best {target}": {"preset": "best"},
    }


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="emoji-sd3")
    p.add_argument("--prompts", type=int, help="calibration prompts", default=32)
    args = p.parse_args()
    lab = Lab(args.model)
    rows = {"dense": lab.draw(lab.dense, {})[0][:DRAWN]}
    dense = lab.figures(lab.dense)["clip_score"]["value"]
    titles = {"dense": f"CLIP {dense:.1f}"}
    for target in SHOWN:
        for name, settings in rows_of(target).items():
            config = PruningConfig(
                num_prompts=args.prompts, **settings, **TARGETS[target], **lab.settings
            )
            denoiser, _ = live(lab, config)
            found = lab.figures(denoiser)
            rows[name] = lab.draw(denoiser, {})[0][:DRAWN]
            error, score = (found[m]["value"] for m in ("relative_latent_error", "clip_score"))
            titles[name] = f"error {error:.4f}\nCLIP {score:.1f}"
            print(name, titles[name].replace("\n", ", "), flush=True)
    listed = [(name, titles[name], pictures) for name, pictures in rows.items()]
    sheet(listed, lab.sets["evaluation"][:DRAWN]).save(SHEET, optimize=True)
    print(SHEET)


if __name__ == "__main__":
    main()
