"""Hashes of the denoiser's weights after small prunings: the same before and after a change that
keeps every bit.

    python -m benchmarks.bits BEFORE.json             # prunes, writes {run: SHA-256}
    python -m benchmarks.bits AFTER.json BEFORE.json  # the same, then compares

The exit code of the second is 1 if a run differs.

Each run is one process of the command line, on one thread, with 4 prompts and 3 steps.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = ["--num-prompts", "4", "--num-inference-steps", "3", "--batch-size", "2"]
RUNS = {
    "obs 50 %, single": "emoji-unet --calibration single",
    "obs 50 %, replay of 2 packages": "emoji-sd3 --calibration replay --packages 2",
    "obs 2:4, live, 2 packages": "emoji-sd3 --pattern 2:4 --calibration live --packages 2",
    "structured 30 %, replay": "emoji-unet --pattern structured --sparsity 0.3"
    " --calibration replay",
    "structured 30 %, live, 2 packages": "emoji-sd3 --pattern structured --sparsity 0.3"
    " --calibration live --packages 2",
    "preset best, 50 %": "emoji-unet --preset best",
    "preset best, 2:4": "emoji-sd3 --preset best --pattern 2:4",
    "preset best, structured": "emoji-sd3 --preset best --pattern structured --sparsity 0.3",
    "preset fast, structured": "emoji-unet --preset fast --pattern structured --sparsity 0.3",
    "permute, 2:4": "emoji-unet --pattern 2:4 --permute --calibration single",
    "asymmetric, 50 %": "emoji-sd3 --asymmetric --calibration replay --packages 3",
    "asymmetric, structured": "emoji-unet --asymmetric --calibration replay --packages 3"
    " --pattern structured --sparsity 0.3",
    "held-out prompts choose the damping, bias corrected": "emoji-sd3 --held-out 2"
    " --choose-damping --correct-bias --calibration single",
    "alps, swaps": "emoji-unet --method alps --calibration single --blocks 0-1 --refine swaps",
    "wanda": "emoji-sd3 --method wanda",
    "dsnot 2:4": "emoji-sd3 --method dsnot --pattern 2:4",
    "owl": "emoji-sd3 --allocation owl --calibration single",
    "alpha pruning": "emoji-sd3 --allocation alpha --calibration single",
    "half of the parameters": "emoji-sd3 --pattern structured --target-parameters 0.7",
    "two processes, replay": "@2 emoji-sd3 --calibration replay --packages 2",
    "two processes, structured": "@2 emoji-unet --pattern structured --sparsity 0.3",
}


def weights_hash(run: str) -> str:
    """SHA-256 of the denoiser's files after one run; the last words of stderr if the run failed."""
    words = run.split()
    processes = int(words.pop(0)[1:]) if run.startswith("@") else 1
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "pruned")
        command = [sys.executable, "-m", *(torchrun if processes > 1 else [])]
        command += ["obsdiff", "prune", *words, *SMALL, "--output", str(output)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
        if done.returncode:
            return f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"
        total = hashlib.sha256()
        for file in sorted(output.glob("[tu]*/diffusion_pytorch_model*.safetensors")):
            total.update(file.read_bytes())
        return total.hexdigest()


def main(after: str, before: str | None = None) -> int:
    earlier = json.loads(Path(before).read_text()) if before else {}
    found, differ = {}, 0
    for name, run in RUNS.items():
        found[name] = weights_hash(run)
        changed = name in earlier and earlier[name] != found[name]
        differ += changed
        verdict = "DIFFERS" if changed else "same" if name in earlier else ""
        print(f"{name:52} {found[name][:64]} {verdict}", flush=True)
        Path(after).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
