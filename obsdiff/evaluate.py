"""The same prompts and seeds through the dense and the pruned pipelines: pictures, latents, figures, results.json.

    1. Draw what is not drawn yet, the dense pipeline first, batch by batch into OUTPUT.part     (drawing.py)
    2. Measure how far the pictures moved                                                         (metrics.py)
    3. Measure what each pipeline costs, against the dense one in the same process                (costs.py, peak_memory.py)
    4. Write results.json (docs/results.md describes it) and give the folder its name

A killed run leaves OUTPUT.part, and goes on from it.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .checkpoint import RECORD, load_pipeline
from .costs import cost_on_disk, measure_speed, step_macs, what_left
from .drawing import denoiser_call, draw, save_images
from .errors import UserError
from .folder import Folder, read_json
from .metrics import relative_latent_error
from .peak_memory import peak_memory
from .progress import counting, say
from .record import versions

SCHEMA = 1
RESULTS = "results.json"
DENSE = "dense"


@dataclass(frozen=True)
class Job:
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
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def folders(self) -> dict[str, Folder]:
        return {DENSE: self.dense, **self.runs}

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a run to go on from another's files."""
        paths = {name: str(folder.path.absolute()) for name, folder in self.folders.items()}
        call = {"prompts": self.prompts, "seeds": self.seeds, "settings": self.settings, "batch_size": self.batch_size}
        return {"folders": paths, **call, "rounds": self.rounds, "versions": versions()}


def check_comparable(dense: Folder, runs: dict[str, Folder], component: str) -> None:
    """UserError unless all folders hold the same kind of pipeline, drawing the same kind of latents."""
    config = dense.config(component)
    for folder in runs.values():
        if folder.pipeline != dense.pipeline:
            raise UserError(f"evaluate: {dense.path} is a {dense.pipeline}, {folder.path} is a {folder.pipeline}; compare pipelines of one class")
        other = folder.config(folder.denoiser(component))
        for key in ("sample_size", "in_channels", "out_channels", "patch_size"):
            if config.get(key) != other.get(key):
                raise UserError(
                    f"evaluate: {component} of {dense.path} has {key} {config.get(key)}, that of {folder.path} has {other.get(key)}: "
                    "their pictures can't be compared"
                )


def evaluate(job: Job, output: Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run the job and write the folder; returns what results.json holds. UserError for an output that is there already."""
    part = open_part(job, output, resume, overwrite)
    images = {name: draw_missing(job, name, part) for name in job.folders}
    latents = {name: drawn_latents(part, name) for name in job.folders}
    costs = {name: cost(job, name, part) for name in job.folders}
    runs = [entry(name, job, costs[name], latents, images[name], part.parent) for name in job.runs]
    results = write_results(part, job, images[DENSE], costs[DENSE], runs)
    for leftover in ("latents", "costs"):
        shutil.rmtree(part / leftover, ignore_errors=True)
    (part / "job.json").unlink()
    if output.exists():
        output.rename(old := part / "old")
        part.rename(output)
        shutil.rmtree(output / old.name)
    else:
        part.rename(output)
    return results


def open_part(job: Job, output: Path, resume: bool, overwrite: bool) -> Path:
    """The folder that the run fills before it gets its name: a new one, or a killed run's with the same job."""
    part = output.with_name(output.name + ".part")
    if output.exists() and not overwrite:
        raise UserError(f"output: {output} exists already; choose another, or give --overwrite to replace it")
    if part.exists() and not resume:
        if not overwrite:
            raise UserError(f"output: {part} is there from a run that did not end; go on with --resume, or start anew with --overwrite")
        shutil.rmtree(part)
    wanted = json.loads(json.dumps(job.fingerprint()))
    if part.exists():
        found = read_json(part / "job.json")
        differ = [key for key in wanted if found.get(key) != wanted[key]]
        if differ:
            raise UserError(f"output: {part} was begun with other {', '.join(differ)}; start anew with --overwrite")
        return part
    part.mkdir(parents=True)
    (part / "job.json").write_text(json.dumps(wanted))
    return part


def draw_missing(job: Job, name: str, part: Path) -> list[str]:
    """Draw the batches that are not there yet; paths of all pictures."""
    folder = part / "latents" / plain(name)
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, len(job.prompts), job.batch_size)
    missing = [i for i in firsts if not (folder / f"{i:06}.safetensors").exists()]
    if missing:
        pipe, _ = load_pipeline(job.folders[name])
        with counting(f"drawing {name}", len(job.prompts)) as advance:
            advance(sum(len(job.prompts[i : i + job.batch_size]) for i in firsts if i not in missing))
            for i in missing:
                prompts = job.prompts[i : i + job.batch_size]
                images, latents = draw(pipe, prompts, job.seeds[i : i + job.batch_size], job.settings, job.batch_size)
                save_images(images, part, plain(name), i)
                beside = folder / f"{i:06}.part"
                save_file({"latents": latents.contiguous()}, beside)
                beside.rename(folder / f"{i:06}.safetensors")
                advance(len(prompts))
    return [f"{plain(name)}/{i:03}.png" for i in range(len(job.prompts))]


