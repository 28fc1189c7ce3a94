"""Names of the denoisers of a pipeline, and which of them is pruned."""

from collections.abc import Iterable

# names that pipelines give their denoisers; of several the first is pruned, unless another is named
DENOISERS = ("transformer", "unet", "decoder", "prior", "transformer_2")


def other_denoisers(components: Iterable[str], component: str) -> list[str]:
    """The denoisers of a pipeline besides the one that is pruned."""
    return [name for name in DENOISERS if name in components and name != component]


def chosen_denoiser(pipeline: str, component: str, others: list[str]) -> str:
    """That there is more than one denoiser, in words."""
    return f"{pipeline} has several denoisers: {component} is pruned, {', '.join(others)} stays dense; component (--component) names another"
