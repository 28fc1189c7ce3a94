"""The same prompts and seeds through the dense and the pruned pipelines: pictures, latents, figures, results.json.

    1. Draw what is not drawn yet, the dense pipeline first, batch by batch into OUTPUT.part     (evaluation/draw.py)
    2. Measure how far the pictures moved, and what judges say of them                            (evaluation/metrics.py, judges/)
    3. Measure what each pipeline costs, against the dense one in the same process                (evaluation/costs.py, evaluation/peak_memory.py)
    4. Write results.json (docs/results-schema.md describes it) and give the folder its name

A killed run leaves OUTPUT.part, and goes on from it.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..pipelines.folder import Folder
from ..pipelines.load import load_pipeline
from ..pipelines.partial_output import check_output, finish, open_part
from ..pipelines.record import RECORD, leaving, read_record, versions
from ..pipelines.replaceable import WORK
from ..pipelines.run import denoiser_call
from ..runtime.json_files import kept_json, read_json, write_json
from ..runtime.progress import counting, say
from .costs import cost_on_disk, measure_speed, step_macs
from .draw import draw, save_images
from .judges.files import Judges
from .judges.scores import Scores, all_figures
from .peak_memory import peak_memory
from .report.noise import DENSE_NAME

SCHEMA = 1
RESULTS = "results.json"
OF_DENOISER = (
    "sample_size",
    "in_channels",
    "out_channels",
    "patch_size",
)  # what fixes the shape of the latents
OF_VAE = ("latent_channels", "block_out_channels")  # and how many pixels they become


@dataclass(frozen=True)
class Evaluation:
    """What is compared: the dense folder, the pruned ones by name, and how they are called. `rounds` timed pictures; 0 times
    nothing."""

    dense: Folder
    runs: dict[str, Folder]
    prompts: list[str]
    seeds: list[int]
    settings: dict[str, Any]
    component: str
    batch_size: int = 4
    rounds: int = 5
    label: str = ""  # what results.json calls the dense model
    judges: Judges = field(default_factory=Judges)  # the metric models that were given
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def folders(self) -> dict[str, Folder]:
        return {DENSE_NAME: self.dense, **self.runs}

    @property
    def inputs(self) -> list[Path]:
        """Everything that is read: no output may replace it."""
        models = [
            place for folder in self.folders.values() for place in (folder.path, folder.source)
        ]
        return models + [place for place in vars(self.judges).values() if place is not None]

    def key(self, name: str) -> str:
        """The name of a run's folder of pictures: its place, and its name as far as a file system takes it."""
        return (
            f"{list(self.folders).index(name):02}-{re.sub(r'[^0-9A-Za-z]+', '-', name).strip('-')}"
        )

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a run to go on from another's files."""
        models = {
            name: [str(folder.path.absolute()), stamps(folder)]
            for name, folder in self.folders.items()
        }
        call = {
            "prompts": self.prompts,
            "seeds": self.seeds,
            "settings": self.settings,
            "batch_size": self.batch_size,
        }
        return {
            "models": models,
            "component": self.component,
            **call,
            "rounds": self.rounds,
            "versions": versions(),
        }


