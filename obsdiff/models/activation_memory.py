"""The memory of a denoiser's activations, counted on the meta device.

Every tensor that a forward makes is counted from its making to its end, so the largest sum is what
an accelerator allocates at most, weights and workspaces of its kernels apart. Attention is counted
as fused kernels compute it: without the weights of all queries by all keys. A backward pass is
counted in the same way.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .meta_device import on_meta


class FusedAttention(TorchFunctionMode):
    """Makes the result of attention alone, as a fused kernel does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; attention returns (B, H, L, E) of queries (B, H, L, D)."""
        given = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **given)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | given
        return FusedResult.apply(named["query"], named["key"], named["value"])


class FusedResult(torch.autograd.Function):
    """The result of fused attention, without values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Make the result, and save what the backward pass of a fused kernel needs."""
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        """Make the gradients of queries, keys and values."""
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def fused_call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with fused attention; a mode around a backward pass would not reach it."""
    with FusedAttention():
        return forward(*args, **kwargs)


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside.

    Attributes:
        now: bytes of those that still exist.
        peak: the largest value of `now`.
        block: bytes of the weights of the block that computes, if blocks are there in turn.
        peak_in_turn: the largest value of `now` with `block`.
    """

    def __init__(self, known: list[Tensor]) -> None:
        """Begin with tensors that are not counted, such as weights."""
        super().__init__()
        self.now = self.peak = self.block = self.peak_in_turn = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, and count what it makes."""
        made = func(*args, **kwargs or {})
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.hold(tensor.untyped_storage())
        return made

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until its end."""
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.look()
            weakref.finalize(storage, self.let_go, key)

    def let_go(self, key: int) -> None:
        """Stop counting a storage."""
        self.now -= self.sizes.pop(key)

    def look(self) -> None:
        """Keep the largest values."""
        self.peak = max(self.peak, self.now)
        self.peak_in_turn = max(self.peak_in_turn, self.now + self.block)

    @contextlib.contextmanager
    def in_turn(self, blocks: Iterable[nn.Module]) -> Iterator[None]:
        """Count the weights of each block while it computes."""

        def begin(block: nn.Module, _: Any) -> None:
            self.block = bytes_of_weights(block)
            self.look()

        def end(*_: Any) -> None:
            self.block = 0

        with contextlib.ExitStack() as undo:
            for block in blocks:
                undo.enter_context(block.register_forward_pre_hook(begin))
                undo.enter_context(block.register_forward_hook(end))
            yield


def activation_bytes(*args: Any, **kwargs: Any) -> int:
    """Count what one call of a model holds at most beside its weights; as `held_by_call`.

    Returns:
        Bytes.
    """
    return held_by_call(*args, **kwargs).peak


def held_by_call(
    model: nn.Module,
    arguments: Mapping[str, Any],
    images: int = 1,
    fused: bool = True,
    backward: bool = False,
    known: Iterable[Tensor] = (),
    blocks: Iterable[nn.Module] = (),
) -> HeldBytes:
    """Count what one call of a model holds beside its weights, the arguments included.

    Args:
        model: the model on the meta device, in the number format in which it computes.
        arguments: the keyword arguments of a call for one image, on any device.
        images: rows of the batch: pictures times guidance halves.
        fused: whether attention is one kernel.
        backward: whether gradients are computed afterwards.
        known: other tensors on the meta device that are not counted.
        blocks: parts of the model whose weights `peak_in_turn` counts while they compute.

    Returns:
        The counts.

    Raises:
        RuntimeError, TypeError, ValueError: the arguments do not fit the model.
    """
    dtype = next(model.parameters()).dtype
    batch = tree_map(lambda value: batched(value, images, dtype), on_meta(dict(arguments)))
    weights = [*model.parameters(), *model.buffers(), *known]
    attention = FusedAttention() if fused else contextlib.nullcontext()
    held = HeldBytes(weights)
    with torch.set_grad_enabled(backward), held, attention, held.in_turn(blocks):
        for tensor in tensors_of(batch):
            held.hold(tensor.untyped_storage())
            tensor.requires_grad_(backward and tensor.is_floating_point())
        made = [tensor for tensor in tensors_of(model(**batch)) if tensor.requires_grad]
        if backward:
            torch.autograd.backward(made, [torch.empty_like(tensor) for tensor in made])
    return held


def bytes_of_weights(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in arguments, or in a result."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def batched(value: Any, images: int, dtype: torch.dtype) -> Any:
    """Return an argument for several images: tensors of one row are repeated."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(dtype) if value.is_floating_point() else value
    return value.repeat(images, *[1] * (value.dim() - 1)) if value.shape[:1] == (1,) else value
