"""Small trained diffusers pipelines and their CLIP, as plain folders.

`obsdiff.builtin_path(name)` finds them.
"""
