"""The pictures in docs/: loss curves, the sheet of 64 prompts, and the strip at the top of the
README.

python -m training.pictures --demo obsdiff-demo # after `python -m training.evaluate` and `obsdiff
demo --output obsdiff-demo`
"""

import argparse
import json
import shutil
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from .data import CACHE

DOCS = Path(__file__).parents[1] / "docs"
CURVES = {
    "vae": ("loss", "l1"),
    "clip": ("loss",),
    "judge": ("loss",),
    "mmdit": ("loss",),
    "mmdit-woken": ("loss",),
    "mmdit-long": ("loss",),
    "unet": ("loss", "plain"),
    "unet-long": ("loss", "plain"),
}
STRIP = {  # run of the demo -> title
    "dense": "dense",
    "magnitude 50 %": "magnitude 50 %",
    "obs 50 %": "obs 50 %",
    "obs 2:4": "obs 2:4",
    "l1 structured 30 %": "l1 struct. 30 %",
    "obs structured 30 %": "obs struct. 30 %",
}


def curves() -> None:
    """Loss against step of each training run, and the numbers as JSON lines."""
    for file in CACHE.glob("*.jsonl"):
        shutil.copy(file, DOCS / "curves" / file.name)
    found = {
        name: DOCS / "curves" / f"{name}.jsonl"
        for name in CURVES
        if (DOCS / "curves" / f"{name}.jsonl").exists()
    }
    figure = Figure(figsize=(2.2 * len(found), 2.6), layout="constrained")
    for axes, (name, file) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for key in CURVES[name]:
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=key)
        axes.set(title=name, xlabel="step", yscale="log")
        axes.legend(frameon=False)
    figure.savefig(DOCS / "curves" / "curves.png", dpi=110)


def strip(demo: Path, rows: int = 6) -> None:
    """Dense and pruned pictures of the demo's first prompts, one column a method."""
    results = json.loads((demo / "run" / "results.json").read_text())
    images = {
        "dense": results["dense_images"],
        **{run["name"]: run["images"] for run in results["runs"]},
    }
    side, text, head = 96, 220, 26
    sheet = Image.new("RGB", (text + len(STRIP) * (side + 8), head + rows * (side + 8)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for j, (name, title) in enumerate(STRIP.items()):
        pen.text((text + j * (side + 8), 6), title, fill="#333", font=font)
        for i in range(rows):
            picture = Image.open(demo / "run" / images[name][i]).resize(
                (side, side), Image.Resampling.LANCZOS
            )
            sheet.paste(picture, (text + j * (side + 8), head + i * (side + 8)))
    for i, prompt in enumerate(results["prompts"][:rows]):
        words, tail = prompt.split(", ")
        pen.multiline_text(
            (8, head + i * (side + 8) + side // 2 - 14), f"{words},\n{tail}", fill="#333", font=font
        )
    sheet.save(DOCS / "dense-pruned.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path)
    args = parser.parse_args()
    (DOCS / "curves").mkdir(parents=True, exist_ok=True)
    curves()
    for kind in ("trained", "held-out", "emoji-unet-trained", "emoji-unet-held-out"):
        if (CACHE / f"sheet-{kind}.png").exists():
            shutil.copy(CACHE / f"sheet-{kind}.png", DOCS / f"sheet-{kind}.png")
            shutil.copy(CACHE / f"evaluation-{kind}.json", DOCS / f"evaluation-{kind}.json")
    if args.demo:
        strip(args.demo)


if __name__ == "__main__":
    main()
