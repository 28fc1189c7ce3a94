"""Paths of the metric models, checked before anything is drawn. Imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pipelines.builtin import EMOJI_CLIP, builtin_info, find_models
from ...pipelines.headers import read_component, read_header
from ...pipelines.own_code import require_own_code_files
from ...pipelines.weight_files import TRANSFORMERS
from ...runtime.json_files import read_json
from ...runtime.regular_files import require_regular_inside
from ..picture_files import SUFFIXES
from .download import (
    BERT,
    MED_CONFIG,
    OF_HUB,
    cached_folder,
    download_judge,
    download_published,
    is_hub_id,
    reward_tokenizer,
)
from .dpg.questions import KINDS, read_items
from .geneval.files import OF_BOXES, OF_MASKS, require_tasks
from .hpsv3.files import find_hpsv3

INCEPTION = "inception"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Judges:
    """Paths of the metric models; None: not given."""

    clip: Path | None = None  # folder of the CLIP of CLIP score
    features: Path | None = None  # CLIP folder, or Inception file; None: Inception in torch's cache
    real: Path | None = None  # folder of real pictures, or file of their features
    lpips: Path | None = None  # file with AlexNet's weights; None: torch's cache
    pickscore: Path | None = None  # folder of PickScore's CLIP
    image_reward: Path | None = None  # folder of ImageReward
    hpsv3: Path | None = None  # folder of HPSv3
    geneval: Path | None = None  # folder of GenEval's detector
    dpg: Path | None = None  # folder of the model that answers DPG-Bench's questions
    tasks: Path | None = None  # the prompts of GenEval or DPG-Bench, with what they ask for

    def record(self) -> dict[str, str]:
        """Return the given models for results.json; files of obsdiff-emoji relative to it."""
        given = {name: getattr(self, name) for name in JUDGES}
        return {name: recorded(path) for name, path in given.items() if path is not None}


JUDGES = tuple(field.name for field in fields(Judges) if field.name != "tasks")  # have a flag each


def recorded(path: Path) -> str:
    """Return a model's path as results.json has it: owner/name@commit for one of the hub."""
    shipped = find_models()
    if shipped and path.is_relative_to(shipped):
        return str(path.relative_to(shipped))
    of_hub = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/(\w+)$", path.as_posix())
    return f"{of_hub[1]}/{of_hub[2]}@{of_hub[3]}" if of_hub else str(path)


def find_judges(
    given: Mapping[str, str | Path | None],
    dense: Path,
    download: bool = False,
    prompts: Path | None = None,
) -> Judges:
    """Return the judges of the command line's flags.

    Args:
        given: value of each flag, by field of Judges; None for a flag that was not passed.
        dense: folder of the dense pipeline; for a built-in one, emoji-clip is the default judge.
        download: whether missing models are fetched: hub ids, and the networks of LPIPS and FID.
        prompts: the file of the prompts, which GenEval reads, or the folder of
            DPG-Bench's; None for default prompts.

    Raises:
        UserError: a path does not contain the model of its flag, or a model can't be fetched.
        RunFailed: a download broke off.
    """
    known: dict[str, Any] = {name: str(value) for name, value in given.items() if value is not None}
    if builtin_info(dense):
        judge = dense.parent / EMOJI_CLIP
        known = {"clip": str(judge), "features": str(judge)} | known
        if Path(known["features"]).absolute() == judge:
            known.setdefault("real", str(judge / "real.safetensors"))
    if known.get("features") == INCEPTION:
        del known["features"]
    missing = [name for name in OF_HUB if download and is_hub_id(known.get(name, ""))]
    found = {name: FINDERS[name](known[name]) for name in known if name not in missing}
    for name in missing:  # after the check of those that are here
        found[name] = FINDERS[name](str(download_judge(name, known[name])))
    judges = Judges(**found)
    if judges.geneval is not None:
        require_tasks(judges.geneval, prompts, judges.clip is not None)
    if judges.dpg is not None:
        read_items(prompts)
    if judges.geneval or judges.dpg:
        judges = replace(judges, tasks=prompts)
    if download:
        for name in published_judges(judges):
            download_published(name)
    return judges


def published_judges(judges: Judges) -> list[str]:
    """Return the metric models that are read from torch's cache, by field of Judges."""
    inception = judges.features is None and judges.real is not None
    return ["lpips"] * (judges.lpips is None) + ["features"] * inception


def find_clip(flag: str, value: str, kinds: tuple[str, ...] = ("clip",)) -> Path:
    """Return the folder of a CLIP with safetensors weights, and a tokenizer unless vision only.

    Args:
        flag: name for error messages.
        value: a folder, or the id of a model in the hub's cache.
        kinds: accepted values of model_type.

    Raises:
        UserError: the folder does not contain such a model.
    """
    folder = find_transformer(flag, value, "a CLIP model", kinds)
    if kinds == ("clip",) and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):
        raise UserError(
            f"{flag}: expected tokenizer.json or vocab.json in {folder}, found no tokenizer"
        )
    return folder


