"""Measured speed of one denoiser step after structured pruning, compared with its
multiply-accumulates.

    python -m benchmarks.structured_speed [--width 1536] [--tokens 1024] [--blocks 4]
        [--sparsity 0.1 0.2 0.3 0.5] [--rounds 15] [--output FILE]

An SD3 transformer of random weights, compute-bound: shapes decide the speed, not values. Dense and
pruned interleaved; the share (speed-up over MACs ratio) is 1 if all saved work is saved time.
Writes benchmarks/results/structured-speed.json.
"""

import argparse
import copy
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel

from obsdiff import PruningConfig
from obsdiff.allocation.uniform_latency import shrunk
from obsdiff.evaluation.costs import step_macs
from obsdiff.models.meta_device import forward_macs
from obsdiff.runtime.json_files import write_json
from obsdiff.runtime.timing import compared, interleaved

from .conditions import RESULTS, conditions

HEAD, TEXT = 64, 333


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens: a square number")
    parser.add_argument(
        "--blocks",
        type=int,
        default=4,
        help="all but the first and the last are pruned unless --whole",
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--round-to", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "structured-speed.json")
    args = parser.parse_args()
    side = round(args.tokens**0.5)
    torch.manual_seed(0)
    dense = SD3Transformer2DModel(
        sample_size=2 * side, patch_size=2, in_channels=16, out_channels=16, num_layers=args.blocks,
        attention_head_dim=HEAD, num_attention_heads=args.width // HEAD, joint_attention_dim=4096,
        caption_projection_dim=args.width, pooled_projection_dim=2048, pos_embed_max_size=side,
        qk_norm="rms_norm",
    ).eval()  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 16, 2 * side, 2 * side),
        "encoder_hidden_states": torch.randn(1, TEXT, 4096),
        "pooled_projections": torch.randn(1, 2048), "timestep": torch.tensor([500.0]),
    }  # fmt: skip
    whole = step_macs(dense, inputs)["total"]
    print(
        f"width {args.width}, {args.tokens} image and {TEXT} text tokens, {args.blocks} blocks, "
        f"all pruned, {whole / 1e9:.0f} G MACs, {torch.get_num_threads()} threads"
    )
    rows = []
    for sparsity in args.sparsity:
        for unit in args.round_to:
            config = PruningConfig(
                pattern="structured", sparsity=sparsity, keep_first_last=False, round_to=unit
            )
            rows.append(measure(dense, inputs, config, whole, args.rounds))
    sizes = {"width": args.width, "tokens": args.tokens, "text_tokens": TEXT, "blocks": args.blocks}
    about = conditions("benchmarks.structured_speed") | sizes
    write_json(args.output, about | {"macs": whole, "rows": rows})


def measure(
    dense: torch.nn.Module, inputs: dict, config: PruningConfig, whole: int, rounds: int
) -> dict:
    pruned, left = shrunk(copy.deepcopy(dense), config)
    macs = count(pruned, inputs)
    calls = {"dense": lambda: dense(**inputs), "pruned": lambda: pruned(**inputs)}
    speed = compared(interleaved(calls, rounds, warmup=2), "pruned", "dense")
    row = {
        "sparsity": config.removed,
        "round_to": config.round_to,
        **left,
        "macs_ratio": whole / macs,
        **speed,
        "share": speed["speedup"] / (whole / macs),
    }
    heads, neurons = (
        f"{left[kind]['removed']} of {left[kind]['total']} {kind}" for kind in ("heads", "neurons")
    )
    print(
        f"{config.removed:4.0%} round_to {config.round_to:3}  {heads}, {neurons} removed  "
        f"MACs ratio {row['macs_ratio']:.3f}  measured {speed['speedup']:.3f} "
        f"({speed['low']:.3f} to {speed['high']:.3f})  share {row['share']:.3f}",
        flush=True,
    )
    return row


def count(pruned: torch.nn.Module, inputs: dict) -> int:
    return forward_macs(copy.deepcopy(pruned).to("meta"), inputs).total


if __name__ == "__main__":
    main()
