"""How well the pipeline draws: does a judge find the caption of a picture among 200?

    python -m training.evaluate                    # 200 trained captions; --held-out for names never trained on

Three judges: the CLIP that conditions the pipeline; a second CLIP trained apart that never did; and plain pixels (is
the nearest of the 200 real pictures the one with this caption?). Real pictures give each judge's ceiling. The sheet
shows 64 prompts: every second row the real pictures, the row below the drawn ones.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from .assemble import SETTINGS, pipeline
from .clip import OUT as CLIP
from .clip import retrieval, tokenize
from .data import CACHE, load
from .mmdit import OneNullToken

COUNT = 200


def draw(pipe: StableDiffusion3Pipeline, captions: list[str], steps: int, guidance: float, batch: int = 20, **call) -> torch.Tensor:
    """Pictures (N, 64, 64, 3) uint8, prompt i from seed i."""
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for i in range(0, len(captions), batch):
        prompts = captions[i : i + batch]
        generators = [torch.Generator().manual_seed(i + j) for j in range(len(prompts))]
        images = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np", **call).images
        parts.append(torch.from_numpy(images * 255).round().to(torch.uint8))
        print(f"{i + len(prompts)}/{len(captions)}", flush=True)
    return torch.cat(parts)


def nearest_pixels(drawn: torch.Tensor, real: torch.Tensor) -> float:
    """Share of drawn pictures whose nearest real one, by squared difference of pixels, has the same caption."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--steps", type=int, default=SETTINGS["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=SETTINGS["guidance_scale"])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--genuine", action="store_true", help="all 256 null text tokens instead of one with their weight (the same, four times slower)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pictures, rows = load()
    pool = [i for i, row in enumerate(rows) if row["held_out"] == args.held_out]
    chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(5))[: args.count].tolist()
    chosen = [pool[i] for i in chosen]
    captions, real = [rows[i]["caption"] for i in chosen], pictures[chosen]
    pipe = pipeline()
    call = {}
    if not args.genuine:
        for block in pipe.transformer.transformer_blocks:
            block.attn.set_processor(OneNullToken())
        call = {"max_sequence_length": 1}
    with torch.no_grad():
        drawn = draw(pipe, captions, args.steps, args.guidance, **call)
    ids = tokenize(CLIPTokenizer.from_pretrained(CLIP / "tokenizer"), captions)
    result = {"captions": len(captions), "held_out": args.held_out, "steps": args.steps, "guidance": args.guidance}
    for name in ("clip", "judge"):
        if (CLIP / name).exists():
            judge = CLIPModel.from_pretrained(CLIP / name).eval()
            result[name] = {"real": round(retrieval(judge, real, ids), 4), "drawn": round(retrieval(judge, drawn, ids), 4)}
    result["pixels"] = {"drawn": round(nearest_pixels(drawn, real), 4)}
    kind = "held-out" if args.held_out else "trained"
    sheet(real, drawn, CACHE / f"sheet-{kind}.png")
    (CACHE / f"evaluation-{kind}.json").write_text(json.dumps(result | {"sheet": captions[:64]}, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
