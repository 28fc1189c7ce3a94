"""Small trained diffusers pipelines and their CLIP, as plain folders beside this file. obsdiff.builtin_path(name) finds them."""
