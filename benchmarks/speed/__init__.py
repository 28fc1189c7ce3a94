"""The cost of pruning compared with plain inference and the plain algorithm: `python -m
benchmarks.speed`."""
