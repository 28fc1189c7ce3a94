"""Features of real training pictures by emoji-clip: the reference of FID and KID of the built-in
pipelines.

    python -m training.statistics    # seconds

Writes obsdiff-emoji/obsdiff_emoji/emoji-clip/real.safetensors.

2,000 pictures drawn at random from those of known names; float16. The file holds the digest of the
CLIP that computed it, and is refused beside another one: run this again after `training.assemble`.
"""

import argparse

import torch
from PIL import Image
from safetensors.torch import save_file

from obsdiff.evaluation.judges.features import features_of, file_digest, open_extractor
from obsdiff.pipelines.builtin import builtin_path

from .data import load

COUNT = 2000
SEED = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clip = builtin_path("emoji-clip")
    pictures, rows = load()
    known = torch.tensor([not row["held_out"] for row in rows]).nonzero().flatten()
    chosen = known[
        torch.randperm(len(known), generator=torch.Generator().manual_seed(SEED))[: args.count]
    ]
    images = (Image.fromarray(picture.numpy()) for picture in pictures[chosen])
    features = features_of(images, open_extractor(clip)).half()
    file = clip / "real.safetensors"
    save_file(
        {"features": features.contiguous()},
        file,
        {"digest": file_digest(clip), "pictures": "training, known names", "seed": str(SEED)},
    )
    print(f"{file.name}: {tuple(features.shape)}, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
