"""The model card of a pruned pipeline."""

from statistics import median

from .record import PruningReport


def model_card(pipeline: str, report: PruningReport) -> str:
    """README.md of a pruned folder: what was done, with which settings, how to load it, what it does not promise."""
    config = report.config
    errors = sorted(row.error for row in report.layers)
    apart = sorted(row.held_out_error for row in report.layers if row.held_out_error is not None)
    lines = [
        "---",
        "library_name: diffusers",
        "tags: [obsdiff, pruned]",
        "---",
        "",
        f"# {pipeline}, pruned by obsdiff",
        "",
        removed_in_words(report),
        "",
        "```python",
        *(["import obsdiff  # knows the pruned shapes"] if report.groups else []),
        f"from diffusers import {pipeline}",
        "",
        f'pipe = {pipeline}.from_pretrained("PATH OF THIS FOLDER")',
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| calibration | {len(report.prompts)} prompts, {len(report.packages)} packages, step weighting {config['step_weighting']} |",
        f"| layer error, median and largest | {median(errors):.2e}, {errors[-1]:.2e} |",
        *(
            [
                f"| the same on {config['held_out']} held-out prompts | {median(apart):.2e}, {apart[-1]:.2e} |"
            ]
            if apart
            else []
        ),
        f"| seconds | {', '.join(f'{name} {value:.1f}' for name, value in report.seconds.items())} |",
        f"| versions | {', '.join(f'{name} {value}' for name, value in report.versions.items())} |",
        "",
        *(
            []
            if report.groups
            else [
                "Zeros alone make a model neither smaller on disk nor faster: that takes kernels or formats that use them."
            ]
        ),
        "The licence of the dense model applies. Every layer's figures are in `obsdiff.json`.",
    ]
    return "\n".join(lines) + "\n"


def removed_in_words(report: PruningReport) -> str:
    """One sentence: what is gone."""
    how = f"method {report.config['method']}, pattern {report.config['pattern']}"
    kinds = (
        "linear layers and convolutions" if report.config["target"] == "conv" else "linear layers"
    )
    if not report.groups:
        return f"{report.sparsity:.2%} of the weights of {len(report.layers)} {kinds} in `{report.component}` are zero ({how}); everything else is as it was."
    before, after = report.parameters["before"], report.parameters["after"]
    return f"{report.gone()} from the pruned blocks of `{report.component}` ({how}): {after / 1e6:.2f} M of {before / 1e6:.2f} M parameters are left."
