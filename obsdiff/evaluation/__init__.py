"""Evaluation: the same prompts and seeds through dense and pruned pipelines.

evaluation/evaluate.py     START HERE: draw, score, measure, write results.json
evaluation/inputs.py       what one evaluation compares, and its fingerprint
evaluation/draw.py         pictures and final latents, resumable by batches
evaluation/flaws.py        pictures that the denoiser did not draw
evaluation/weights.py      what a model is known by
evaluation/judges/         pictures and prompts -> scores of metric models
evaluation/metrics.py      figures from latents, pictures and features
evaluation/bootstrap.py    intervals over prompts
evaluation/costs.py        size, MACs and speed; peak_memory.py in a process of its own
evaluation/report/         results.json -> HTML page, text table
"""
