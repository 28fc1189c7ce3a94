"""The check on a GPU, one file a subject; `benchmarks/gpu.py` runs it."""
