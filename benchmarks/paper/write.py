"""docs/results.md from the measured rows: a section per table, both models, and the findings
(findings.md).

In each line of a table the best value is bold, and ~ marks values not distinguishable from it: the
95 % interval of the difference over prompts contains 0. plots.py draws the plots.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from obsdiff.pipelines.builtin import BUILTINS

from ..conditions import model_version
from ..tables.markdown import caption
from .bits_texts import bits_table
from .depth_texts import depth_table
from .grids import by_share, gone, lines_of
from .learned_masks import NAME as ECODIFF
from .learned_masks import REPAIRED
from .low_rank_texts import low_rank_table
from .modulation_texts import modulation_table
from .plots import draw_plots
from .portable_texts import portable_table
from .preset_texts import presets_table
from .prompt_errors import Kept
from .rows import file_of
from .small_texts import small_table
from .table_texts import (
    calibration_table,
    off_table,
    packages_table,
    robustness_table,
    seconds_table,
    weighting_table,
)
from .tables import METHODS, MODELS_OF, SHARES, SPARSITIES, STRUCTURED, TABLES
from .text_encoders_texts import text_encoders_table

DOCS = Path(__file__).parents[2] / "docs"
FINDINGS = Path(__file__).with_name("findings.md")


def write() -> None:
    found = {
        table: {model: kept for model in BUILTINS if (kept := read(model, table))}
        for table in TABLES
    }
    findings = sections(FINDINGS.read_text(encoding="utf-8"))
    parts = [findings.get("introduction", "").strip(), missing(found)]
    for table, kept in found.items():
        if kept:
            parts += [f"## {TITLES[table]}", findings.get(table, "").strip()]
            plot = draw_plots(table, kept, DOCS / "results")
            parts += [f"![{TITLES[table]}](results/{plot.name})"] if plot else []
            parts += [
                f"**{model}, version {one['model_version']}**\n\n{WRITERS[table](one['rows'])}"
                for model, one in kept.items()
            ]
    parts.append(conditions(found))
    text = (
        "# The paper's tables on the built-in models\n\n"
        + "\n\n".join(part for part in parts if part)
        + "\n"
    )
    (DOCS / "results.md").write_text(text, encoding="utf-8")
    print(DOCS / "results.md")


def missing(found: dict[str, dict[str, Kept]]) -> str:
    """The tables that have not been measured on the models as they are."""
    names = [
        f"{TITLES[table][0].lower()}{TITLES[table][1:]} ({', '.join(lacking)})"
        for table, kept in found.items()
        if (lacking := [model for model in MODELS_OF.get(table, BUILTINS) if model not in kept])
    ]
    if not names:
        return ""
    return caption(f"Not measured on these versions of the models yet: {'; '.join(names)}.")


def read(model: str, table: str) -> Kept | None:
    """The rows of a table that has all of them."""
    file = file_of(model_version(model), model, table)
    if not file.exists():
        return None
    kept: Kept = json.loads(file.read_text())
    return kept if kept.get("finished") else None


def sections(text: str) -> dict[str, str]:
    """{"unstructured": its text} of a file with headings."""
    parts = re.split(r"^# (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def conditions(found: dict[str, dict[str, Kept]]) -> str:
    """Settings and versions, of every file."""
    some = next((one for kept in found.values() for one in kept.values()), None)
    if not some:
        return ""
    models = {model: one for kept in found.values() for model, one in kept.items()}
    texts = [
        f"{model}, version {one['model_version']}: "
        + ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        for model, one in models.items()
    ]
    prompts = some["prompts"]
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    text = (
        f"{prompts['evaluation']} evaluation prompts, which no decision ever saw, and "
        f"{prompts['held_out']} of held-out names. {'; '.join(texts)}. "
        f"{versions}; CPU, {some['machine']}."
    )
    return "## Conditions\n\n" + caption(text)


def structured_methods(rows: dict[str, Kept]) -> tuple[str, ...]:
    """The methods of the table of structured pruning; EcoDiff once it is measured."""
    learned = [
        way for way in (ECODIFF, REPAIRED) if any(name.startswith(f"{way} ") for name in rows)
    ]
    return ("off", *STRUCTURED, *learned)


TITLES = {
    "off": "Whole attentions and FFNs switched off (ours)",
    "unstructured": "Single weights (the paper's Table 1 and Figure 4)",
    "semistructured": "2:4 (Table 2)",
    "structured": "Heads and FFN neurons (Tables 3, 4, 9)",
    "prompts": "Number of calibration prompts (Figure 3)",
    "weighting": "Weights of the denoising steps (Table 6)",
    "robustness": "Guidance, steps and samplers (Tables 11 to 13)",
    "packages": "Number of packages (Table 7)",
    "calibration": "Where the Hessians come from (ours)",
    "presets": "Presets: paper, best, fast (ours)",
    "low_rank": "Sparse plus low rank (ours)",
    "bits": "Low bits (ours)",
    "portable": "Portable: FFN neurons alone (ours)",
    "depth": "Fewer blocks (ours)",
    "modulation": "Folded modulation (ours)",
    "small": "Small: pruned, folded and in 8 bits (ours)",
    "text_encoders": "Text encoders (ours)",
    "seconds": "Time to prune (Table 8)",
}
WRITERS: dict[str, Callable[[dict[str, Kept]], str]] = {
    "off": off_table,
    "unstructured": lambda rows: by_share(
        rows, SPARSITIES, ("off", *METHODS), lambda s: f"{s:.0%}"
    ),
    "semistructured": lambda rows: by_share(rows, ("2:4", "4:8"), METHODS, str),
    "structured": lambda rows: by_share(
        rows, SHARES, structured_methods(rows), lambda s: f"{s:.0%}", gone
    ),
    "prompts": lambda rows: lines_of(rows, "prompts"),
    "weighting": weighting_table,
    "robustness": robustness_table,
    # without seconds: the table of seconds is measured on an idle machine
    "packages": packages_table,
    "calibration": calibration_table,
    "presets": presets_table,
    "low_rank": low_rank_table,
    "bits": bits_table,
    "portable": portable_table,
    "depth": depth_table,
    "modulation": modulation_table,
    "small": small_table,
    "text_encoders": text_encoders_table,
    "seconds": seconds_table,
}
