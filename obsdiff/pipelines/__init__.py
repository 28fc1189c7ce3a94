"""Diffusers pipelines: open, run, save."""
