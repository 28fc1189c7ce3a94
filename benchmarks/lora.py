"""What a LoRA made for the dense emoji-sd3 does on structured results, cut to what is left.

    python -m benchmarks.lora [--sparsities 0.2 0.3] [--steps 100] [--prompts 24] [--subjects 64]
        [--calibration 24] [--inference-steps 25] [--fused]

The LoRA has rank 4, on q, k, v, to_out and the FFN of the image stream. It is trained to answer the
prompts of one style as the dense model answers those of another, on latents of the dense model's
own trajectories: no pictures are needed. Figures are relative latent errors over evaluation
prompts, all against the dense model with the LoRA: its own effect is the dense model's without it;
what is lost is the pruned model's with the cut LoRA, the pruning's own error included. For
comparison, what the pruning alone costs, without a LoRA on either side, and with --fused the same
with the LoRA fused before the pruning.
results/lora.json stores the rows.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from obsdiff import PruningConfig, builtin_path, prune_
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.pipelines.builtin import builtin_info

from .conditions import conditions, model_version

RESULTS = Path(__file__).parent / "results" / "lora.json"
NAME = "emoji-sd3"
MODEL = builtin_path(NAME)
SETTINGS = builtin_info(MODEL)["settings"]
SOURCE, TARGET = "noto style", "blob style"
RANK, RATE, BATCH = 4, 2e-3, 8
LAYERS = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"]
TRAJECTORY_STEPS = 12  # denoising steps of the trajectories that the LoRA is trained on
WITHOUT = "without the LoRA"


def main() -> None:
    """Train the LoRA, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.2, 0.3])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--subjects", type=int, default=64, help="captions of the training")
    parser.add_argument("--calibration", type=int, default=24, help="prompts of the pruning")
    parser.add_argument("--inference-steps", type=int, default=SETTINGS["num_inference_steps"])
    parser.add_argument("--fused", action="store_true", help="also fuse before the pruning")
    args = parser.parse_args()
    torch.set_num_threads(1)
    SETTINGS["num_inference_steps"] = args.inference_steps
    rows: list[dict[str, Any]] = []
    diffusers.utils.logging.set_verbosity_error()
    prompts = subjects("evaluation_prompts.txt", args.prompts)
    with tempfile.TemporaryDirectory() as folder:
        train(folder, args.steps, args.subjects)
        wanted = draw(with_lora(opened(), folder), prompts)
        plain = draw(opened(), prompts)
        rows.append(row(WITHOUT, 0.0, plain, wanted))
        for sparsity in args.sparsities:
            found = pruned(folder, sparsity, prompts, args)
            rows.append(row("no LoRA on either side", sparsity, found[WITHOUT], plain))
            rows += [row(name, sparsity, latents, wanted) for name, latents in found.items()]
            store(args, rows)


def pruned(
    folder: str, sparsity: float, prompts: list[str], args: argparse.Namespace
) -> dict[str, Tensor]:
    """Latents of a structured result: without the LoRA, with the cut one, with one fused before."""
    pipe = opened()
    prune(pipe, sparsity, args.calibration)
    found = {
        WITHOUT: draw(pipe, prompts),
        "with the cut LoRA": draw(with_lora(pipe, folder), prompts),
    }
    if args.fused:
        pipe = with_lora(opened(), folder)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        prune(pipe, sparsity, args.calibration)
        found["with the LoRA fused before"] = draw(pipe, prompts)
    return found


def prune(pipe: Any, sparsity: float, count: int) -> None:
    """Prune by calibration prompts, with the settings of the drawings."""
    captions = (MODEL / "calibration_prompts.txt").read_text().splitlines()
    config = PruningConfig(
        pattern="structured", sparsity=sparsity, calibration="single", num_prompts=count, **SETTINGS
    )
    prune_(pipe, captions, config, progress=False)


def opened() -> Any:
    pipe = DiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_lora(pipe: Any, folder: str) -> Any:
    pipe.load_lora_weights(folder)
    return pipe


