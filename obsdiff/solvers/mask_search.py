"""The state of a search for a better mask, shared by swaps.py and trial_swaps.py.

    minimise tr(D A D^T) / 2 over mask and weights,  D = W' - W,  A = H + d I

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, H (I, I) Hessian, d the damping.

References:
    Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", 2025.
        https://arxiv.org/abs/2512.10922
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class MaskSearch:
    """A layer during a search; the search changes `found` and `kept`, row by row.

    Attributes:
        weights: W (O, I), zero at inputs that are always zero.
        found: W' (O, I), zero outside the mask.
        kept: mask (O, I), True where a weight is kept.
        hessian: A (I, I), symmetric positive definite.
        live: mask (I,), False at inputs that are always zero; their weights are never restored.
        m: inputs in an n:m group, None if unstructured.
    """

    weights: Tensor
    found: Tensor
    kept: Tensor
    hessian: Tensor
    live: Tensor
    m: int | None
