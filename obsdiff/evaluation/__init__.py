"""Evaluation: the same seeds through dense and pruned pipelines."""