def plain(name: str) -> str:
    """A run's name as the name of a folder: "obs 2:4" is obs-2-4."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def drawn_latents(part: Path, name: str) -> torch.Tensor:
    return torch.cat([load_file(file)["latents"] for file in sorted((part / "latents" / plain(name)).glob("*.safetensors"))])


def cost(job: Job, name: str, part: Path) -> dict[str, Any]:
    """What a pipeline costs; kept in the part folder, since timing takes long."""
    file = part / "costs" / f"{plain(name)}.json"
    if file.exists():
        return read_json(file)
    folder = job.folders[name]
    found: dict[str, Any] = cost_on_disk(folder.path, job.component)
    pipe, _ = load_pipeline(folder)
    found["macs"] = step_macs(getattr(pipe, job.component), denoiser_call(pipe, getattr(pipe, job.component), job.prompts[0], job.settings))
    record = read_json(folder.path / RECORD) if (folder.path / RECORD).is_file() else {}
    found |= what_left(record)
    if record:
        found["seconds"] = record.get("seconds", {})
    if name != DENSE and job.rounds:
        say(f"{name}: timing {job.rounds} pictures, dense and pruned in turn")
        dense, _ = load_pipeline(job.dense)
        dense.set_progress_bar_config(disable=True)
        pipe.set_progress_bar_config(disable=True)
        found |= measure_speed(dense, pipe, job.component, job.prompts[0], job.settings, job.rounds)
        del dense
    del pipe
    if job.rounds:
        found["memory"] = peak_memory(folder.path, job.settings, job.prompts[0])
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found))
    return found


def entry(name: str, job: Job, cost: dict[str, Any], latents: dict[str, torch.Tensor], images: list[str], near: Path) -> dict[str, Any]:
    """One element of `runs` in results.json. A pipeline below the folder `near`, where the run lies, is named relative to it."""
    folder = job.runs[name].path
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return {
        "name": name,
        "path": str(folder.relative_to(near) if folder.is_relative_to(near) else folder),
        "config": record.get("config", {}),
        "cost": cost,
        "metrics": {"relative_latent_error": relative_latent_error(latents[name], latents[DENSE])},
        "layers": record.get("layers", []),
        "images": images,
    }


def write_results(part: Path, job: Job, dense_images: list[str], dense_cost: dict[str, Any], runs: list[dict]) -> dict[str, Any]:
    """results.json, schema 1. Image paths are relative to the folder."""
    results = {
        "schema": SCHEMA,
        "dense": job.label or str(job.dense.path),
        "dense_images": dense_images,
        "dense_cost": dense_cost,
        "runs": runs,
        "prompts": job.prompts,
        "seeds": job.seeds,
        "settings": job.settings,
        "threads": job.threads,
        "versions": versions(),
    }
    (part / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results