def find_transformer(flag: str, value: str, what: str, kinds: tuple[str, ...]) -> Path:
    """Return the folder of a model of transformers with safetensors weights and no own code.

    Args:
        flag: name for error messages.
        value: a folder, or the id of a model in the hub's cache.
        what: the model in words.
        kinds: accepted values of model_type.

    Raises:
        UserError: the folder does not contain such a model.
    """
    folder = find_folder(flag, value)
    require_regular_inside(folder)
    require_own_code_files([folder])
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise UserError(
            f"{flag}: expected {what} (model_type {' or '.join(kinds)}), found {kind!r} in "
            f"{folder / 'config.json'}"
        )
    read_component(folder, TRANSFORMERS)
    return folder


def find_detector(value: str) -> Path:
    """Return the folder of a detector that says how pictures are read."""
    kinds = (*OF_MASKS, *OF_BOXES)
    return with_preprocessing(
        "geneval", find_transformer("geneval", value, "a detector of objects", kinds)
    )


def find_answers(value: str) -> Path:
    """Return the folder of a model that answers questions about pictures, with its processor."""
    return with_preprocessing(
        "dpg", find_transformer("dpg", value, "a model that answers questions", KINDS)
    )


def with_preprocessing(flag: str, folder: Path) -> Path:
    """Return the folder of a model; UserError if it doesn't say how pictures are read."""
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        raise UserError(f"{flag}: expected {' or '.join(names)} in {folder}, found neither")
    return folder


def find_folder(flag: str, value: str) -> Path:
    """Return a folder, or that of a hub id in the hub's cache; UserError if there is none."""
    if Path(value).is_dir():
        return Path(value)
    if not is_hub_id(value):
        raise UserError(f"{flag}: expected the folder of a model or a hub id, found {value!r}")
    folder = cached_folder(value)
    if folder is None:
        raise UserError(
            f"{flag}: expected a folder or a model in the hub's cache, found neither for "
            f"{value!r}; pass --download, or fetch it with: hf download {value}"
        )
    return folder


def find_weights(flag: str, value: str) -> Path:
    """Return the path of a file of weights; UserError for another file."""
    file = Path(value)
    if not file.is_file() or file.suffix not in WEIGHT_SUFFIXES:
        raise UserError(
            f"{flag}: expected a file of weights ({', '.join(WEIGHT_SUFFIXES)}), found {value!r}"
        )
    if file.suffix == ".safetensors":
        read_header(file)
    return file


def find_features(value: str) -> Path:
    """Return the path of an extractor: Inception's weights, or the folder of a CLIP."""
    if Path(value).is_file():
        return find_weights("features", value)
    return find_clip("features", value, ("clip", "clip_vision_model"))


def find_real(value: str) -> Path:
    """Return a folder of pictures, or a safetensors file with the tensor "features" (M, F)."""
    path = Path(value)
    if path.is_dir():
        if not picture_files(path):
            raise UserError(
                f"real: expected pictures ({', '.join(SUFFIXES)}), found no pictures in {path}"
            )
        return path
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            "real: expected a folder of pictures, or a .safetensors file of their features, "
            f"found {value!r}"
        )
    features: Any = read_header(path).get("features", {})
    shape = features.get("shape")
    if not shape or len(shape) != 2:
        found = f"shape {shape}" if shape else "none"
        raise UserError(
            f'real: {path}: expected a tensor "features" (pictures, numbers), found {found}'
        )
    return path


def picture_files(folder: Path) -> list[Path]:
    """Return all pictures below a folder, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def find_image_reward(value: str) -> Path:
    """Return the folder of ImageReward: its weights, med_config.json and a BERT tokenizer."""
    folder = find_folder("image-reward", value)
    require_regular_inside(folder)
    require_own_code_files([folder])
    if not reward_weights(folder):
        raise UserError(
            f"image-reward: expected ImageReward.safetensors or ImageReward.pt in {folder}, found "
            "no weights"
        )
    read_json(folder / MED_CONFIG)
    if reward_tokenizer(folder) is None:
        raise UserError(
            f"image-reward: expected BERT's tokenizer.json or vocab.txt in {folder}, or {BERT} in "
            f"the hub's cache, found no tokenizer; fetch it with: hf download {BERT}"
        )
    return folder


def reward_weights(folder: Path) -> Path | None:
    """Return the file with ImageReward's weights in a folder; None if there is none."""
    files = (folder / f"ImageReward{suffix}" for suffix in WEIGHT_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


FINDERS = {
    "clip": lambda value: find_clip("clip", value),
    "features": find_features,
    "real": find_real,
    "lpips": lambda value: find_weights("lpips", value),
    "pickscore": lambda value: find_clip("pickscore", value),
    "image_reward": find_image_reward,
    "hpsv3": find_hpsv3,
    "geneval": find_detector,
    "dpg": find_answers,
}
