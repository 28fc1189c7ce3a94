"""Helpers of the tests, without assertions: pipelines of many kinds, checkpoints in other layouts,
the peak memory of tensors."""
