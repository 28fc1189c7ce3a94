"""What pruning costs beside plain inference and beside the plain algorithm: `python -m
benchmarks.speed`."""
