"""How well a built-in pipeline draws: does a judge find the caption of a picture among 200?

    python -m training.evaluate [MODEL]  # 200 trained captions; --held-out: names never trained on

Three judges: the CLIP whose text towers condition the pipelines; a second CLIP trained apart that
never did (`python -m training.clip --judge`; it does not ship); and plain pixels (is the nearest of
the 200 real pictures the one with this caption?). Real pictures give each judge's ceiling. The
sheet shows 64 prompts: every second row the real pictures, the row below the drawn ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from obsdiff.pipelines.builtin import BUILTINS, builtin_path
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline

from .assemble import settings_of
from .clip import OUT as CLIP
from .clip import retrieval, tokenize
from .data import CACHE, load
from .null_token import NULL_TOKENS_DRAWN, OneNullToken
from .third_encoder import READ

COUNT = 200


def draw(
    pipe: Any, captions: list[str], steps: int, guidance: float, batch: int = 20, **call
) -> torch.Tensor:
    """Pictures (N, 64, 64, 3) uint8, prompt i from seed i."""
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for i in range(0, len(captions), batch):
        prompts = captions[i : i + batch]
        generators = [torch.Generator().manual_seed(i + j) for j in range(len(prompts))]
        images = pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
            **call,
        ).images
        parts.append(torch.from_numpy(images * 255).round().to(torch.uint8))
        print(f"{i + len(prompts)}/{len(captions)}", flush=True)
    return torch.cat(parts)


def nearest_pixels(drawn: torch.Tensor, real: torch.Tensor) -> float:
    """Share of drawn pictures whose nearest real one, by squared difference of pixels, has the same
    caption."""
    distance = torch.cdist(drawn.flatten(1).float(), real.flatten(1).float())
    return (distance.argmin(1) == torch.arange(len(drawn))).float().mean().item()


def sheet(real: torch.Tensor, drawn: torch.Tensor, path: Path, columns: int = 16) -> None:
    """64 pairs: rows of real pictures, each above its row of drawn ones."""
    rows = []
    for i in range(0, min(64, len(drawn)), columns):
        for pictures in (real, drawn):
            rows.append(torch.cat(list(pictures[i : i + columns]), dim=1))
    Image.fromarray(torch.cat(rows).numpy()).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="emoji-sd3", choices=BUILTINS)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument(
        "--genuine",
        action="store_true",
        help="all 256 null text tokens instead of one with their weight "
        "(the same, four times slower)",
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    own = settings_of(args.model)
    steps, guidance = (
        args.steps or own["num_inference_steps"],
        args.guidance or own["guidance_scale"],
    )
    pictures, rows = load()
    pool = [i for i, row in enumerate(rows) if row["held_out"] == args.held_out]
    chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(5))[
        : args.count
    ].tolist()
    chosen = [pool[i] for i in chosen]
    captions, real = [rows[i]["caption"] for i in chosen], pictures[chosen]
    pipe, _ = load_pipeline(open_folder(builtin_path(args.model)))
    call = {}
    if args.model == "emoji-sd3" and not args.genuine:
        for block in pipe.transformer.transformer_blocks:
            block.attn.set_processor(OneNullToken(NULL_TOKENS_DRAWN))
        call = {"max_sequence_length": READ}
    with torch.no_grad():
        drawn = draw(pipe, captions, steps, guidance, **call)
    ids = tokenize(CLIPTokenizer.from_pretrained(builtin_path("emoji-clip")), captions)
    result = {
        "model": args.model,
        "captions": len(captions),
        "held_out": args.held_out,
        "steps": steps,
        "guidance": guidance,
    }
    for name, folder in {"clip": builtin_path("emoji-clip"), "judge": CLIP / "judge"}.items():
        if folder.exists():
            judge = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
            result[name] = {
                "real": round(retrieval(judge, real, ids), 4),
                "drawn": round(retrieval(judge, drawn, ids), 4),
            }
    result["pixels"] = {"drawn": round(nearest_pixels(drawn, real), 4)}
    kind = ("" if args.model == "emoji-sd3" else f"{args.model}-") + (
        "held-out" if args.held_out else "trained"
    )
    sheet(real, drawn, CACHE / f"sheet-{kind}.png")
    (CACHE / f"evaluation-{kind}.json").write_text(
        json.dumps(result | {"sheet": captions[:64]}, indent=1)
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
