"""Allocation: the sparsity of each layer, or the items that each group keeps."""
