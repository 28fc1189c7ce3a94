"""L1 norm pruning of heads and neurons, by hand."""

import torch

from obsdiff.solvers.l1 import l1


def test_l1_by_hand():
    """Three neurons, read by one layer with two outputs, written by one row or two (GEGLU)."""
    reads = [torch.tensor([[1.0, -2.0], [0.5, 0.5], [-3.0, 0.0]])]
    assert l1(reads, [torch.tensor([[1.0, 1.0], [-4.0, 1.0], [0.0, 0.5]])], 2) == (
        [2, 0],
        [5.0, 6.0, 3.5],
    )
    assert l1(reads, [torch.tensor([[[2.0], [-2.0]], [[0.0], [1.0]], [[1.0], [1.0]]])], 1) == (
        [1],
        [7.0, 2.0, 5.0],
    )


def test_l1_counts_all_weights_that_are_removed_with_a_head():
    """Two heads of two columns, read by two streams of two outputs each, written by two rows.

    By hand: the first has 4 + 1 + 2, the second 1 + 6 + 0.75. By the first stream or the rows
    alone, the second would be removed.
    """
    first = torch.tensor([[[1.0, -1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]])
    second = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[3.0, -3.0], [0.0, 0.0]]])
    rows = torch.tensor([[[1.0], [-1.0]], [[0.5], [0.25]]])
    assert l1([first, second], [rows], 1) == ([0], [7.0, 7.75])
