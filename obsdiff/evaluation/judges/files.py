"""Which metric models were given, found and checked without torch: a wrong path is one line before anything is drawn."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pipelines.builtin import EMOJI_CLIP, builtin_info, find_models
from ...pipelines.headers import read_component, read_header
from ...runtime.json_files import read_json

INCEPTION = "inception"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Judges:
    """Paths of what was given. `features` None: Inception, and a file: Inception's weights. None elsewhere: not given."""

    clip: Path | None = None
    features: Path | None = None
    real: Path | None = None
    lpips: Path | None = None
    pickscore: Path | None = None
    image_reward: Path | None = None

    def record(self) -> dict[str, str]:
        """What was given, for results.json; what ships in obsdiff-emoji by its name alone."""
        shipped = find_models()
        given = {name: path for name, path in vars(self).items() if path is not None}
        return {
            name: str(
                path.relative_to(shipped) if shipped and path.is_relative_to(shipped) else path
            )
            for name, path in given.items()
        }


def find_judges(given: dict[str, str | None], dense: Path) -> Judges:
    """The judges of the command line's flags. For a built-in pipeline, emoji-clip judges unless another is given. UserError for a path
    that holds no such model."""
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if builtin_info(dense):
        judge = dense.parent / EMOJI_CLIP
        known = {"clip": str(judge), "features": str(judge)} | known
        if Path(known["features"]).absolute() == judge:
            known.setdefault("real", str(judge / "real.safetensors"))
    if known.get("features") == INCEPTION:
        del known["features"]
    return Judges(**{name: FINDERS[name](value) for name, value in known.items()})


def find_clip(flag: str, value: str, kinds: tuple[str, ...] = ("clip",)) -> Path:
    """A folder, or a hub id in the cache, that holds a CLIP with safetensors weights; with text, a tokenizer too."""
    folder = find_folder(flag, value)
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise UserError(
            f"{flag}: expected a CLIP model (model_type {' or '.join(kinds)}), found {kind!r} in {folder / 'config.json'}"
        )
    read_component(folder)
    if kinds == ("clip",) and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):
        raise UserError(f"{flag}: {folder} has no tokenizer: expected tokenizer.json or vocab.json")
    return folder


def find_folder(flag: str, value: str) -> Path:
    if Path(value).is_dir():
        return Path(value)
    if Path(value).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", value):
        raise UserError(f"{flag}: expected the folder of a model, or a hub id, found {value!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(value, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise UserError(
            f"{flag}: there is no folder {value!r}, and it is not in the hub's cache; fetch it with: hf download {value}"
        ) from None


def find_weights(flag: str, value: str) -> Path:
    file = Path(value)
    if not file.is_file() or file.suffix not in WEIGHT_SUFFIXES:
        raise UserError(
            f"{flag}: expected a file of weights ({', '.join(WEIGHT_SUFFIXES)}), found {value!r}"
        )
    if file.suffix == ".safetensors":
        read_header(file)
    return file


def find_features(value: str) -> Path:
    if Path(value).is_file():
        return find_weights("features", value)
    return find_clip("features", value, ("clip", "clip_vision_model"))


def find_real(value: str) -> Path:
    """A folder of pictures, or a safetensors file with the tensor "features" (M, F)."""
    path = Path(value)
    if path.is_dir():
        if not picture_files(path):
            raise UserError(f"real: {path} has no pictures ({', '.join(PICTURES)})")
        return path
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"real: expected a folder of pictures, or a .safetensors file of their features, found {value!r}"
        )
    shape = read_header(path).get("features", {}).get("shape")
    if not shape or len(shape) != 2:
        raise UserError(
            f'real: {path}: expected a tensor "features" (pictures, numbers), found {"shape " + str(shape) if shape else "none"}'
        )
    return path


def picture_files(folder: Path) -> list[Path]:
    """All pictures below a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def find_image_reward(value: str) -> Path:
    """The folder of ImageReward: its weights, med_config.json and a BERT tokenizer."""
    folder = find_folder("image-reward", value)
    if not reward_weights(folder):
        raise UserError(
            f"image-reward: {folder} has no weights: expected ImageReward.safetensors or ImageReward.pt"
        )
    read_json(folder / "med_config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(
            f"image-reward: {folder} has no tokenizer: expected BERT's tokenizer.json or vocab.txt (bert-base-uncased)"
        )
    return folder


def reward_weights(folder: Path) -> Path | None:
    return next(
        (
            folder / f"ImageReward{suffix}"
            for suffix in WEIGHT_SUFFIXES
            if (folder / f"ImageReward{suffix}").is_file()
        ),
        None,
    )


FINDERS = {
    "clip": lambda value: find_clip("clip", value),
    "features": find_features,
    "real": find_real,
    "lpips": lambda value: find_weights("lpips", value),
    "pickscore": lambda value: find_clip("pickscore", value),
    "image_reward": find_image_reward,
}
