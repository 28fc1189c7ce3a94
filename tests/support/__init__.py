"""What tests build on and assert nothing by themselves: pipelines of many kinds, checkpoints in
other layouts, the plain algorithm."""