def subjects(file: str, count: int) -> list[str]:
    """The first captions of a file, each in the style that the LoRA changes."""
    lines = (MODEL / file).read_text().splitlines()[:count]
    return [f"{caption.rpartition(', ')[0]}, {SOURCE}" for caption in lines]


def draw(pipe: Any, prompts: list[str], **changes: Any) -> Tensor:
    """Final latents of prompts, prompt i from the seed 1,000,000 + i."""
    seeds = [torch.Generator().manual_seed(1_000_000 + i) for i in range(len(prompts))]
    parts = []
    for i in range(0, len(prompts), BATCH):
        call = SETTINGS | {"output_type": "latent", "generator": seeds[i : i + BATCH]} | changes
        parts.append(pipe(prompts[i : i + BATCH], **call).images)
    return torch.cat(parts)


def train(folder: str, steps: int, count: int) -> None:
    """Train the LoRA and write it into a folder."""
    pipe = opened()
    prompts = subjects("calibration_prompts.txt", count)
    wanted = [prompt.replace(SOURCE, TARGET) for prompt in prompts]
    states = trajectories(pipe, wanted)
    with torch.no_grad():
        given = [encoded(pipe, texts) for texts in (prompts, wanted)]
    model = pipe.transformer
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    for step in range(steps):
        rows = torch.randint(len(states), (BATCH,))
        latents = torch.stack([states[i][0] for i in rows])
        times = torch.stack([states[i][1] for i in rows])
        texts = [states[i][2] for i in rows]
        model.disable_adapters()
        with torch.no_grad():
            target = velocity(model, latents, times, given[1], texts)
        model.enable_adapters()
        loss = (velocity(model, latents, times, given[0], texts) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0 or step == steps - 1:
            share = loss.item() / target.square().mean().item()
            print(f"step {step}: {share:.4f} of the target's square", flush=True)
    pipe.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(model))


def trajectories(pipe: Any, prompts: list[str]) -> list[tuple[Tensor, Tensor, int]]:
    """Latents, time and prompt of every denoising step."""
    found: list[tuple[Tensor, Tensor, int]] = []
    for first in range(0, len(prompts), BATCH):

        def keep(_: Any, step: int, time: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
            times = pipe.scheduler.timesteps
            if step + 1 < len(times):  # the latents are those after the step
                rows = enumerate(values["latents"], first)  # noqa: B023 - called in the same turn
                found.extend((latents.clone(), times[step + 1], i) for i, latents in rows)
            return values

        call = SETTINGS | {"num_inference_steps": TRAJECTORY_STEPS, "output_type": "latent"}
        noise = torch.Generator().manual_seed(first)
        batch = prompts[first : first + BATCH]
        pipe(batch, generator=noise, callback_on_step_end=keep, **call)
    return found


def encoded(pipe: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of prompts, for the tokens and pooled."""
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False
    )
    return tokens, pooled


def velocity(
    model: Any, latents: Tensor, times: Tensor, given: tuple[Tensor, Tensor], texts: list[int]
) -> Tensor:
    tokens, pooled = given[0][texts], given[1][texts]
    return model(latents, tokens, pooled, times, return_dict=False)[0].float()


def row(name: str, sparsity: float, latents: Tensor, wanted: Tensor) -> dict[str, Any]:
    """The row of one pipeline: its latents against the dense model's with the LoRA."""
    figure = relative_latent_error(latents, wanted)
    found = {key: figure[key] for key in ("value", "low", "high")}
    print(json.dumps({"name": name, "sparsity": sparsity} | found), flush=True)
    return {"name": name, "sparsity": sparsity} | found


def store(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the rows so far; what is lost is a share of the LoRA's own effect, the first row."""
    effect = rows[0]["value"]
    found = {
        "conditions": conditions("benchmarks.lora"),
        "settings": vars(args),
        "model": NAME,
        "model_version": model_version(NAME),
        "rows": [each | {"of_effect": each["value"] / effect} for each in rows],
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
