"""The error of structured pruning on emoji-sd3: obs, obs without compensation, l1, random; heads
and neurons apart.

    python -m benchmarks.structured_quality [--sparsity 0.2 0.3] [--num-prompts 24]
        [--num-inference-steps 25] [--output FILE]

Every row: pruned by the library on the built-in's calibration prompts, then drawn on its evaluation
prompts with other seeds. Writes benchmarks/results/structured-quality.json after every row: a
killed run continues when the same command is started again.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from obsdiff import PruningConfig, builtin_path, prune_
from obsdiff.evaluation.costs import step_macs
from obsdiff.evaluation.draw import draw
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.pipelines.builtin import builtin_info
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts
from obsdiff.pipelines.removed import in_words, leaving
from obsdiff.pipelines.run import denoiser_call
from obsdiff.runtime.json_files import read_json, write_json

from .conditions import RESULTS, conditions, model_version

WAYS = {
    "obs": {"method": "obs"},
    "obs, no compensation": {"method": "obs", "compensation": False},
    "l1": {"method": "l1"},
    "random": {"method": "random"},
}
TARGETS = {"linear": "heads and neurons", "attention": "heads", "ffn": "neurons"}
FIRST_SEED = 1_000_000
UNCOMPARED = {"threads", "machine", "versions"}  # conditions that a continued run may change


def main() -> None:
    args = parsed()
    path = builtin_path(args.model)
    folder = open_folder(path)
    settings = builtin_info(path)["settings"] | {"num_inference_steps": args.num_inference_steps}
    prompts = read_prompts(path / "evaluation_prompts.txt")[: args.evaluation_prompts]
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    about = {
        "model": args.model,
        "model_version": model_version(args.model),
        "settings": settings,
        "num_prompts": args.num_prompts,
        "packages": args.packages,
        "prompts": {"evaluation": len(prompts)},
        "cases": len(list(cases(args, settings))),
    } | conditions("benchmarks.structured_quality")
    rows = kept_rows(args.output, about)
    done = [{key: row[key] for key in ("target", "sparsity", "way")} for row in rows]
    pipe, _ = load_pipeline(folder)
    _, dense = draw(pipe, prompts, seeds, settings)
    for case, config in cases(args, settings):
        if case not in done:
            rows.append(case | measure(folder, config, prompts, seeds, settings, dense))
            write_json(args.output, about | {"rows": rows})
            print(as_line(rows[-1]), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji-sd3")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.3])
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--num-inference-steps", type=int, default=25)
    parser.add_argument("--packages", type=int, default=1)
    parser.add_argument("--evaluation-prompts", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS / "structured-quality.json")
    return parser.parse_args()


def kept_rows(file: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that an interrupted run of the same command stored."""
    if not file.exists():
        return []
    kept = read_json(file)
    if any(kept[key] != about[key] for key in about.keys() - UNCOMPARED):
        raise SystemExit(
            f"{file} was measured by another command or with another model; move it away to "
            "measure it anew"
        )
    return kept["rows"]


def cases(
    args: argparse.Namespace, settings: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], PruningConfig]]:
    """Every target, sparsity and way, with the config of its pruning."""
    for target, sparsity, way in itertools.product(args.target, args.sparsity, args.way):
        config = PruningConfig(
            pattern="structured",
            sparsity=sparsity,
            target=target,
            num_prompts=args.num_prompts,
            packages=args.packages if WAYS[way]["method"] == "obs" else 1,
            **WAYS[way],
            **settings,
        )
        yield {"target": target, "sparsity": sparsity, "way": way}, config


def measure(
    folder: Any,
    config: PruningConfig,
    prompts: list[str],
    seeds: list[int],
    settings: dict,
    dense: torch.Tensor,
) -> dict[str, Any]:
    pipe, _ = load_pipeline(folder)
    name = folder.denoiser(None)
    before = step_macs(
        getattr(pipe, name), denoiser_call(pipe, getattr(pipe, name), prompts[0], settings)
    )["total"]
    report = prune_(pipe, read_prompts(folder.path / "calibration_prompts.txt"), config)
    after = step_macs(
        getattr(pipe, name), denoiser_call(pipe, getattr(pipe, name), prompts[0], settings)
    )["total"]
    _, latents = draw(pipe, prompts, seeds, settings)
    found = relative_latent_error(latents, dense)
    costs = {
        "parameters": report.parameters,
        "macs": {"before": before, "after": after},
        **leaving(report.to_dict()["groups"]),
    }
    return {"error": found, **costs, "seconds": report.seconds}


def as_line(row: dict[str, Any]) -> str:
    p, m, e = row["parameters"], row["macs"], row["error"]
    return (
        f"{TARGETS[row['target']]:18} {row['sparsity']:.0%} {row['way']:21} "
        f"error {e['value']:.4f} ({e['low']:.4f} to {e['high']:.4f})  {in_words(row)} removed; "
        f"parameters -{1 - p['after'] / p['before']:.1%}, MACs -{1 - m['after'] / m['before']:.1%}"
    )


if __name__ == "__main__":
    main()
