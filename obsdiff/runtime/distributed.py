"""Several processes that prune one model together, over torch.distributed.

gloo is used between CPUs, NCCL between GPUs. torchrun and accelerate launch start the processes
and set their ranks in the environment. Every process holds the whole model. Each draws a share of
the calibration batches; the raw sums of a Hessian are reduced to the process that solves its layer;
that process broadcasts the new weights. Process 0 alone reads and writes the output folder.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RunFailed, RunStopped, UserError
from .launcher import is_one_of_several

REDUCE_ELEMENTS = 2**24  # entries of a Hessian in one reduction
LOST = "another process of this job has ended, or does not answer"
Found = TypeVar("Found")
Values = TypeVar("Values")


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of the job.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """Return the ranks of torch.distributed; a single process if it is not initialised."""
        return (
            cls(dist.get_rank(), dist.get_world_size())
            if dist.is_available() and dist.is_initialized()
            else cls()
        )

    def from_rank_zero(self, find: Callable[[], Found]) -> Found:
        """Call a function in process 0 and return its result in all processes.

        Args:
            find: the function; its result must be picklable.

        Raises:
            UserError, RunFailed: in all processes, if `find` raises it in process 0. The attribute
                `reported` of the others' copy is True, so that the command line prints it once.
        """
        if self.size == 1:
            return find()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = find()
            except (UserError, RunFailed) as error:
                answer[1] = error
        with collective():
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            if self.rank:
                answer[1].reported = True
            raise answer[1]
        return answer[0]

    def gather_dicts(self, mine: dict[str, Values]) -> dict[str, Values]:
        """Merge one dict of each process and return the whole in all processes.

        Args:
            mine: the entries of this process; picklable, with keys that no other process has.
        """
        if self.size == 1:
            return mine
        every: list[Any] = [None] * self.size
        with collective():
            dist.all_gather_object(every, mine)
        return {key: value for part in every for key, value in part.items()}

    def least(self, value: float) -> float:
        """Return the least value of all processes, in all of them."""
        if self.size == 1:
            return value
        every: list[Any] = [None] * self.size
        with collective():
            dist.all_gather_object(every, value)
        return min(every)

    def broadcast(
        self, tensors: dict[str, Tensor] | None, notes: Any, owner: int, device: torch.device
    ) -> tuple[dict[str, Tensor], Any]:
        """Send named tensors, of any shapes and dtypes, from one process to all.

        Args:
            tensors: the tensors, in the owner; ignored in the others.
            notes: a picklable object that is sent with them.
            owner: rank of the process that sends.
            device: where the tensors are received; gloo needs the CPU, NCCL a GPU.

        Returns:
            The tensors on `device` and the notes.
        """
        sent = tensors if self.rank == owner else {}
        assert sent is not None  # the owner has the tensors
        head: list[Any] = [[(name, t.shape, t.dtype) for name, t in sent.items()], notes]
        found = {}
        with collective():
            dist.broadcast_object_list(head, src=owner)
            for name, shape, dtype in head[0]:
                tensor = (
                    sent[name].to(device).contiguous()
                    if self.rank == owner
                    else torch.empty(shape, dtype=dtype, device=device)
                )
                dist.broadcast(tensor, src=owner)
                found[name] = tensor
        return found, head[1]


def assign(costs: Sequence[float], size: int) -> list[int]:
    """Assign tasks to processes with nearly equal loads: the largest first, to the least loaded.

    Args:
        costs: cost of each task, N in any one unit.
        size: number of processes.

    Returns:
        The rank of each task's owner, N numbers in 0 ... size - 1.
    """
    load, owners = [0.0] * size, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=load.__getitem__)
        load[owners[i]] += costs[i]
    return owners


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Turn the errors of gloo and NCCL inside, after the loss of a process, into RunStopped."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RunStopped(f"process {Ranks.here().rank}: {LOST} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, cut after 120 characters, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def local_device() -> int:
    """Return the number of this process's GPU, LOCAL_RANK.

    Raises:
        UserError: LOCAL_RANK is missing beside several GPUs, or there are fewer GPUs.
    """
    count, given = torch.cuda.device_count(), os.environ.get("LOCAL_RANK")
    if given is None and count == 1:
        return 0
    if given is None or int(given) >= count:
        raise UserError(
            f"LOCAL_RANK: expected the number of one of this machine's {count} GPUs, from 0, found "
            f"{given or 'none'}; start at most {count} processes on it"
        )
    return int(given)


@contextlib.contextmanager
def process_group(timeout_minutes: float) -> Iterator[Ranks]:
    """Join the processes that torchrun or accelerate launch started; leave the group at the end.

    Args:
        timeout_minutes: time after which a process that does not answer counts as lost.

    Yields:
        The ranks; a single process without a launcher.

    Raises:
        UserError: a variable of the launcher is missing or wrong.
        RunFailed: the processes did not meet.
    """
    if dist.is_initialized() or not is_one_of_several():
        yield Ranks.here()
        return
    device = torch.device("cuda", local_device()) if torch.cuda.is_available() else None
    if device:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
            device_id=device,  # else NCCL guesses by the rank, and warns
        )
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunFailed(
            f"process {os.environ['RANK']}: the {os.environ['WORLD_SIZE']} processes of this job "
            f"did not meet at {place} ({first_line(error)})"
        ) from error
    before = signal.signal(signal.SIGTERM, raise_stopped)
    try:
        yield Ranks.here()
        signal.signal(signal.SIGTERM, before)
    except BaseException:
        # torchrun sends SIGTERM next; ignored, so that the error is still printed
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # the other processes may have ended
            dist.destroy_process_group()


def raise_stopped(*_: Any) -> None:
    """Handle SIGTERM, which torchrun sends to all processes of a job when one has ended."""
    raise RunStopped(f"process {Ranks.here().rank}: ended by SIGTERM, as torchrun does when {LOST}")