def stamps(folder: Folder) -> dict[str, list[int]]:
    """Size and time of every file of a pipeline, by its path."""
    files = sorted(
        file for file in folder.path.rglob("*") if file.suffix in (".json", ".safetensors")
    )
    files += [folder.single_file] if folder.single_file else []
    return {
        os.path.relpath(file, folder.path): [file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
    }


def check_comparable(dense: Folder, runs: dict[str, Folder], component: str) -> None:
    """UserError unless all folders, of one pipeline class, draw pictures of one size by one scheduler."""
    expected = way_of_drawing(dense, component)
    for folder in runs.values():
        found = way_of_drawing(folder, component)
        for part, key in ((part, key) for part, settings in expected.items() for key in settings):
            if expected[part][key] != found[part].get(key):
                raise UserError(
                    f"evaluate: {part} of {dense.source} has {key} {expected[part][key]}, that of {folder.path} has {found[part].get(key)}: "
                    "their pictures can't be compared"
                )


def way_of_drawing(folder: Folder, component: str) -> dict[str, dict[str, Any]]:
    """What has to be the same for two pipelines to draw the same pictures, but for their weights: by part and setting."""
    denoiser, vae = (
        folder.config(folder.denoiser(component)),
        folder.config("vae") if "vae" in folder.components else {},
    )
    sizes = {
        "vae": {key: vae.get(key) for key in OF_VAE},
        component: {key: denoiser.get(key) for key in OF_DENOISER},
    }
    return sizes | {"scheduler": scheduler_of(folder)}


def scheduler_of(folder: Folder) -> dict[str, Any]:
    """Class and settings of the scheduler; those that its file leaves out, since an older diffusers wrote it, have their defaults."""
    import diffusers

    name = (read_json(folder.path / "model_index.json").get("scheduler") or [None])[-1]
    kind, file = (
        getattr(diffusers, str(name), None),
        folder.path / "scheduler" / "scheduler_config.json",
    )
    if kind is None:
        raise UserError(
            f"{folder.path}: expected a scheduler of diffusers in model_index.json, found {name!r}"
        )
    config = read_json(file)
    try:
        settings = kind.from_config(config).config
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file}: diffusers can't make a {name} of it: {error}") from error
    return {"class": name} | {
        key: value for key, value in settings.items() if not key.startswith("_")
    }


