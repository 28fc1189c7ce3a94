"""Names of a pipeline's denoisers, and the one of them that is pruned. No torch."""

from collections.abc import Iterable

# names that pipelines use for denoisers; the first is pruned unless `component` names another
DENOISERS = (
    *("transformer", "unet", "decoder", "prior", "transformer_2"),
    "unconditional_transformer",  # of Ideogram 4: the other half of its guidance
)


def other_denoisers(components: Iterable[str], component: str) -> list[str]:
    """Return the denoisers of a pipeline besides the pruned one.

    Args:
        components: names of all components of the pipeline.
        component: name of the pruned one.
    """
    present = set(components)
    return [name for name in DENOISERS if name in present and name != component]


def chosen_denoiser(pipeline: str, component: str, others: list[str]) -> str:
    """Return the note that a pipeline has several denoisers.

    Args:
        pipeline: the pipeline's class or path.
        component: name of the pruned denoiser.
        others: names of the others.
    """
    return (
        f"{pipeline} has several denoisers: {component} is pruned, "
        f"{', '.join(others)} stays dense; component (--component) names another"
    )
