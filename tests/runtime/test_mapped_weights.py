from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig
from obsdiff.models.linear_view import write_
from obsdiff.runtime.mapped_weights import DenseCopy, spill_, unmap_
from obsdiff.runtime.memory import STATUS
from obsdiff.runtime.scratch import open_scratch

from ..conftest import PROMPTS, sd3

MAPS, SMAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")


def mapped_file(tensor):
    """The file that a tensor's first byte is mapped from; empty for anonymous memory."""
    for line in MAPS.read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if len(line.split()) > 5 else [*line.split(), ""]
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return name if name.startswith("/") else ""
    raise AssertionError("no mapping holds the tensor")


def written(folder):
    """Bytes of the written pages of the files mapped from a folder: they stay in memory."""
    total, counts = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split()[0]:  # a mapping's first line
            counts = line.split(maxsplit=5)[-1].startswith(f"{folder}/")
        elif counts and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.slow
def test_spilled_weights_are_the_same_and_use_no_anonymous_memory():
    model = torch.nn.Sequential(torch.nn.Linear(4096, 4096, bias=False), torch.nn.Linear(4096, 8))
    before = model[0].weight.detach().clone()
    with open_scratch(0) as scratch:
        spill_(model, ["0"], scratch)
        if MAPS.exists():  # not the memory in use: an allocator may keep it
            assert mapped_file(model[0].weight).startswith(str(scratch.folder))
            assert mapped_file(before) == ""
        assert torch.equal(model[0].weight, before)
    assert torch.equal(model[0].weight, before)  # the file is deleted, its pages are still mapped
    with torch.no_grad():
        model[0].weight.zero_()  # a private mapping: it can be written to
    assert isinstance(model[0].weight, torch.nn.Parameter)
    assert not model[0].weight.any()


@pytest.mark.slow
def test_a_budget_changes_nothing_in_the_weights():
    for pattern in ("unstructured", "structured"):
        found = []
        for budget in (None, 1.0):
            pipe = sd3()
            report = obsdiff.prune_(
                pipe,
                PROMPTS[:2],
                PruningConfig(
                    num_inference_steps=2,
                    pattern=pattern,
                    calibration="single",
                    memory_budget_gib=budget,
                ),
            )
            found.append(pipe.transformer.state_dict())
            assert (
                not STATUS.exists()
                or report.memory["peak_bytes"] >= report.memory["before_bytes"] > 0
            )
        assert all(torch.equal(w, found[1][name]) for name, w in found[0].items())


@pytest.mark.skipif(not SMAPS.exists(), reason="needs /proc")
def test_spilled_weights_leave_no_written_page_while_others_use_the_file(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(4)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    assert not written(tmp_path)
    with torch.no_grad():
        model[2].weight.add_(0)  # what unmap_ avoids: the page of a mapped file is copied
    assert written(tmp_path) >= model[2].weight.nbytes
    with open_scratch(0) as scratch:
        before = written(tmp_path)
        for name in ("0", "1"):
            unmap_(model, [name])
            write_(name, model[int(name)], torch.zeros(1024, 1024))
            spill_(model, [name], scratch)
            assert mapped_file(model[int(name)].weight).startswith(str(scratch.folder))
        assert written(tmp_path) == before
        assert not written(scratch.folder)
    assert not model[1].weight.any()
    assert model[3].weight.any()


@pytest.mark.parametrize("room", [0, 1e9])
def test_a_dense_copy_is_in_memory_up_to_the_budget(room):
    module = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 8).bfloat16()
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with open_scratch(room) as scratch:
        dense = DenseCopy.of(module, scratch)
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        assert (scratch.used, scratch.on_disk) == ((0, size) if room == 0 else (size, 0))
        with torch.no_grad():
            for value in module.state_dict().values():
                value.zero_()
        assert all(
            torch.equal(value, before[name]) for name, value in dense.module.state_dict().items()
        )
        assert all(p.data_ptr() % 64 == 0 for p in dense.module.parameters())  # as torch has it
        dense.give_back(scratch)
        assert (scratch.used, scratch.on_disk, list(scratch.folder.glob("0*"))) == (0, 0, [])
