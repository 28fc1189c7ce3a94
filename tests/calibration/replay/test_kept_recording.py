"""A stored recording is read as it was written, by its own run alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from obsdiff.calibration.recording_place import RecordingPlace
from obsdiff.calibration.replay.kept_recording import (
    NotPlain,
    plain,
    read_recording,
    restored,
    write_recording,
)
from obsdiff.calibration.replay.recording import CachedTensor, TensorCache
from obsdiff.calibration.replay.run import record_trajectory
from obsdiff.runtime.scratch import open_scratch
from obsdiff.runtime.strict_json import json_text, parse_json

from ...conftest import flux, sd, sd3
from ...support.contexts import context_of
from ..test_hooks import calibration_set


def same(found, expected) -> bool:
    """Whether two trees have the same types, numbers and tensors."""
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, tuple | list):
        return type(found) is type(expected) and (
            len(found) == len(expected) and all(map(same, found, expected))
        )
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(("make", "room"), [(sd3, 0), (sd, 3000), (flux, 1e9)])
def test_calls_and_order_come_back(tmp_path, make, room):
    place = RecordingPlace(tmp_path / "recording", "mine")
    with context_of(make(), calibration_set(height=16, width=16), room=room) as context:
        trajectory, _ = record_trajectory(context, [])
        recording = trajectory.recording
        before = [recording.cache.get_all(call.inputs) for call in recording.calls]
        write_recording(place, trajectory)
        assert context.scratch.on_disk == 0  # scratch files have moved
        kept = [recording.cache.get_all(call.inputs) for call in recording.calls]
        with open_scratch(room) as scratch:
            found = read_recording(place, TensorCache(scratch), context.blocks)
            after = [found.recording.cache.get_all(c.inputs) for c in found.recording.calls]
            assert scratch.used <= room
            files = {t.held for c in found.recording.calls for t in stored(c.inputs)}
            assert any(isinstance(held, torch.Tensor) for held in files) == (room > 0)
        for some in (kept, after):
            assert all(same(a, b) for a, b in zip(some, before, strict=True))
        for call, other in zip(found.recording.calls, recording.calls, strict=True):
            assert replace(call, inputs=None) == replace(other, inputs=None)
        assert found.recording.steps == recording.steps
        assert found.until == trajectory.until
        assert found.order.names == trajectory.order.names
        assert found.order.layers == trajectory.order.layers
        for number in range(len(before)):
            for segment in range(len(found.order.names)):
                assert same(
                    found.order.stand_in(number, segment, 2.0),
                    trajectory.order.stand_in(number, segment, 2.0),
                )
        other = RecordingPlace(place.folder, "another")
        assert read_recording(other, recording.cache, context.blocks) is None


def change_the_last_byte(file) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["recording.json", "000000.safetensors"])
@pytest.mark.parametrize(
    "damage", [change_the_last_byte, lambda f: f.write_bytes(b""), lambda f: f.unlink()]
)
def test_a_damaged_recording_is_not_read(tmp_path, name, damage):
    with context_of(sd3(), calibration_set(height=16, width=16)) as context:
        trajectory, _ = record_trajectory(context, [])
        place, cache = RecordingPlace(tmp_path, "mine"), trajectory.recording.cache
        write_recording(place, trajectory)
        assert read_recording(place, cache, context.blocks)
        damage(tmp_path / name)
        used = context.scratch.used
        assert read_recording(place, cache, context.blocks) is None
        assert context.scratch.used == used  # what was read before it takes no room


def stored(tree) -> list[CachedTensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, CachedTensor)]


def test_equal_inputs_are_stored_once(tmp_path):
    with context_of(sd3(), calibration_set(height=16, width=16)) as context:
        trajectory, _ = record_trajectory(context, [])
        write_recording(RecordingPlace(tmp_path, "mine"), trajectory)
    tensors = {t for call in trajectory.recording.calls for t in stored(call.inputs)}
    assert len(list(tmp_path.glob("*.safetensors"))) == len(tensors)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        (1, -2.5, True, "text", [None, (), []]),
        {"scale": math.inf, "nested": {"shape": torch.Size([2, 3]), 3: (64, 64)}},
        (torch.float16, torch.device("cpu"), -math.inf, 1e-300),
    ],
)
def test_plain_data_comes_back_from_json(tree):
    assert same(restored(parse_json(json_text(plain(tree, {}), None)), []), tree)


def test_other_objects_are_not_stored(tmp_path):
    for thing in (object(), {1, 2}, lambda: 0, [b"bytes"]):
        with pytest.raises(NotPlain):
            plain(thing, {})
    with context_of(sd3(), calibration_set(height=16, width=16)) as context:
        trajectory, _ = record_trajectory(context, [])
        calls = trajectory.recording.calls
        calls[0] = replace(calls[0], inputs=((), {"joint_attention_kwargs": {"thing": object()}}))
        write_recording(RecordingPlace(tmp_path / "recording", "mine"), trajectory)
    assert not (tmp_path / "recording").exists()
