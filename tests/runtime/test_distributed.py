"""Several processes: shares of the work, and a joint end; test_stress.py runs torchrun."""

import pytest
import torch

from obsdiff import PruningConfig, UserError
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.plan import plan_pruning
from obsdiff.errors import RunStopped
from obsdiff.runtime.distributed import Ranks, assign, collective, local_device

from ..conftest import PROMPTS, sd3


def test_work_is_assigned_evenly_and_the_largest_first():
    costs = [1, 8, 2, 7, 3, 6, 4, 5]
    owners = assign(costs, 3)
    loads = [
        sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank)
        for rank in range(3)
    ]
    assert sum(loads) == 36
    assert max(loads) <= 13
    assert owners[1] == 0
    assert assign(costs, 1) == [0] * 8
    assert assign(costs, 3) == owners


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_batch_is_drawn_by_one_process(monkeypatch, batch):
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(Ranks, "here", classmethod(lambda cls, rank=rank: cls(rank, 2)))
        plan = plan_pruning(sd3(), PROMPTS, PruningConfig(batch_size=batch)).calibration_set
        drawn += [(tuple(prompts), tuple(seeds)) for prompts, seeds in plan.batches()]
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: cls()))
    alone = [
        (tuple(prompts), tuple(seeds))
        for prompts, seeds in plan_pruning(
            sd3(), PROMPTS, PruningConfig(batch_size=batch)
        ).calibration_set.batches()
    ]
    assert sorted(drawn) == sorted(alone)
    assert len(drawn) == -(-8 // batch)


def test_a_process_without_a_batch_is_refused_everywhere(monkeypatch):
    for rank in range(3):
        monkeypatch.setattr(Ranks, "here", classmethod(lambda cls, rank=rank: cls(rank, 3)))
        with pytest.raises(
            UserError, match="batch_size: 3 processes share 8 prompts in batches of 4"
        ):
            plan_pruning(sd3(), PROMPTS, PruningConfig(batch_size=4))


def test_one_process_needs_no_collectives():
    alone, hessian = Ranks.here(), Hessian.zeros(3)
    assert alone == Ranks(0, 1)
    assert alone.from_rank_zero(lambda: 3) == 3
    hessian.reduce_(alone, 0)
    assert hessian.columns == 3


def test_a_lost_process_is_one_clear_line():
    with (
        pytest.raises(
            RunStopped,
            match=r"process 0: another process of this job has ended, .*Connection closed by peer",
        ),
        collective(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer\nmore")


def test_a_device_without_memory_is_not_a_lost_process():
    with pytest.raises(torch.OutOfMemoryError), collective():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_the_least_value_of_all_processes(monkeypatch):
    def gathered(every, mine):
        every[:] = [mine, 3.0]

    monkeypatch.setattr("torch.distributed.all_gather_object", gathered)
    assert Ranks(0, 2).least(5.0) == Ranks(0, 2).least(3.0) == 3.0
    assert Ranks().least(5.0) == 5.0


@pytest.mark.parametrize(
    ("given", "gpus", "found"), [("1", 2, 1), (None, 1, 0), ("2", 2, None), (None, 2, None)]
)
def test_the_gpu_of_a_process_is_that_of_its_number(given, gpus, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if given is not None:
        monkeypatch.setenv("LOCAL_RANK", given)
    if found is not None:
        assert local_device() == found
        return
    line = rf"LOCAL_RANK: .*this machine's {gpus} GPUs, from 0, found {given or 'none'}; start at"
    with pytest.raises(UserError, match=line):
        local_device()
