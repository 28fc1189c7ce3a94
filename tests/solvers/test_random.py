"""Random pruning of heads and neurons."""

import torch

from obsdiff.solvers.random import random


def test_random_depends_on_the_seed_and_on_no_weight():
    reads, writes = [torch.arange(20.0).view(10, 2)], [torch.zeros(10, 3)]
    removed, scores = random(reads, writes, 4, seed=3)
    assert removed == sorted(range(10), key=scores.__getitem__)[:4]
    assert (removed, scores) == random([-reads[0]], [torch.ones(10, 3)], 4, seed=3)
    counts = [sum(i in random(reads, writes, 4, seed=s)[0] for s in range(500)) for i in range(10)]
    assert sum(counts) == 2000
    # 4 of 10 each time: 200 expected, standard deviation 11
    assert all(150 < count < 250 for count in counts)
