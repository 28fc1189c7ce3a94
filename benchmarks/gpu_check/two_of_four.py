"""Whether 2:4 weights are faster in torch's own sparse kernels."""

import torch
from torch.nn.functional import linear
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from .check import Check
from .measurement import free_memory, seconds
from .random_models import embedded, first_call, sd3, settings

SHAPES = [  # tokens, outputs, columns
    (8192, 1536, 1536), (8192, 6144, 1536), (8192, 1536, 6144),
    (32768, 6144, 1536), (9216, 12288, 3072), (9216, 3072, 15360),
]  # fmt: skip
CUTLASS_SHAPES = [(8192, 6144, 1536), (8192, 1536, 6144)]
TINY_SHAPES = [(64, 128, 128)]


def two_of_four(check: Check) -> None:
    """Layers of several shapes, and a step of 8 blocks."""
    for rows, outputs, columns in TINY_SHAPES if check.tiny else SHAPES:
        with check.recorded_errors("2:4", f"{rows} x {columns} -> {outputs}"):
            two_of_four_layer(check, rows, outputs, columns)
    free_memory()
    with check.recorded_errors("2:4", "8 blocks of SD3"), torch.no_grad():
        two_of_four_model(check)


def two_of_four_cutlass(check: Check) -> None:
    """The other backend of `two_of_four`, last: a fault in its kernels would end the process."""
    for shape in TINY_SHAPES if check.tiny else CUTLASS_SHAPES:
        two_of_four_layer(check, *shape, backend="CUTLASS")


def two_of_four_layer(
    check: Check, rows: int, outputs: int, columns: int, backend: str = "cuSPARSELt"
) -> None:
    """One layer of `two_of_four` by one backend of torch: cuSPARSELt or CUTLASS."""
    x = torch.randn(rows, columns, device=check.device, dtype=torch.bfloat16)
    weight = torch.randn(outputs, columns, device=check.device, dtype=torch.bfloat16)
    weight = half_of_four(weight / columns**0.5)
    plain = linear(x, weight).float()
    dense = seconds(lambda: linear(x, weight), 20, 5)
    SparseSemiStructuredTensor._FORCE_CUTLASS = backend == "CUTLASS"
    try:
        sparse = to_sparse_semi_structured(weight)
        wrong = ((linear(x, sparse).float() - plain).norm() / plain.norm()).item()
        took = seconds(lambda: linear(x, sparse), 20, 5)
    finally:
        SparseSemiStructuredTensor._FORCE_CUTLASS = False
    what = f"{rows} x {columns} -> {outputs} {backend}: dense / sparse"
    expected = f"1.1 to 1.6 wanted; error {wrong:.1e}"
    check.figure("2:4", what, dense / took, expected, wrong < 1e-2)


def half_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The weight with the two smallest of every four consecutive inputs set to zero."""
    fours = weight.reshape(-1, 4)
    drop = fours.abs().argsort(1)[:, :2]
    return fours.scatter(1, drop, 0).view_as(weight)


def two_of_four_model(check: Check) -> None:
    """A step of 8 blocks of SD3 with attentions and FFNs in 2:4, dense and sparse. The modulation
    reads one row a picture, which torch's sparse tensors don't take."""
    pipe = sd3(check, 8)
    model = pipe.transformer
    call = first_call(pipe, embedded(check, pipe, 1, 1)[0], settings(check))
    dense = seconds(lambda: model(**call), 10, 3)
    for name, module in model.transformer_blocks.named_modules():
        if not isinstance(module, torch.nn.Linear) or "norm" in name:
            continue
        outputs, inputs = module.weight.shape
        if outputs % 32 == 0 and inputs % 64 == 0:
            sparse = to_sparse_semi_structured(half_of_four(module.weight.detach()))
            module.weight = torch.nn.Parameter(sparse, requires_grad=False)
    took = seconds(lambda: model(**call), 10, 3)
    what = "8 blocks of SD3, a step for one picture: dense / sparse"
    check.figure("2:4", what, dense / took, ">= 1.15 makes it a feature")
