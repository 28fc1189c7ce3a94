"""A pretend accelerator, for machines without one: its tensors hold their numbers on the CPU.

To torch it is a device of its own (torch's PrivateUse1), named `pretend`. A dispatch mode computes
on the CPU, and

    raises where CUDA does: tensors of two devices in one operator, float64 where there is none
    counts (device_counts.py): launches, waits of the host, copies, memory, products on the CPU

    with pretend_gpu() as counts:
        pipe = sd3().to("pretend")
        prune_(pipe, prompts, config)

It has no streams, no time, and no rounding of its own. Blocking copies wait, in both directions.
A hollow device (hollow.py) has shapes alone, for models of any size.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from obsdiff.models import adapters

from . import hollow
from .device_counts import Counts, line, operations

if not hasattr(torch._C, "_acc"):  # tests that import this are skipped
    pytest.skip("this torch lets no device be written in Python", allow_module_level=True)

NAME = "pretend"
aten = torch.ops.aten
# Operators that read or write one device and return or take tensors of another.
COPIES = {aten._to_copy.default, aten.copy_.default}
# Operators whose result the host has to read.
WAITING = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive),
    *(aten.repeat_interleave, aten.bincount),
}
# Operators that take indices from the host.
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
NO_KERNEL = {
    *(aten._local_scalar_dense, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty),
    *(aten.detach, aten.alias, aten.lift_fresh, aten._unsafe_view),
}
PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, aten.mv, aten.addmv}
FACTORISATIONS = {
    *(aten.linalg_cholesky_ex, aten.cholesky_inverse, aten.linalg_solve_triangular),
    *(aten.cholesky_solve, aten._linalg_eigh, aten._linalg_svd),
}


class State:
    """The pretence that runs now.

    Attributes:
        counts: its counts.
        double: whether the device has float64.
        memory: bytes of the device.
        hollow: whether its tensors have no numbers.
        running: whether the device is there.
        pinned: addresses of pinned host memory.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.double, self.hollow, self.running, self.memory = True, False, False, 2**40
        self.pinned: set[int] = set()


STATE = State()


class PretendTensor(Tensor):
    """A tensor of the device.

    Attributes:
        numbers: the tensor that holds its numbers.
        resting: whether they are the host's now, after `tensor.data = tensor.data.cpu()`: operators
            then see a tensor of the host, as they do on a real device.
        counted: counts the memory until it is called.
    """

    numbers: Tensor
    resting: bool
    counted: Callable[[], Any]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "PretendTensor":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=torch.device(NAME, 0),
        )
        self.numbers, self.resting = numbers, False
        self.held()
        return self

    def held(self) -> None:
        """Count the memory of its numbers."""
        storage = self.numbers.untyped_storage()
        self.counted = STATE.counts.hold(self, storage._cdata, storage.nbytes())

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendTensor":
        if id(self) not in memo:
            memo[id(self)] = copied = PretendTensor(self.numbers.clone())
            if getattr(self, "_is_param", False):
                copied._is_param = True  # type: ignore[attr-defined]
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def tolist(self) -> Any:
        STATE.counts.waits["tolist", line()] += 1
        STATE.counts.to_host += self.numbers.nbytes
        return (hollow.read(self.numbers) if STATE.hollow else self.numbers).tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of a device to numpy: copy it to the host first")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cpu") if self.resting else torch.device(NAME, 0)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        self.counted()
        self.resting = not isinstance(other, PretendTensor)
        self.numbers = other.numbers if isinstance(other, PretendTensor) else other
        if not self.resting:
            self.held()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Operator(func, args, kwargs or {}).run()


