"""Random numbers that are the same on every device, and the random state of torch, restored."""

import contextlib
from collections.abc import Iterator

import torch


def noise(seed: int) -> torch.Generator:
    """Return the generator of the noise of a picture, on the CPU for pipelines on any device.

    A GPU's generator draws other numbers from the same seed, so a CPU and a GPU would draw other
    pictures; diffusers moves the numbers of a CPU's generator to the pipeline's device.
    """
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random state of the CPU and of every accelerator at the end."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        if torch.xpu.is_available():
            devices = range(torch.xpu.device_count())
            undo.enter_context(torch.random.fork_rng(devices=devices, device_type="xpu"))
        if torch.backends.mps.is_available():
            undo.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield
