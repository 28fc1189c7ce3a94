"""Copy the parts that ship into training/cache, to train the denoisers alone anew.

python -m training.shipped      # the VAE, both CLIP text encoders, the tokenizer
"""

import shutil

from obsdiff.pipelines.builtin import builtin_path

from .clip import OUT as CLIP
from .vae import OUT as VAE


def main() -> None:
    source = builtin_path("emoji-sd3")
    for part in ("text_encoder", "text_encoder_2", "tokenizer"):
        shutil.copytree(source / part, CLIP / part, dirs_exist_ok=True)
    shutil.copytree(source / "vae", VAE, dirs_exist_ok=True)
    print(f"{source}: copied to {CLIP} and {VAE}")


if __name__ == "__main__":
    main()