def evaluate(
    evaluation: Evaluation, output: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run the job and write the folder; returns what results.json holds. UserError for an output that can't be written."""
    check_output(output, overwrite, evaluation.inputs)
    with open_part(output, evaluation.fingerprint(), resume, overwrite) as part:
        return fill(evaluation, part, output, overwrite)


def fill(evaluation: Evaluation, part: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    """Draw and measure what is not there yet, and give the folder its name."""
    images = {name: draw_missing(evaluation, name, part) for name in evaluation.folders}
    latents = {name: drawn_latents(evaluation, name, part) for name in evaluation.folders}
    metrics = score_pictures(evaluation, images, latents, part)
    costs = {name: cost_of(evaluation, name, part) for name in evaluation.folders}
    runs = [
        entry(name, evaluation, costs[name], metrics[name], images[name], part.parent)
        for name in evaluation.runs
    ]
    results = results_of(
        evaluation, images[DENSE_NAME], costs[DENSE_NAME], metrics[DENSE_NAME], runs
    )
    write_json(part / RESULTS, results)
    finish(part, output, overwrite)
    return results


def draw_missing(evaluation: Evaluation, name: str, part: Path) -> list[str]:
    """Draw the batches that are not there yet; paths of all pictures, relative to the run's folder."""
    paths = [f"images/{evaluation.key(name)}/{i:03}.png" for i in range(len(evaluation.prompts))]
    folder = part / WORK / "latents" / evaluation.key(name)
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, len(evaluation.prompts), evaluation.batch_size)
    batches = {
        i: [
            folder / f"{i:06}.safetensors",
            *(part / path for path in paths[i : i + evaluation.batch_size]),
        ]
        for i in firsts
    }
    missing = [i for i in firsts if not all(file.exists() for file in batches[i])]
    if missing:
        pipe, _ = load_pipeline(evaluation.folders[name])
        with counting(f"drawing {name}", len(evaluation.prompts)) as advance:
            advance(
                sum(
                    len(evaluation.prompts[i : i + evaluation.batch_size])
                    for i in firsts
                    if i not in missing
                )
            )
            for i in missing:
                prompts = evaluation.prompts[i : i + evaluation.batch_size]
                images, latents = draw(
                    pipe,
                    prompts,
                    evaluation.seeds[i : i + evaluation.batch_size],
                    evaluation.settings,
                    evaluation.batch_size,
                )
                save_images(images, part, paths[i : i + evaluation.batch_size])
                beside = folder / f"{i:06}.part"
                save_file({"latents": latents.contiguous()}, beside)
                beside.rename(folder / f"{i:06}.safetensors")
                advance(len(prompts))
    return paths


def drawn_latents(evaluation: Evaluation, name: str, part: Path) -> torch.Tensor:
    return torch.cat(
        [
            load_file(file)["latents"]
            for file in sorted(
                (part / WORK / "latents" / evaluation.key(name)).glob("*.safetensors")
            )
        ]
    )


def score_pictures(
    evaluation: Evaluation,
    images: dict[str, list[str]],
    latents: dict[str, torch.Tensor],
    part: Path,
) -> Scores:
    """The figures of every pipeline, from the pictures as they were saved."""
    say(f"measuring the pictures of {len(images)} pipelines")
    pictures = {
        name: [Image.open(part / file).convert("RGB") for file in files]
        for name, files in images.items()
    }
    return all_figures(pictures, latents, DENSE_NAME, evaluation.prompts, evaluation.judges)


def cost_of(evaluation: Evaluation, name: str, part: Path) -> dict[str, Any]:
    """What a pipeline costs; kept in the part folder, since timing takes long."""
    file = part / WORK / "costs" / f"{evaluation.key(name)}.json"
    found = kept_json(file)
    if found is None:
        found = measure_cost(evaluation, name)
        write_json(file, found)
    return found


def measure_cost(evaluation: Evaluation, name: str) -> dict[str, Any]:
    folder = evaluation.folders[name]
    found: dict[str, Any] = cost_on_disk(folder.components[evaluation.component])
    pipe, _ = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    found["macs"] = step_macs(
        getattr(pipe, evaluation.component),
        denoiser_call(
            pipe, getattr(pipe, evaluation.component), evaluation.prompts[0], evaluation.settings
        ),
    )
    record = record_of(folder)
    found |= leaving(record.get("groups", []))
    if record:
        found["seconds"] = record.get("seconds", {})
    if name != DENSE_NAME and evaluation.rounds:
        say(f"{name}: timing {evaluation.rounds} pictures, dense and pruned in turn")
        dense, _ = load_pipeline(evaluation.dense)
        dense.set_progress_bar_config(disable=True)
        found |= measure_speed(
            dense,
            pipe,
            evaluation.component,
            evaluation.prompts[0],
            evaluation.settings,
            evaluation.rounds,
        )
        del dense
    del pipe
    if evaluation.rounds:
        found["memory"] = peak_memory(
            folder.path, evaluation.settings, evaluation.prompts[0], folder.single_file
        )
    return found


def record_of(folder: Folder) -> dict[str, Any]:
    """obsdiff.json of a pruned folder; {} for a folder that obsdiff did not write."""
    return read_record(folder.path) if (folder.path / RECORD).is_file() else {}


def entry(
    name: str,
    evaluation: Evaluation,
    cost: dict[str, Any],
    metrics: dict[str, Any],
    images: list[str],
    near: Path,
) -> dict[str, Any]:
    """One element of `runs` in results.json. A pipeline below the folder `near`, where the run lies, is named relative to it."""
    folder, record = evaluation.runs[name].path, record_of(evaluation.runs[name])
    return {
        "name": name,
        "path": str(folder.relative_to(near) if folder.is_relative_to(near) else folder),
        "config": record.get("config", {}),
        "cost": cost,
        "metrics": metrics,
        "prompts_calibrated_on": len(
            set(evaluation.prompts) & {p for p in record.get("prompts", []) if isinstance(p, str)}
        ),
        "layers": record.get("layers", []),
        "images": images,
    }


def results_of(
    evaluation: Evaluation,
    dense_images: list[str],
    dense_cost: dict[str, Any],
    dense_metrics: dict[str, Any],
    runs: list[dict],
) -> dict[str, Any]:
    """results.json, schema 1. Image paths are relative to the folder."""
    return {
        "schema": SCHEMA,
        "dense": evaluation.label or str(evaluation.dense.source),
        "dense_images": dense_images,
        "dense_cost": dense_cost,
        "dense_metrics": dense_metrics,
        "runs": runs,
        "prompts": evaluation.prompts,
        "seeds": evaluation.seeds,
        "settings": evaluation.settings,
        "judges": evaluation.judges.record(),
        "threads": evaluation.threads,
        "versions": versions(),
    }
