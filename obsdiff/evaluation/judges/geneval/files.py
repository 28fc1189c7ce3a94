"""The detector and the tasks of GenEval, checked before anything is drawn. Imports no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....runtime.extras import require_extra
from ....runtime.json_files import read_json
from .tasks import FILE, Task, missing_classes, read_tasks

OF_MASKS = ("mask2former", "maskformer")  # model_type of models of queries
OF_BOXES = (
    *("detr", "conditional_detr", "deformable_detr", "dab-detr", "rt_detr", "rt_detr_v2"),
    *("d_fine", "lw_detr", "rf_detr", "yolos"),
)
# those whose config may name a network of timm instead of having its config
OF_TIMM = ("detr", "conditional_detr", "deformable_detr", "dab-detr", "maskformer")
NAMES_SHOWN = 3


def require_tasks(detector: Path, prompts: Path | None, has_clip: bool) -> list[Task]:
    """Return the tasks of a file that a detector, and a CLIP for colours, can judge.

    Args:
        detector: its folder.
        prompts: the file of --prompts; None for default prompts.
        has_clip: whether there is a CLIP.

    Raises:
        UserError: the file has no tasks, or the models can't judge them.
    """
    if prompts is None:
        raise UserError(
            f"geneval: expected GenEval's {FILE} as prompts, found none; pass --prompts"
        )
    tasks = read_tasks(prompts)
    config = read_json(detector / "config.json")
    require_backbone(detector, config)
    if config["model_type"] in OF_MASKS:
        require_extra("geneval", "geneval")  # transformers builds the loss with every such model
    labels: Any = config.get("id2label")
    if not isinstance(labels, dict):
        raise UserError(
            f"geneval: {detector / 'config.json'}: expected the names of the classes in id2label, "
            f"found {'none' if labels is None else type(labels).__name__}"
        )
    if missing := missing_classes(tasks, labels):
        names = ", ".join(missing[:NAMES_SHOWN])
        raise UserError(
            f"geneval: expected a detector of COCO's classes, found none of {len(missing)} classes "
            f"of {prompts} in {detector / 'config.json'}: {names}"
        )
    if not has_clip and any(task.has_colours for task in tasks):
        raise UserError(
            f"geneval: expected a CLIP, which tells the colours that {prompts} asks for, found "
            "none; pass --clip openai/clip-vit-large-patch14"
        )
    return tasks


def require_backbone(detector: Path, config: dict[str, Any]) -> None:
    """Check that a detector's config describes its backbone.

    Args:
        detector: its folder, for messages.
        config: its config.json.

    Raises:
        UserError: it names a backbone about which transformers would ask the hub, or one of timm,
            which is not installed.
    """
    backbone = config.get("backbone")
    if not backbone or config.get("backbone_config"):
        return
    named = f"geneval: {detector / 'config.json'}"
    if (
        config["model_type"] not in OF_TIMM
        or not config.get("use_timm_backbone", True)
        or config.get("backbone_kwargs")
    ):
        raise UserError(
            f"{named}: expected the backbone's config in backbone_config, found its name alone, "
            f"{backbone!r}; save the model again with transformers 5"
        )
    if find_spec("timm") is None:
        raise UserError(
            f"{named}: its backbone {backbone!r} is one of timm, not installed here; "
            "pip install timm, or choose a detector without it"
        )
