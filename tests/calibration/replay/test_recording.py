import pytest
import torch

from obsdiff.calibration.replay.recording import Recording, TensorCache, recorded
from obsdiff.pipelines.run import Run
from obsdiff.runtime.scratch import MARKER, SCRATCH_LOCK, open_scratch


def files(folder):
    return [file for file in folder.iterdir() if file.name not in (SCRATCH_LOCK, MARKER)]


@pytest.mark.parametrize("room", [0, 1e9])
def test_trees_come_back_as_they_were_from_memory_and_disk(room):
    tree = (
        torch.arange(6.0).view(2, 3).T,
        {"a": [torch.ones(2, dtype=torch.bfloat16), None, "text"]},
        3,
    )
    with open_scratch(room) as scratch:
        cache = TensorCache(scratch)
        kept = cache.put_all(tree)
        tree[0].zero_()  # the shelf has a copy
        first, second, third = cache.get_all(kept)
        assert torch.equal(first, torch.arange(6.0).view(2, 3).T)
        assert second["a"][0].dtype == torch.bfloat16
        assert (second["a"][1:], third) == ([None, "text"], 3)
        assert (scratch.on_disk > 0) == (room == 0) == bool(files(scratch.folder))
        cache.drop_all(kept)
        assert (scratch.used, scratch.on_disk, files(scratch.folder)) == (0, 0, [])


@pytest.mark.parametrize("room", [0, 1e9])
def test_calls_are_written_down_and_what_stays_the_same_is_kept_once(room):
    class Denoiser(torch.nn.Module):
        def forward(self, x, t, text=None):
            return x + t

    run, denoiser, text = Run(None, recorded_steps=2), Denoiser(), torch.ones(1000)
    with open_scratch(room) as scratch:
        recording = Recording(TensorCache(scratch))
        with recorded(run, denoiser, recording):
            for step in range(4):
                run.step, run.prompts = step, 2
                denoiser(torch.full((3,), float(step)), step, text=text.clone())
        denoiser(text, 1)  # the hook is gone
        assert [(c.step, c.prompts) for c in recording.calls] == [(step, 2) for step in range(4)]
        (x, t), kwargs = recording.cache.get_all(recording.calls[2].inputs)
        assert torch.equal(x, torch.full((3,), 2.0))
        assert (t, torch.equal(kwargs["text"], text)) == (2, True)
        assert scratch.used + scratch.on_disk == 4000 + 4 * 12
