from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig
from obsdiff.models.linear_view import write_
from obsdiff.runtime.mapped_weights import DenseCopy, spill_, unmap_
from obsdiff.runtime.memory import STATUS, anonymous
from obsdiff.runtime.scratch import open_scratch

from ..conftest import PROMPTS, sd3

MAPS = Path("/proc/self/maps")


def mapped_file(tensor):
    """The file that a tensor's first byte is mapped from; empty for anonymous memory."""
    for line in MAPS.read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if len(line.split()) > 5 else [*line.split(), ""]
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return name if name.startswith("/") else ""
    raise AssertionError("no mapping holds the tensor")


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


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_spilled_weights_release_memory_while_others_use_the_file(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096, bias=False) for _ in range(4)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    held = anonymous()
    with open_scratch(0) as scratch:
        for name in ("0", "1", "2"):
            unmap_(model, [name])
            write_(name, model[int(name)], torch.zeros(4096, 4096))
            spill_(model, [name], scratch)
        assert anonymous() - held < 0.5 * 3 * model[0].weight.nbytes
    assert not model[2].weight.any()
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
