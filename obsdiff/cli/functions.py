"""Commands as functions of Python: load, inspect, evaluate, report_page.

Their arguments have the names of the flags, with underscores: num_prompts of --num-prompts. What is
not given has the default of the command line. Wrong input is a UserError (a ValueError) of one
line, in the words of Python.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import PruningConfig
from ..config.values import did_you_mean
from ..errors import UserError
from ..pipelines.single_file import open_model
from ..runtime.extras import require_extra
from ..runtime.strict_json import json_text
from .arguments import parse
from .commands import planned
from .evaluate import fill_amounts, run_evaluation
from .inspection_plan import InspectionPlan
from .python_words import in_python

Runs = str | Path | Sequence[str | Path]  # one folder, or several


@in_python
def load(
    model: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    variant: str | None = None,
) -> Any:
    """Open a pipeline as obsdiff does: every weight from its files, nothing unpickled.

    Args:
        model: a folder, dense or pruned, a hub id, a single file, or the name of a built-in.
        dtype: float32, bfloat16 or float16; None for the stored one, which a CPU computes in
            float32.
        device: a torch device; None for cuda if there is one, else the CPU.
        config: the folder of a single file's configs.
        variant: of the weight files, such as fp16.

    Returns:
        The diffusers pipeline.

    Raises:
        UserError: it can't be opened.
    """
    checked = PruningConfig(dtype=dtype, device=device)  # reads fp16 as float16, too
    folder = open_model(str(model), None if config is None else Path(config), variant=variant)
    from ..pipelines.load import load_pipeline

    return load_pipeline(folder, checked.dtype, checked.device)[0]


@in_python
def inspect(model: str | Path, **settings: Any) -> InspectionPlan:
    """Plan a pruning without running it; see `obsdiff inspect --help`.

    Args:
        model: as for `load`; a folder without weights is enough.
        settings: settings of PruningConfig, and prompts, vram, paper_count, config, variant.

    Returns:
        Layers, packages, memory and denoising steps; structured: parameters and MACs, too.

    Raises:
        UserError: a run would refuse the model or the settings.
    """
    return planned(with_given(["inspect", str(model)], settings))


@in_python
def evaluate(
    runs: Runs,
    against: str | Path,
    output: str | Path,
    *,
    prompts: str | Path | Sequence[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Draw the same prompts with the same seeds through all pipelines, and measure.

    `obsdiff evaluate --help` has all arguments.

    Args:
        runs: the folder of a pruned pipeline, or several.
        against: the dense pipeline, as for `load`.
        output: the folder to write: pictures and results.json.
        prompts: texts, or a file of them (default: a built-in's own, else general captions).
        settings: num_prompts, rounds (0: no timing), quick, seed, batch_size, num_inference_steps,
            guidance_scale, height, width, judges by path or hub id, download (of missing judges),
            resume, overwrite.

    Returns:
        The content of results.json.

    Raises:
        UserError: a pipeline, a prompt or a setting can't be used.
    """
    require_extra("eval", "evaluate")
    folders = [str(run) for run in several(runs)]
    words = ["evaluate", "--against", str(against), "--output", str(output), "--", *folders]
    with tempfile.TemporaryDirectory() as beside:
        given = settings | ({} if prompts is None else {"prompts": as_file(prompts, Path(beside))})
        args = with_given(words, given)
        fill_amounts(args)
        return run_evaluation(args)


@in_python
def report_page(
    runs: Runs, output: str | Path, *, overwrite: bool = False, strip: str | Path | None = None
) -> Path:
    """Write the page of some evaluations; see `obsdiff report --help`.

    Args:
        runs: the folder of an evaluation, or several.
        output: the HTML file to write.
        overwrite: whether it may replace another page, and the strip another strip, of obsdiff.
        strip: a PNG file for the first pictures of all runs; None for none.

    Returns:
        The file.

    Raises:
        UserError: a folder is no finished evaluation, or the file may not be written.
    """
    require_extra("report", "report")
    from ..evaluation.report.page import check_page, write_page
    from ..evaluation.report.strip import check_strip, write_strip

    page, folders = Path(output), [Path(run) for run in several(runs)]
    check_page(page, overwrite)
    if strip is not None:
        check_strip(Path(strip), overwrite)
        write_strip(folders, Path(strip), overwrite)
    write_page(folders, page, overwrite)
    return page


def several(runs: Runs) -> list[str | Path]:
    """Return one folder or several as a list."""
    return [runs] if isinstance(runs, str | Path) else list(runs)


def as_file(prompts: str | Path | Sequence[str], folder: Path) -> Path:
    """Return a file of prompts: the one given, or a new one with the given texts."""
    if isinstance(prompts, str | Path):
        return Path(prompts)
    file = folder / "prompts.json"
    file.write_text(json_text(list(prompts)), encoding="utf-8")
    return file


def with_given(words: list[str], given: Mapping[str, Any]) -> argparse.Namespace:
    """Return the arguments of a command, with values that were given in Python.

    Args:
        words: the command and what it requires.
        given: name -> value; None is as if it was not given.

    Raises:
        UserError: the command has no such argument.
    """
    args = parse(words)
    own = {action.dest for action in args.parser._actions}
    for name, value in given.items():
        if name not in own:
            raise UserError(f"{words[0]}: found no argument {name}{did_you_mean(name, own)}")
        if value is not None:
            setattr(args, name, Path(value) if name in PATHS and value else value)
    return args


PATHS = ("prompts", "config")  # the parser makes paths of them
