"""The arguments of every command."""

import argparse
import dataclasses
import typing
from pathlib import Path

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..config.fields import RESOURCES
from ..pipelines.builtin import BUILTINS
from .flags import add_settings, flag_of, flag_options
from .parsing import decimal_number, whole_number

MODEL_HELP = (
    "pipeline folder, hub id, single-file checkpoint (.safetensors, with --config), "
    f"or built-in: {', '.join(BUILTINS)}"
)
CONFIG_HELP = (
    "pipeline folder with the configs of a single-file checkpoint, which describe how to read the "
    "file; no setting of the pruning"
)
VARIANT_HELP = (
    "use, and from the hub download, the files of this variant, such as fp16, where a component "
    "has them (default: plain files where there are any)"
)
RESUME_HELP = "continue a run that was killed; the result is the same"
OVERWRITE_HELP = "replace an output folder that obsdiff wrote; any other folder is refused"
OUTPUT_HELP = "folder to write; it appears complete or not at all"


def add_prune(p: argparse.ArgumentParser) -> None:
    """Add the arguments of prune."""
    add_model(p)
    groups = add_settings(p, several=True)
    groups[RESOURCES].add_argument(
        "--timeout-minutes",
        type=decimal_number,
        default=30.0,
        metavar="MINUTES",
        help="longest time that one of several processes (torchrun) waits for the others "
        "(default: %(default)g)",
    )
    group = add_output(p, "DIR")
    group.add_argument("--json", action="store_true", help="print the record on stdout")
    add_display(group)


def add_inspect(p: argparse.ArgumentParser) -> None:
    """Add the arguments of inspect."""
    add_model(p)
    add_settings(p)
    group = p.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the plan as JSON")
    group.add_argument(
        "--paper-count",
        action="store_true",
        help='with --pattern structured: also count parameters and "TFLOPs" as the OBS-Diff paper '
        "does",
    )
    group.add_argument(
        "--vram",
        metavar="GIB",
        type=decimal_number,
        help="plan for a GPU with this much free memory (default: the GPU that is here, if any)",
    )


def add_model(p: argparse.ArgumentParser) -> None:
    """Add MODEL, and how it is read."""
    group = p.add_argument_group("model")
    model = group.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    model.required = False  # it may follow the values of a flag: see place_model
    add_loading(group)


def add_loading(group: "argparse._ArgumentGroup") -> None:
    """Add how MODEL is read: the configs of a single file, the variant of a folder."""
    group.add_argument("--config", metavar="FOLDER", type=Path, help=CONFIG_HELP)
    group.add_argument("--variant", metavar="NAME", help=VARIANT_HELP)


def add_output(p: argparse.ArgumentParser, metavar: str) -> "argparse._ArgumentGroup":
    """Add --output, --resume and --overwrite, and return their group."""
    group = p.add_argument_group("output")
    group.add_argument("--output", required=True, metavar=metavar, type=Path, help=OUTPUT_HELP)
    group.add_argument("--resume", action="store_true", help=RESUME_HELP)
    group.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return group


