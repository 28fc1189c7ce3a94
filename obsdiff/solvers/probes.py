"""Whether a float32 factor is exact enough: random signs multiplied by the matrix and solved again.

    ||A^-1 (A z) - z|| / ||z||,  the entries of z (I, PROBES) random signs            (1)

With A^-1 by the factor, (1) is about the rounding times the condition number of A. Layer errors
move by 1 % of themselves at most where it is below MAX_ERROR (docs/log.md), for the sweeps of
single weights and for the removal of heads and neurons.

I inputs.
"""

import torch
from torch import Tensor

MAX_ERROR = 0.005  # of (1), up to which a float32 factor is used
PROBES = 4  # columns of z


def random_signs(matrix: Tensor) -> Tensor:
    """Return the z (I, PROBES) of (1), the same for every matrix (I, I) of a size."""
    g = torch.Generator().manual_seed(len(matrix))
    return torch.randint(0, 2, (len(matrix), PROBES), generator=g).mul_(2).sub_(1).to(matrix)


def relative_error(found: Tensor, probes: Tensor) -> float:
    """Return (1) from A^-1 (A z) and z, both (I, PROBES); inf if there are NaN."""
    error = torch.linalg.matrix_norm(found - probes) / torch.linalg.matrix_norm(probes)
    return error.nan_to_num(nan=torch.inf).item()
