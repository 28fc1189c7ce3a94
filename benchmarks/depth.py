"""Fewer blocks against narrower ones: pattern depth with and without its repair, and structured
pruning to the same number of parameters.

    python -m benchmarks.depth [--model emoji-sd3] [--blocks 1 2] [--prompts 20] [--steps 8]
        [--evaluated 8]

obsdiff.prune_ runs every pruning. The output is the relative latent error over evaluation prompts,
with seeds that no calibration prompt has, by row; results/depth.json stores it. emoji-unet has no
row: the blocks of a UNet can't leave.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch

from obsdiff import builtin_path, prune_
from obsdiff.errors import UserError
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.models.depth import remove_blocks_, stacks_of
from obsdiff.pipelines.builtin import builtin_info
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts
from obsdiff.pipelines.run import prepared

from .conditions import conditions

RESULTS = Path(__file__).parent / "results" / "depth.json"
FIRST_SEED = 1_000_000
JUDGING = 4  # calibration prompts that choose the blocks and judge the repair


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="emoji-sd3")
    p.add_argument("--blocks", type=int, nargs="+", default=[1, 2])
    p.add_argument("--prompts", type=int, default=20)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--evaluated", type=int, default=8)
    args = p.parse_args()
    bench = Bench(args)
    rows: list[dict[str, Any]] = []
    for count in args.blocks:
        for row in bench.rows(count):
            rows.append(row)
            print(json.dumps(row), flush=True)
            found = {
                "conditions": conditions("benchmarks.depth"),
                "settings": vars(args),
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


class Bench:
    """A built-in model, its dense latents, and the prunings that are compared."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.path = args, builtin_path(args.model)
        self.pipe, _ = load_pipeline(open_folder(self.path))
        self.dense = self.pipe.transformer
        own = builtin_info(self.path)["settings"]
        self.settings = own | {"num_inference_steps": args.steps}
        prompts = read_prompts(self.path / "evaluation_prompts.txt")
        self.prompts = prompts[: args.evaluated]
        self.seeds = [FIRST_SEED + i for i in range(len(self.prompts))]
        self.calibration = read_prompts(self.path / "calibration_prompts.txt")
        self.latents = self.drawn(self.pipe)

    def drawn(self, pipe: Any) -> torch.Tensor:
        """The final latents of the evaluation prompts."""
        with prepared(pipe) as run:
            return run.latents(self.prompts, self.seeds, self.settings).float()

    def copy(self) -> Any:
        """The pipeline with a copy of the dense denoiser."""
        pipe = copy.copy(self.pipe)
        pipe.transformer = copy.deepcopy(self.dense)
        return pipe

    def row(self, name: str, count: int, pipe: Any, **more: Any) -> dict[str, Any]:
        """The row of a pruned pipeline."""
        found = relative_latent_error(self.drawn(pipe), self.latents)
        before, after = (
            sum(p.numel() for p in model.parameters()) for model in (self.dense, pipe.transformer)
        )
        figures = {key: found[key] for key in ("value", "low", "high")}
        return {"name": name, "blocks": count, "parameters": after / before} | figures | more

    def rows(self, count: int) -> Any:
        """Yield the rows of a number of blocks: with repair, without, structured."""
        calls = {name: self.settings[name] for name in self.settings}
        shared = calls | {"num_prompts": self.args.prompts, "progress": False}
        stacks = stacks_of(self.dense)
        total = sum(len(getattr(self.dense, stack.blocks)) for stack in stacks)
        began, pipe = time.process_time(), self.copy()
        report = prune_(
            pipe,
            self.calibration,
            pattern="depth",
            sparsity=(count + 0.5) / total,
            allocation_prompts=JUDGING,
            **shared,
        )
        seconds = time.process_time() - began
        yield self.row("depth, repaired", count, pipe, seconds=seconds, depth=report.depth)
        pipe = self.copy()
        remove_blocks_(pipe.transformer, stacks, [row["name"] for row in report.depth["removed"]])
        yield self.row("depth", count, pipe)
        share = report.parameters["after"] / report.parameters["before"]
        began, pipe = time.process_time(), self.copy()
        try:
            prune_(pipe, self.calibration, pattern="structured", target_parameters=share, **shared)
        except UserError as error:  # modulation, and the ends, stay: fewer blocks can be smaller
            yield {"name": "structured", "blocks": count, "why_not": str(error)}
            return
        seconds = time.process_time() - began
        yield self.row("structured, same parameters", count, pipe, seconds=seconds)


if __name__ == "__main__":
    main()
