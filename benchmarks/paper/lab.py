"""A built-in model prepared for many experiments: dense latents, shared Hessians and judges, each
computed once.

emoji-sd3 feeds some 240 equal null tokens behind every caption. Pictures are drawn here with one of
them and its weight (training/null_token.py), dense and pruned: the same function, also of a pruned
model, since equal tokens stay equal in every layer (`python -m benchmarks.paper check` shows by how
much the latents differ). Calibration runs the genuine pipeline.

Settings are chosen on the prompts of the set "tuning" alone. The tables report "evaluation", which
no decision ever saw, and "held_out", of names that the models were not trained on.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from obsdiff import PruningConfig, builtin_path
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.context import CalibrationContext
from obsdiff.calibration.given import Given, given_groups
from obsdiff.calibration.groups import counted_groups
from obsdiff.calibration.packages import Package, plan_packages
from obsdiff.calibration.selection import select_groups
from obsdiff.config.choices import STEP_WEIGHTINGS
from obsdiff.evaluation.draw import draw
from obsdiff.evaluation.judges.clip import Clip
from obsdiff.evaluation.judges.features import features_of, open_extractor, real_features
from obsdiff.evaluation.judges.files import find_judges
from obsdiff.evaluation.metrics import Figure, fid, mean_of, relative_latent_error
from obsdiff.layerwise.linear import prune_layers_
from obsdiff.layerwise.structured import prune_structured_
from obsdiff.layerwise.tasks import Allocation, tasks_of
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.meta_device import macs_or_why_not
from obsdiff.models.pruned_classes import mark_corrected_, mark_pruned_
from obsdiff.models.structure import Tap
from obsdiff.pipelines.builtin import builtin_info
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts
from obsdiff.pipelines.record import GroupRecord, LayerRecord, PruningReport
from obsdiff.pipelines.run import denoiser_call, prepared
from obsdiff.runtime.scratch import open_scratch
from training.null_token import NULL_TOKENS_DRAWN, OneNullToken
from training.third_encoder import READ

from .hessians import PAPERS, Hessians, gather, read
from .sub_modules import sub_modules, weights_of

CACHE = Path(__file__).parents[1] / "cache"
STEPS = 10
PROMPTS = 64
HELD_OUT_PROMPTS = 32
FIRST_SEEDS = {  # noise that no calibration prompt starts from
    "evaluation": 1_000_000,
    "held_out": 2_000_000,
    "tuning": 3_000_000,
}
REPORTED = ("evaluation", "held_out")
CALIBRATION = 100
COUNTS = (1, 2, 5, 10, 25, 50)  # numbers of prompts whose Hessians are kept on the way
BATCH = 16

Scheduler = Callable[[Any], Any]  # from the pipeline's own


@dataclass
class Lab:
    """One built-in model, and what its experiments share."""

    model: str
    steps: int = STEPS
    prompts: int = PROMPTS
    prompt_set: str = "evaluation"  # of the figures; "tuning" for every decision
    drawn: dict[str, tuple[list[Image], torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = builtin_path(self.model)
        self.folder = open_folder(self.path)
        self.component = self.folder.denoiser(None)
        self.pipe, _ = load_pipeline(self.folder)
        self.dense: torch.nn.Module = getattr(self.pipe, self.component)
        self.settings = builtin_info(self.path)["settings"] | {"num_inference_steps": self.steps}
        self.sets = {
            name: read_prompts(self.path / f"{name}_prompts.txt")[: self.prompts]
            for name in FIRST_SEEDS
        }
        self.sets["held_out"] = self.sets["held_out"][:HELD_OUT_PROMPTS]
        self.calibration = read_prompts(self.path / "calibration_prompts.txt")
        judges = find_judges({}, self.path)
        self.clip, self.extract = Clip(judges.clip), open_extractor(judges.features)
        self.real = real_features(judges, self.extract)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return layer_shapes(self.dense)

    @cached_property
    def sub_modules(self) -> dict[str, tuple[str, ...]]:
        """The dense model's attentions and FFNs, and their layers."""
        return sub_modules(self.dense)

    @cached_property
    def weights(self) -> dict[str, int]:
        """Number of weights of each attention and FFN."""
        return {name: weights_of(self.dense, some) for name, some in self.sub_modules.items()}

    def packages(self, config: PruningConfig) -> list[Package]:
        """The packages that a config prunes."""
        return plan_packages(find_blocks(self.shapes), self.shapes, config)

    def taps(self, config: PruningConfig) -> list[Tap]:
        """The inputs that a config calibrates."""
        return [tap for package in self.packages(config) for tap in package.taps]

    @contextmanager
    def calibrating(self, calibration_set: CalibrationSet) -> Iterator[CalibrationContext]:
        """Prepare the pipeline inside the block, and yield the context of a calibration of the
        dense model. All sums are in memory."""
        with open_scratch(math.inf) as scratch, prepared(self.pipe) as run:
            yield CalibrationContext(
                run, self.dense, find_blocks(self.shapes), calibration_set, scratch
            )

    def hessians(
        self, seed: int = 0, count: int = CALIBRATION, weighting: str = PAPERS
    ) -> Hessians:
        """Hessians of the dense model over `count` calibration prompts; read from disk if
        present."""
        folder = CACHE / f"{self.model}-{self.steps}" / f"seed{seed}"
        file = folder / f"{count:03}-{weighting}.safetensors"
        if not file.exists():
            keep = {n: [PAPERS] for n in COUNTS if seed == 0} | {CALIBRATION: list(STEP_WEIGHTINGS)}
            config = PruningConfig(num_prompts=CALIBRATION, seed=seed)
            prompts, seeds = choose_prompts(self.calibration, config)
            with self.calibrating(CalibrationSet(prompts, seeds, self.settings)) as context:
                gather(context, self.taps(config), self.steps, keep, folder)
        return read(file)

    def pruned(
        self, config: PruningConfig, hessians: Hessians, given: Given | None = None
    ) -> tuple[torch.nn.Module, list[LayerRecord], list[GroupRecord], float]:
        """A copy of the dense denoiser pruned in one package with these Hessians; its records;
        seconds of the solving. `given`: the heads and neurons that leave."""
        denoiser = copy.deepcopy(self.dense)
        inputs = {tap: CalibratedInput(hessians[tap.layers[0]]) for tap in self.taps(config)}
        layers: list[LayerRecord] = []
        groups: list[GroupRecord] = []
        began = time.perf_counter()
        selected = (
            select_groups(find_blocks(self.shapes), config)
            if config.pattern == "structured"
            else []
        )
        ready, removal = counted_groups(denoiser, selected, config), None
        if given is not None:
            ready, removal = given_groups(given, ready)
        prune_task_ = prune_structured_ if ready else prune_layers_
        for task in tasks_of(self.packages(config), ready):
            result = prune_task_(denoiser, inputs, config, Allocation(given=removal), task)
            layers += result.layers
            groups += result.groups
        if groups:
            denoiser = mark_pruned_(denoiser, PruningReport({}, groups=groups).layout)
        mark_corrected_(denoiser)
        return denoiser, layers, groups, time.perf_counter() - began

    def draw(
        self,
        denoiser: torch.nn.Module,
        changes: dict[str, Any],
        scheduler: Scheduler | None = None,
        prompt_set: str | None = None,
    ) -> tuple[list[Image], torch.Tensor]:
        """Pictures and final latents of a set of prompts."""
        name = prompt_set or self.prompt_set
        prompts = self.sets[name]
        seeds = [FIRST_SEEDS[name] + i for i in range(len(prompts))]
        with self.drawing_with(denoiser, scheduler) as extra:
            return draw(self.pipe, prompts, seeds, self.settings | extra | changes, BATCH)

    def error_of(self, denoiser: torch.nn.Module, prompt_set: str) -> Figure:
        """Relative latent error of a denoiser on a set of prompts."""
        key = f"{prompt_set} prompts"
        if key not in self.drawn:
            self.drawn[key] = self.draw(self.dense, {}, prompt_set=prompt_set)
        latents = self.draw(denoiser, {}, prompt_set=prompt_set)[1]
        return relative_latent_error(latents, self.drawn[key][1])

    @contextmanager
    def drawing_with(
        self, denoiser: torch.nn.Module, scheduler: Scheduler | None = None, genuine: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Use another denoiser and scheduler inside the block; yields additional arguments of the
        call."""
        own, before, extra = self.pipe.scheduler, getattr(self.pipe, self.component), {}
        if self.model == "emoji-sd3" and not genuine:
            denoiser = copy.deepcopy(denoiser)
            for block in denoiser.transformer_blocks:
                block.attn.set_processor(OneNullToken(NULL_TOKENS_DRAWN))
            extra = {"max_sequence_length": READ}
        setattr(self.pipe, self.component, denoiser)
        self.pipe.scheduler = scheduler(own) if scheduler else copy.deepcopy(own)
        try:
            yield extra
        finally:
            setattr(self.pipe, self.component, before)
            self.pipe.scheduler = own

    def figures(
        self,
        denoiser: torch.nn.Module,
        key: str = "",
        changes: dict[str, Any] | None = None,
        scheduler: Scheduler | None = None,
    ) -> dict[str, Figure]:
        """Relative latent error, CLIP score and FID of a denoiser, drawn like the dense one under
        the same settings (`key` names them)."""
        if key not in self.drawn:
            self.drawn[key] = self.draw(self.dense, changes or {}, scheduler)
        images, latents = (
            self.drawn[key]
            if denoiser is self.dense
            else self.draw(denoiser, changes or {}, scheduler)
        )
        found = {
            "clip_score": mean_of(self.clip.clip_scores(images, self.sets[self.prompt_set])),
            "fid": fid(features_of(images, self.extract), self.real),
        }
        if denoiser is not self.dense:
            found = {
                "relative_latent_error": relative_latent_error(latents, self.drawn[key][1])
            } | found
        return found

    def cost(self, denoiser: torch.nn.Module) -> dict[str, Any]:
        """Parameters and zeros of a denoiser, MACs of one step of one picture by the genuine
        pipeline."""
        weights = list(denoiser.parameters())
        with self.drawing_with(denoiser, genuine=True):
            call = denoiser_call(self.pipe, denoiser, self.sets[self.prompt_set][0], self.settings)
        return {
            "parameters": sum(p.numel() for p in weights),
            "zeros": sum(int((p == 0).sum()) for p in weights),
            "macs": macs_or_why_not(copy.deepcopy(denoiser).to("meta"), call).get("total"),
        }

    def difference_of_null_tokens(self, denoiser: torch.nn.Module) -> float:
        """Relative latent error between one weighted null token and all of them, on a few
        prompts."""
        latents, few = [], self.sets[self.prompt_set][:8]
        for genuine in (False, True):
            with self.drawing_with(denoiser, genuine=genuine) as extra:
                latents.append(
                    draw(self.pipe, few, list(range(len(few))), self.settings | extra, BATCH)[1]
                )
        return relative_latent_error(*latents)["value"]
