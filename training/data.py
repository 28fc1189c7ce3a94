"""Fetch the emoji packages from npm and rasterise them: 64x64 pictures with captions.

    python -m training.data    # about 20 seconds; training/cache/data.safetensors and data.json

Captions read "red apple, noto style". Skin-tone variants and hidden (deprecated, duplicate) icons
are omitted. Five per cent of the NAMES, not of the pictures, are held out: no style of a held-out
name is ever trained on.
"""

import io
import json
import random
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

CACHE = Path(__file__).parent / "cache"
SIZE = 64
HELD_OUT = 0.05
W3 = "http://www.w3.org"  # of the names of SVG
SEED = 0

# npm package -> the word that captions use for its style
STYLES = {"noto": "noto", "fluent-emoji-flat": "fluent", "twemoji": "twemoji", "noto-v1": "blob"}
TONES = ("-dark", "-light", "-medium", "-medium-dark", "-medium-light")


def fetch(package: str) -> dict:
    """The icons.json of one @iconify-json package, downloaded with `npm pack` and kept in the
    cache."""
    kept = CACHE / f"{package}.json"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        spec = f"@iconify-json/{package}"
        done = subprocess.run(
            ["npm", "pack", "--silent", spec], cwd=CACHE, check=True, capture_output=True, text=True
        )
        archive = CACHE / done.stdout.strip().splitlines()[-1]
        with tarfile.open(archive) as tar:
            kept.write_bytes(tar.extractfile("package/icons.json").read())
        archive.unlink()
    return json.loads(kept.read_text())


def is_skin_tone(name: str, icons: dict) -> bool:
    """Whether a name is the variant of another icon ("farmer-medium-dark" of "farmer")."""
    return "skin-tone" in name or any(
        name.endswith(t) and name.removesuffix(t) in icons for t in TONES
    )


def rasterise(body: str, width: float, height: float) -> np.ndarray:
    """One SVG body, centred on a white square: (SIZE, SIZE, 3) uint8."""
    import resvg_py  # of the extra `train`, which tests and benchmarks do without

    side = max(width, height)
    box = f"{(width - side) / 2} {(height - side) / 2} {side} {side}"
    names = f'xmlns="{W3}/2000/svg" xmlns:xlink="{W3}/1999/xlink"'
    svg = f'<svg {names} viewBox="{box}">{body}</svg>'
    png = resvg_py.svg_to_bytes(
        svg_string=svg, background="#ffffff", width=SIZE, height=SIZE, skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def build() -> None:
    pictures, rows = [], []
    for package, style in STYLES.items():
        data = fetch(package)
        icons = data["icons"]
        for name, icon in icons.items():
            if icon.get("hidden") or is_skin_tone(name, icons):
                continue
            size = icon.get("width", data["width"]), icon.get("height", data["height"])
            pictures.append(rasterise(icon["body"], *size))
            words = name.replace("-", " ")
            rows.append({"name": words, "style": style, "caption": f"{words}, {style} style"})
    names = sorted({row["name"] for row in rows})
    held = set(random.Random(SEED).sample(names, round(len(names) * HELD_OUT)))
    for row in rows:
        row["held_out"] = row["name"] in held
    save_file({"pictures": torch.from_numpy(np.stack(pictures))}, CACHE / "data.safetensors")
    (CACHE / "data.json").write_text(json.dumps(rows))
    print(f"{len(rows)} pictures, {len(names)} names, {len(held)} names held out")


def load() -> tuple[torch.Tensor, list[dict]]:
    """Pictures (N, 64, 64, 3) uint8 and their rows {name, style, caption, held_out}."""
    if not (CACHE / "data.json").exists():
        build()
    return load_file(CACHE / "data.safetensors")["pictures"], json.loads(
        (CACHE / "data.json").read_text()
    )


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1], what the VAE and the image towers
    read."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


if __name__ == "__main__":
    build()
