"""The model card as it goes to the hub: the folder's own, with what the hub's page needs.

What the owner wrote into the header of the folder's card stays. The relation to the dense model is
"finetune": the hub knows adapter, finetune, merge and quantized, and the others would be wrong.
Nothing is an addition to the dense model, several models were not put together, and no weight has
fewer bits.
"""

from collections.abc import Collection
from importlib import import_module
from typing import Any

from ..errors import UserError
from ..pipelines.model_card import with_evaluation
from ..pipelines.published import PLACE
from .dense_card import DenseCard

RELATION = "finetune"
TASKS = (  # of the hub -> the tables of diffusers that name its pipelines
    ("text-to-image", "TEXT2IMAGE"),
    ("image-to-image", "IMAGE2IMAGE"),
    ("image-to-image", "INPAINT"),
    ("text-to-video", "TEXT2VIDEO"),
    ("image-to-video", "IMAGE2VIDEO"),
    ("video-to-video", "VIDEO2VIDEO"),
)
ORDER = (
    *("library_name", "tags", "base_model", "base_model_relation", "pipeline_tag"),
    *("license", "license_name", "license_link"),
)


def hub_header(own: dict[str, Any], dense: DenseCard | None, pipeline: str) -> dict[str, Any]:
    """Return the header of the card.

    Args:
        own: the header of the folder's card; its values stay.
        dense: the dense model; None if it is not known.
        pipeline: name of the pipeline's class.

    Raises:
        UserError: no licence is known.
    """
    found: dict[str, Any] = {}
    if dense and dense.hub_id:
        found = {"base_model": [dense.hub_id], "base_model_relation": RELATION}
    if tag := task_of(pipeline):
        found["pipeline_tag"] = tag
    if dense:
        found |= dense.header
        found |= {"license_link": link} if (link := link_of(dense)) else {}
    if "license" in own:  # the owner's licence has the owner's name and link alone
        found = {key: value for key, value in found.items() if not key.startswith("license")}
    header = found | own
    if "license" not in header:
        raise UserError(
            "license: expected that of the dense model, found none "
            + (f"in the card of {dense.hub_id}" if dense else "since the dense model is not known")
            + "; write a line such as `license: mit` at the head of the folder's README.md"
            + ("" if dense else ", or pass --base-model OWNER/NAME")
        )
    return {key: header[key] for key in sorted(header, key=place_in_header)}


def place_in_header(key: str) -> int:
    """Return where a key stands in the header: those of the owner last."""
    return ORDER.index(key) if key in ORDER else len(ORDER)


def link_of(dense: DenseCard) -> str | None:
    """Return the link to a licence: a file that is copied, or an address; None without one."""
    link = dense.header.get("license_link")
    if not link or link in dense.files or "://" in link:
        return link
    return f"https://huggingface.co/{dense.hub_id}/blob/main/{link}"


def task_of(pipeline: str) -> str | None:
    """Return the hub's name for what a pipeline does; None if diffusers has it in no table."""
    from diffusers.pipelines import auto_pipeline

    for task, table in TASKS:
        classes = getattr(auto_pipeline, f"AUTO_{table}_PIPELINES_MAPPING", {}).values()
        if pipeline in {kind.__name__ for kind in classes}:
            return task
    return None


def hub_text(
    body: str, repository: str, dense: str | None, version: str, figures: Collection[str]
) -> str:
    """Return the card's text below the header: code that works as shown, command, figures.

    Args:
        body: the text of the folder's card.
        repository: owner and name, from where the pipeline is opened.
        dense: the dense model, a hub id or a built-in; None if it is not known.
        version: of obsdiff, which pruned.
        figures: the lines on an evaluation; may be empty.
    """
    parts = [body.strip("\n").replace(PLACE, repository)]
    if (heading := "## How it was made") not in body:
        parts.append("\n".join([heading, "", *how_it_was_made(dense, version)]))
    text = "\n\n".join(parts) + "\n"
    return with_evaluation(text, figures) if figures else text


def how_it_was_made(dense: str | None, version: str) -> list[str]:
    """Return the lines with the command that prunes the dense model in the same way."""
    return [
        "`obsdiff.json` of this repository has every setting and the calibration prompts. "
        "The same again:",
        "",
        "```",
        f"pip install obsdiff=={version}",
        f"obsdiff prune {dense or 'MODEL'} --from obsdiff.json --output pruned",
        "```",
    ]


def whole_card(header: dict[str, Any], text: str) -> str:
    """Return a card: its header as YAML, and its text."""
    yaml: Any = import_module("yaml")  # of huggingface_hub
    lines = yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{lines}\n---\n\n{text}"