class PretendMode(TorchDispatchMode):
    """Runs all operators of torch through Operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Operator(func, args, kwargs or {}).run()


class Operator:
    """One operator with its arguments.

    Attributes:
        packet: the operator without its overload.
        there: its tensors on the device.
        here: its other tensors.
        target: the device that it is asked to write to, or None.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        args, kwargs = mapped(on_host, args), mapped(on_host, kwargs)
        self.func, self.args, self.kwargs = func, args, kwargs
        self.packet = func.overloadpacket
        tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.there = [x for x in tensors if isinstance(x, PretendTensor)]
        self.here = [x for x in tensors if not isinstance(x, PretendTensor)]
        device = kwargs.get("device")
        self.target = torch.device(device) if device is not None else None

    @property
    def to_pretend(self) -> bool:
        """Whether the result is asked for on the device."""
        return self.target is not None and self.target.type == NAME

    def run(self) -> Any:
        """Check, compute on the CPU, count, and return the result on the device it belongs to."""
        if self.packet is aten.is_pinned:
            return self.args[0].data_ptr() in STATE.pinned
        if self.packet is aten._pin_memory:
            copy = self.args[0].clone()
            STATE.pinned.add(copy.data_ptr())
            return copy
        if not self.there and not self.to_pretend:
            self.count_products()
            return self.func(*self.args, **self.kwargs)
        self.require_one_device()
        self.require_format()
        found = self.computed()
        self.count(found)
        if self.packet is aten.copy_:
            return self.args[0]
        on_device = self.to_pretend if self.target is not None else bool(self.there)
        if not on_device or self.packet is aten._local_scalar_dense:
            return found
        own = {id(x.numbers): x for x in self.there}
        return mapped(lambda x: placed(x, own), found)

    def computed(self) -> Any:
        """Return the operator's result on the CPU."""
        args, kwargs = mapped(numbers_of, self.args), mapped(numbers_of, self.kwargs)
        if STATE.hollow:
            return hollow.computed(self.func, args, kwargs, self.to_pretend)
        if self.to_pretend:
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if self.packet is aten._fused_sdp_choice:
            return 0
        if self.packet in (aten.mm, aten.addmm) and self.func._overloadname.startswith("dtype"):
            return in_dtype(self.packet, *args, **kwargs)
        return self.func(*args, **kwargs)

    def require_one_device(self) -> None:
        """Raise RuntimeError for tensors of two devices."""
        if not self.there or self.func in COPIES:
            return
        others = [x for x in self.here if x.dim() > 0]
        if self.packet in INDEXED:
            value = self.args[2] if len(self.args) > 2 else None
            if isinstance(self.args[0], PretendTensor) and not any(x is value for x in others):
                return
        if others:
            shapes = [tuple(x.shape) for x in others]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and cpu! ({self.func}, {shapes})"
            )

    def require_format(self) -> None:
        """Raise TypeError for float64 on a device without it."""
        dtype = self.kwargs.get("dtype")
        if dtype is None and not self.there:
            dtype = self.here[0].dtype if self.here else torch.get_default_dtype()
        stays = self.target is None or self.to_pretend
        if not STATE.double and stays and dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64: the device has no float64")

    def count(self, found: Any) -> None:
        """Count what the operator does."""
        counts, place = STATE.counts, line()
        if self.packet in WAITING or self.waits_for_indices():
            counts.waits[str(self.packet), place] += 1
        if self.func in COPIES:
            self.count_copy(found, place)
        if self.packet not in NO_KERNEL and not is_view(self.func):
            counts.launches[place] += 1
            counts.operations[place] += operations(self.packet, self.args, found)

    def waits_for_indices(self) -> bool:
        """Return whether indices come from the host, or the number of them from the device."""
        if self.packet not in INDEXED:
            return False
        counted = self.packet is aten.index and any(x.dtype == torch.bool for x in self.there[1:])
        return bool(self.here) or counted

    def count_copy(self, found: Tensor, place: str) -> None:
        """Count the bytes of a copy between host and device, and a wait unless it is async."""
        counts, source = STATE.counts, self.args[-1]
        if self.packet is aten.copy_:
            target, source = self.args[0], self.args[1]
            from_device, onto = isinstance(source, PretendTensor), isinstance(target, PretendTensor)
            free = bool(self.args[2]) if len(self.args) > 2 else False
        else:
            source = self.args[0]
            from_device, onto = bool(self.there), self.to_pretend or self.target is None
            free = bool(self.kwargs.get("non_blocking"))
        free = free or self.kwargs.get("non_blocking", False)
        if from_device == onto:
            return
        if from_device:
            counts.to_host += source.nbytes
        else:
            counts.to_device += source.nbytes
        if not free:
            counts.waits["to host" if from_device else "to device", place] += 1

    def count_products(self) -> None:
        """Count the multiplications of a matrix product or factorisation on the CPU."""
        matrices = [x for x in self.here if x.dim() >= 2]
        if self.packet in PRODUCTS and matrices:
            across = matrices[-1].shape[-1] if len(matrices) > 1 else 1
            STATE.counts.host_products[line()] += matrices[-2:][0].numel() * across
        elif self.packet in FACTORISATIONS and matrices:
            STATE.counts.host_products[line()] += matrices[0].shape[-1] ** 3


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with all that its tuples, lists and dicts contain changed."""
    if isinstance(value, tuple | list):
        return type(value)([mapped(change, inner) for inner in value])
    if isinstance(value, dict):
        return {key: mapped(change, inner) for key, inner in value.items()}
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yield all that the tuples, lists and dicts of a value contain."""
    if isinstance(value, tuple | list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def placed(value: Any, own: dict[int, PretendTensor]) -> Any:
    """Return a result on the device: an argument that was changed in place, or a new tensor."""
    if not isinstance(value, Tensor):
        return value
    return own.get(id(value)) if id(value) in own else PretendTensor(value)


def on_host(value: Any) -> Any:
    """Return the host's tensor for one of the device that rests there."""
    return value.numbers if isinstance(value, PretendTensor) and value.resting else value


def numbers_of(value: Any) -> Any:
    """Return what stands for an argument on the CPU."""
    if isinstance(value, PretendTensor):
        return value.numbers
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


def in_dtype(packet: Any, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
    """Compute mm or addmm of half-precision matrices with sums in another format, as CUDA can."""
    *tensors, dtype = args
    found = packet(*(x.to(dtype) for x in tensors), **kwargs)
    return found if out is None else out.copy_(found)


@functools.cache
def is_view(func: Any) -> bool:
    """Return whether an operator returns views of its arguments and writes nothing."""
    aliases = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


class Hooks(torch._C._acc.PrivateUse1Hooks):
    """torch's hooks of the device: it is there only inside `pretend_gpu`."""

    def is_available(self) -> bool:
        return STATE.running

    def has_primary_context(self, _: int) -> bool:
        return STATE.running

    def is_built(self) -> bool:
        return STATE.running


class Module(backend_registration._DummyBackendModule):
    """torch.pretend: functions of the device."""

    @staticmethod
    def is_available() -> bool:
        return STATE.running

    @staticmethod
    def device_count() -> int:
        return int(STATE.running)

    @staticmethod
    def mem_get_info(_: Any = None) -> tuple[int, int]:
        """Return the free and all bytes of the device."""
        return STATE.memory - STATE.counts.held, STATE.memory

    @staticmethod
    def synchronize(_: Any = None) -> None:
        STATE.counts.waits["synchronize", line()] += 1

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        """Return the formats of autocast; checkpoints ask for them, once torch knows the device."""
        return [torch.float16, torch.bfloat16]

    @staticmethod
    def empty_cache() -> None:
        """Do nothing: unused memory is not counted."""


def register() -> None:
    """Register the device with torch, once in a process; outside of `pretend_gpu` it is not there.

    Gradients are computed first: torch starts a thread for every device that it knows by then, and
    this one has none.
    """
    if not hasattr(torch, NAME):
        with torch.enable_grad():
            torch.ones((), requires_grad=True).backward()
        backend_registration._setup_privateuseone_for_python_backend(NAME, Module(), Hooks())


@contextlib.contextmanager
def gradients_in_this_thread() -> Iterator[None]:
    """Compute backward passes in the thread that asks for them: the device has none.

    torch forgets such a setting in `inference_mode(False)`, so it is set for every pass.
    """
    backward = Tensor.backward

    @functools.wraps(backward)
    def here(*args: Any, **kwargs: Any) -> None:
        with torch.autograd.set_multithreading_enabled(False):
            backward(*args, **kwargs)

    Tensor.backward = here  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]


@contextlib.contextmanager
def pretend_gpu(double: bool = True, memory: int = 2**40, hollow: bool = False) -> Iterator[Counts]:
    """Let torch have the device inside; the rest of torch's state is restored at the end.

    Args:
        double: whether the device has float64; Apple's has none.
        memory: its bytes.
        hollow: whether its tensors have no numbers.

    Yields:
        The counts.
    """
    register()
    STATE.__init__()  # type: ignore[misc]
    STATE.double, STATE.memory, STATE.hollow, STATE.running = double, memory, hollow, True
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    generator, plain = torch.Generator, adapters.require_unquantised
    torch.Generator = lambda *_: generator()  # type: ignore[assignment, misc]
    adapters.require_unquantised = lambda *_: None
    try:
        with PretendMode(), gradients_in_this_thread():
            yield STATE.counts
    finally:
        torch.Generator, adapters.require_unquantised = generator, plain  # type: ignore[misc]
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
        STATE.running = False
