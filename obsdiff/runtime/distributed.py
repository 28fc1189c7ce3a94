"""Several processes that prune one model together, over torch.distributed: gloo on CPUs, NCCL between GPUs.

torchrun and accelerate launch start them, and say in the environment who is who. Every process has the whole model. The calibration
batches are shared out; the raw sums of a Hessian are added up where its layer is solved; then every process gets the new weights.
Process 0 alone reads and writes the output's folder.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RunFailed, RunStopped, UserError

REDUCE_ELEMENTS = 2**24  # entries of a Hessian that are sent together
LOST = "another process of this job has ended, or does not answer"


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """As torch.distributed has it; one process where it is not in use."""
        return (
            cls(dist.get_rank(), dist.get_world_size())
            if dist.is_available() and dist.is_initialized()
            else cls()
        )

    def from_rank_zero(self, ask: Callable[[], Any]) -> Any:
        """What process 0 answers, everywhere; if it raises what a user is told, so do all."""
        if self.size == 1:
            return ask()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = ask()
            except (UserError, RunFailed) as error:
                answer[1] = error
        with collective():
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            if self.rank:
                answer[1].told = True  # by process 0
            raise answer[1]
        return answer[0]

    def gather_dicts(self, mine: dict[str, Any]) -> dict[str, Any]:
        """What all processes have, each some entries of it, everywhere."""
        if self.size == 1:
            return mine
        every: list[Any] = [None] * self.size
        with collective():
            dist.all_gather_object(every, mine)
        return {key: value for part in every for key, value in part.items()}

    def broadcast(
        self, tensors: dict[str, Tensor] | None, notes: Any, owner: int, device: torch.device
    ) -> tuple[dict[str, Tensor], Any]:
        """Named tensors and what belongs to them, from their owner to all."""
        head: list[Any] = (
            [[(name, t.shape, t.dtype) for name, t in tensors.items()], notes]
            if self.rank == owner
            else [None, None]
        )
        found = {}
        with collective():
            dist.broadcast_object_list(head, src=owner)
            for name, shape, dtype in head[0]:
                tensor = (
                    tensors[name].to(device).contiguous()
                    if self.rank == owner
                    else torch.empty(shape, dtype=dtype, device=device)
                )
                dist.broadcast(tensor, src=owner)
                found[name] = tensor
        return found, head[1]


def assign(costs: Sequence[float], size: int) -> list[int]:
    """An owner for each piece of work, so that all have nearly the same to do: the dearest first, to whoever has least."""
    load, owners = [0.0] * size, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=load.__getitem__)
        load[owners[i]] += costs[i]
    return owners


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """What fails inside because others are gone becomes RunStopped."""
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL alike
        raise RunStopped(
            f"process {Ranks.here().rank}: {LOST} ({str(error).strip().splitlines()[0][:120]})"
        ) from error


@contextlib.contextmanager
def process_group(timeout_minutes: float) -> Iterator[Ranks]:
    """The processes that torchrun or accelerate launch started, for a while; one where none of them did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Ranks.here()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with collective():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=timeout_minutes)
        )
    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield Ranks.here()
        signal.signal(signal.SIGTERM, before)
    except BaseException:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # torchrun is about to send it; what went wrong is still to be said
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone
            dist.destroy_process_group()


def ended(*_: Any) -> None:
    """torchrun ends all processes of a job when one has died."""
    raise RunStopped(f"process {Ranks.here().rank}: ended by SIGTERM, as torchrun does when {LOST}")