def add_display(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """Add what is shown of a run."""
    group.add_argument(
        "--quiet", action="store_true", help="no progress and no remarks; errors and results only"
    )
    group.add_argument(
        "--log-file",
        metavar="FILE",
        type=Path,
        help="append progress and remarks, each with its time, to a file",
    )


def add_evaluate(p: argparse.ArgumentParser) -> None:
    """Add the arguments of evaluate."""
    group = p.add_argument_group("pipelines")
    group.add_argument("runs", metavar="DIR", nargs="+", type=Path, help="pruned pipelines")
    group.add_argument(
        "--against", required=True, metavar="MODEL", help=f"the dense pipeline: {MODEL_HELP}"
    )
    add_loading(group)
    group.add_argument(
        "--component",
        metavar="NAME",
        help="pipeline component that was pruned "
        "(default: the one in the records of the pruned folders, else as for prune)",
    )
    add_pictures(p)
    add_judges(p)
    group = add_output(p, "RUN")
    group.add_argument(
        "--update-card",
        action="store_true",
        help="write the figures and a strip of pictures into the card of each DIR",
    )
    group.add_argument("--json", action="store_true", help="print results.json on stdout")
    add_display(group)


def add_pictures(p: argparse.ArgumentParser) -> None:
    """Add the arguments of evaluate's pipeline calls; PruningConfig describes the call settings."""
    group = p.add_argument_group("pictures")
    group.add_argument(
        "--prompts",
        metavar="FILE|FOLDER",
        type=Path,
        help="prompts, UTF-8: one a line, or the captions of .json, .jsonl, .csv or .tsv, or a "
        "folder of .txt files, one prompt each; for GenEval and DPG-Bench those that they publish "
        "(default: a built-in's evaluation prompts, else general captions of obsdiff)",
    )
    numbers = {
        "num_prompts": (None, "number of prompts, the first ones (default: 64; --quick: 8)"),
        "seed": (
            1_000_000,
            "prompt i starts from seed + i, far from those of the calibration "
            "(default: %(default)s)",
        ),
        "batch_size": (4, "prompts per pipeline call (default: %(default)s)"),
        "rounds": (
            None,
            "timed pictures, dense and pruned in turn; 0 measures no time (default: 5; --quick: 0)",
        ),
    }
    for name, (default, text) in numbers.items():
        group.add_argument(
            flag_of(name),
            type=whole_number,
            default=default,
            metavar="SEED" if name == "seed" else "N",
            help=text,
        )
    group.add_argument(
        "--quick",
        action="store_true",
        help="a first look: few prompts, no time is measured; its intervals are wide",
    )
    kinds = typing.get_type_hints(PruningConfig)
    for field in dataclasses.fields(PruningConfig):
        if field.name in CALL_SETTINGS:
            group.add_argument(flag_of(field.name), **flag_options(field, kinds[field.name]))


def add_judges(p: argparse.ArgumentParser) -> None:
    """Add the metric models: files, or hub ids, in the hub's cache or to be fetched."""
    group = p.add_argument_group(
        "metric models",
        "Paths, or hub ids; without --download they have to be in the hub's cache.\n"
        "A metric without its model is reported as not run, with the flags that make it run.",
    )
    for flag, metavar, text in (
        ("--clip", "PATH", "CLIPModel folder for CLIP score (default for a built-in: emoji-clip)"),
        (
            "--features",
            "inception|PATH",
            "extractor for FID and KID: inception (weights in torch's cache), a file of its "
            "weights, or a CLIP folder (default: inception; for a built-in emoji-clip)",
        ),
        (
            "--real",
            "FOLDER|FILE",
            "real pictures for FID and KID, or their saved features as .safetensors "
            "(default for a built-in: those that ship with it)",
        ),
        (
            "--lpips",
            "FILE",
            "weights of AlexNet for LPIPS (default: torchvision's file in torch's cache)",
        ),
        ("--pickscore", "PATH", "PickScore folder (a CLIPModel)"),
        (
            "--image-reward",
            "PATH",
            "ImageReward: its weights and med_config.json; BERT's tokenizer, there or in the cache",
        ),
        (
            "--hpsv3",
            "FOLDER",
            "HPSv3: HPSv3.safetensors, config and tokenizer of Qwen2-VL-7B-Instruct, and the "
            "published file with its instruction; not fetched by --download",
        ),
        (
            "--geneval",
            "PATH",
            "detector of COCO's objects for GenEval, of boxes or masks (Mask2Former, DETR, YOLOS "
            "...); prompts: its evaluation_metadata.jsonl; the CLIP of --clip tells colours",
        ),
        (
            "--dpg",
            "PATH",
            "model that answers questions about pictures for DPG-Bench (BLIP, ViLT); prompts: its "
            "folder of .txt files, with dpg_bench.csv in it or beside it",
        ),
    ):
        group.add_argument(flag, metavar=metavar, help=text)
    group.add_argument(
        "--download",
        action="store_true",
        help="fetch what is missing: metric models that are given by their hub ids, AlexNet for "
        "LPIPS, and with --real Inception for FID and KID",
    )


def add_report(p: argparse.ArgumentParser) -> None:
    """Add the arguments of report."""
    p.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders with a results.json")
    p.add_argument(
        "--output", required=True, metavar="PAGE.html", type=Path, help="HTML file to write"
    )
    p.add_argument(
        "--strip",
        metavar="STRIP.png",
        type=Path,
        help="also write the first pictures of all runs as one PNG, to share",
    )
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a page or strip that obsdiff wrote; any other file is refused",
    )


def add_verify(p: argparse.ArgumentParser) -> None:
    """Add the arguments of verify."""
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff prune wrote")


def add_export(p: argparse.ArgumentParser) -> None:
    """Add the arguments of export."""
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff prune wrote")
    p.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="padded: a folder of dense shapes, with zeros; single-file: one .safetensors file "
        "under the names of the model's authors; gguf: the denoiser alone as one GGUF file; "
        "comfyui: the denoiser with removed heads and neurons, for obsdiff's node in ComfyUI; "
        "with-code: a copy with a file of code that diffusers runs if it is trusted; "
        "nunchaku-lite: a result of 4 bits for CUDA kernels, two codes in a byte",
    )
    p.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        type=Path,
        help="folder or file to write; it appears complete or not at all",
    )
    p.add_argument(
        "--component",
        metavar="NAME",
        help="single-file: the denoiser alone, transformer or unet (default: the whole model); "
        "gguf, comfyui: which denoiser, where there are two",
    )
    p.add_argument(
        "--pad",
        action="store_true",
        help="single-file, gguf: put zeros where heads, neurons or channels were removed",
    )
    p.add_argument(
        "--type",
        metavar="TYPE",
        help="gguf: type of the matrices, f16, bf16 or q8_0 (default: bf16 where they are stored "
        "so, else f16)",
    )


def add_lora(p: argparse.ArgumentParser) -> None:
    """Add the arguments of lora."""
    p.add_argument("file", metavar="FILE", type=Path, help="LoRA made for the dense model")
    p.add_argument(
        "--for",
        dest="folder",
        required=True,
        metavar="DIR",
        type=Path,
        help="folder that obsdiff prune wrote",
    )
    p.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        type=Path,
        help="file to write; it appears complete or not at all",
    )


def add_demo(p: argparse.ArgumentParser) -> None:
    """Add the arguments of demo."""
    p.add_argument(
        "--output",
        default=Path("obsdiff-demo"),
        metavar="DIR",
        type=Path,
        help="folder to write (default: %(default)s)",
    )
    p.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add_display(p)
