"""obsdiff on one GPU in a few minutes: is it right, how fast is it, how much memory does it need.

    python3 benchmarks/gpu.py                      on one GPU of 80 GB
    python3 benchmarks/gpu.py --limit 270          the same, within 270 seconds
    python3 benchmarks/gpu.py --only env same      some steps
    python3 benchmarks/gpu.py --tiny               a dry run on a CPU with tiny shapes

Nothing is downloaded: the models are the built-in emoji-sd3, and models of the sizes of SD3-medium
and FLUX.1-dev with random weights. Every step stands alone, has a time limit, and an error in it is
a figure, too. The figures are written to $OUT/gpu.json (default: benchmarks/results/gpu) as they
come, with what was expected of each beforehand. `pass` is null for a figure without a limit. The
exit code is 0 however the figures turn out. The steps are in benchmarks/gpu_check.
"""

import os
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()
FOLDER = Path(__file__).resolve().parent
if Path(sys.path[0]).resolve() == FOLDER:
    sys.path[0] = str(FOLDER.parent)  # not this folder, whose modules have common names
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

from benchmarks.gpu_check.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(BEGAN))
