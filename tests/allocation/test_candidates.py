"""Candidates: each process sweeps its own, all have all; what exceeds the budget is in files."""

from types import SimpleNamespace

import pytest
import torch

from obsdiff.allocation.candidates import candidates
from obsdiff.runtime.distributed import Ranks
from obsdiff.runtime.scratch import open_scratch


class OneOfTwo(Ranks):
    """The first of two processes; the second one has swept `b`."""

    def gather_dicts(self, mine):
        return mine | {"b": "figures of b"}

    def broadcast(self, tensors, notes, owner, device):
        return ({"b": torch.full((2, 3), 7.0)} if owner else tensors), notes


def context_of(scratch, ranks=None):
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2) for name in "abc"})
    return SimpleNamespace(denoiser=model, scratch=scratch, ranks=ranks or Ranks())


def zeros(name):
    return f"figures of {name}", {} if name == "c" else {name: torch.zeros(2, 3)}


@pytest.mark.parametrize(("room", "files"), [(1e6, 0), (24, 1), (0, 2)])
def test_changes_are_kept_in_memory_or_in_files_and_given_back(room, files):
    with open_scratch(room) as scratch:
        context = context_of(scratch)
        things = {name: name for name in "abc"}
        with candidates(context, things, dict.fromkeys(things, 0), zeros) as (figures, changes):
            assert figures == {name: f"figures of {name}" for name in "abc"}
            assert list(changes) == ["a", "b"]  # nothing is tried of c
            for name, change in changes.items():
                assert torch.equal(change[name], -context.denoiser[name].weight)
            assert scratch.files == files
        assert (scratch.used, scratch.on_disk) == (0, 0)


def test_every_process_has_the_changes_of_all():
    with open_scratch(1e6) as scratch:
        context = context_of(scratch, OneOfTwo(0, 2))
        with candidates(context, {"a": "a", "b": "b"}, {"a": 0, "b": 1}, zeros) as (figures, found):
            assert figures == {"a": "figures of a", "b": "figures of b"}
            assert torch.equal(found["a"]["a"], -context.denoiser["a"].weight)
            assert (found["b"]["b"] == 7).all()


def test_an_error_gives_back_what_was_kept():
    def failing(name):
        if name == "b":
            raise ZeroDivisionError
        return zeros(name)

    with open_scratch(1e6) as scratch:
        things = dict.fromkeys("ab", 0)
        context = context_of(scratch)
        with (
            pytest.raises(ZeroDivisionError),
            candidates(context, {name: name for name in things}, things, failing),
        ):
            pass
        assert scratch.used == 0
