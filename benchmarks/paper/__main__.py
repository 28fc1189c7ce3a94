"""The paper's tables on the built-in models, one command a table.

    python -m benchmarks.paper TABLE [TABLE ...] [--model emoji-sd3 emoji-unet]  # measures
    python -m benchmarks.paper all                                               # every table
    python -m benchmarks.paper check    # emoji-sd3's null tokens, one against 256
    python -m benchmarks.paper write    # docs/results.md and its plots from the measured rows

A killed measurement continues with the next row when it is started again.

Rows are kept in benchmarks/results/paper/version-N/, N of the built-in models; Hessians are in
benchmarks/cache/ (some 3 GB, not in git).
It needs the `train` extra only to make models anew, not here.
"""

import argparse

import torch

from obsdiff import PruningConfig
from obsdiff.cli.commands import quiet
from obsdiff.pipelines.builtin import BUILTINS

from .lab import PROMPTS, STEPS, Lab
from .tables import MODELS_OF, TABLES, Rows
from .write import write


def check(lab: Lab) -> None:
    """Print the relative latent error due to drawing with one null token, dense and pruned."""
    pruned = lab.pruned(PruningConfig(sparsity=0.5), lab.hessians())[0]
    for name, denoiser in {"dense": lab.dense, "50 %": pruned}.items():
        error = lab.difference_of_null_tokens(denoiser)
        print(
            f"{lab.model}, {name}: one weighted null token against all: "
            f"relative latent error {error:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tables",
        nargs="+",
        choices=[*TABLES, "all", "check", "write"],
        metavar="TABLE",
        help=", ".join([*TABLES, "all", "check", "write"]),
    )
    parser.add_argument("--model", nargs="+", default=list(BUILTINS), choices=list(BUILTINS))
    parser.add_argument("--num-inference-steps", type=int, default=STEPS)
    parser.add_argument("--num-prompts", type=int, default=PROMPTS, help="evaluation prompts")
    parser.add_argument(
        "--skip",
        default="",
        metavar="GLOB",
        help="rows to leave for another time, such as 'time of *', which want a machine at rest",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(args.threads)
    wanted = list(TABLES) if "all" in args.tables else [t for t in args.tables if t in TABLES]
    for model in args.model if wanted or "check" in args.tables else ():
        lab = Lab(model, args.num_inference_steps, args.num_prompts)
        if "check" in args.tables:
            check(lab)
        for table in wanted:
            if model not in MODELS_OF.get(table, BUILTINS):
                continue
            rows = Rows(lab, table, args.skip)
            TABLES[table](lab, rows)
            rows.finish()
    if "write" in args.tables or "all" in args.tables:
        write()


if __name__ == "__main__":
    main()
