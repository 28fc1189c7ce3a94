"""torch's global states, as a run needs them; restored at the end.

Inside torch.autocast products come out in half precision, inside torch.inference_mode new weights
could never be trained, and with another default dtype or device new tensors do not fit the model.
"""

import contextlib
from collections.abc import Iterator

import torch

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Compute as in a fresh process, without gradients; restore every state at the end.

    Deterministic algorithms stay on where the caller has set them; an operation that has none
    warns.
    """
    dtype = torch.get_default_dtype()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with contextlib.ExitStack() as undo:
        for device in DEVICE_TYPES:
            if torch.is_autocast_enabled(device):
                undo.enter_context(torch.autocast(device, enabled=False))
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.no_grad())
        if torch.empty(0).device.type != "cpu":  # get_default_device of torch 2.6 misses contexts
            undo.enter_context(torch.device("cpu"))
        undo.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        undo.callback(torch.use_deterministic_algorithms, strict, warn_only=warns)
        torch.use_deterministic_algorithms(strict, warn_only=strict)
        yield
