"""Encode the text of all prompts before the denoiser runs.

With offloading each text encoder then moves to the device once, and leaves it before the denoiser
comes, instead of changing places with it in every batch.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch

from .call import Prompt, arguments_of
from .denoisers import DENOISERS
from .errors_below import one_line_errors
from .placement import models_of
from .refusals import refused
from .run import Run, hooked


class DenoiserReached(Exception):
    """The pipeline has encoded its text, and calls its denoiser."""


def encode_first(
    run: Run, batches: Iterable[tuple[list[Prompt], list[int]]], settings: dict[str, Any]
) -> None:
    """Call the pipeline for every batch up to its denoiser, so that `run` remembers the text.

    Args:
        run: a prepared pipeline.
        batches: prompts and seeds of each batch.
        settings: arguments of the pipeline's call.

    Raises:
        UserError: the pipeline refuses its arguments.
    """

    def stop(*_: Any) -> None:
        raise DenoiserReached

    parts = [part for name, part in models_of(run.pipe).items() if name in DENOISERS]
    with hooked(part.register_forward_pre_hook(stop) for part in parts):
        for prompts, seeds in batches:
            with (
                contextlib.suppress(DenoiserReached),
                one_line_errors(run.pipe, DenoiserReached),
                refused(run.pipe),
                torch.no_grad(),
            ):
                source = run.noise_source(prompts, seeds)
                run.pipe(**settings | arguments_of(prompts), generator=source)
            if not run.memory:
                return  # this pipeline has no text to remember
