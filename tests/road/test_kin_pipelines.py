"""Other families through their own __call__: classes, pictures, video and sound, guidance in one
call or in two."""

import pytest
import torch
from diffusers import DiffusionPipeline

from obsdiff import PruningConfig, UserError, prune_, save_pruned

from ..support import kin_pipelines as kin
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
PICTURE = {
    "prompt": "red apple",
    "height": 16,
    "width": 16,
    "use_resolution_binning": False,
    "clean_caption": False,
    "max_sequence_length": 8,
}
VIDEO = {
    "prompt": "red apple",
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "max_sequence_length": 6,
}

# what one call is given; denoiser calls in a step; linear layers; attentions and FFNs that
# structured pruning shrinks
CALLS = {
    kin.dit: ({"class_labels": [3]}, 1, 2 * 6, 2, 2),
    kin.pixart_sigma: (PICTURE, 1, 2 * 10, 4, 2),
    kin.cogvideox: (VIDEO, 1, 2 * 6, 2, 2),
    kin.wan: (VIDEO, 2, 2 * 10, 0, 2),
    kin.stable_audio: ({"prompt": "rain", "audio_end_in_s": 10.0}, 1, 2 * 10, 4, 2),
}
EVERY = pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)


def latents(pipe, arguments) -> torch.Tensor:
    out = pipe(
        **arguments,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        return_dict=False,
    )[0]
    return torch.as_tensor(out)


def opened(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    for p in pipe.transformer.parameters():
        # weights mapped from a file have other addresses, which changes the last bit of a product
        p.data = p.data.clone()
    return pipe


@EVERY
@pytest.mark.parametrize("pattern", first_quick(["unstructured", "structured"]))
def test_pruned_saved_opened_called(make, pattern, tmp_path):
    arguments, _, layers, heads, neurons = CALLS[make]
    pipe = make()
    target = "linear" if heads or pattern != "structured" else "ffn"
    report = prune_(
        pipe,
        [arguments, arguments],
        PruningConfig(pattern=pattern, target=target, num_inference_steps=2, packages=1),
    )
    if pattern == "structured":
        assert [g.kind for g in report.groups].count("heads") == heads
        assert [g.kind for g in report.groups].count("neurons") == neurons
    else:
        assert len(report.layers) == layers
    folder = save_pruned(pipe, tmp_path / "out", report)
    assert torch.equal(latents(opened(folder), arguments), latents(pipe, arguments))


@EVERY
def test_denoiser_calls_of_a_step(make):
    arguments, calls, *_ = CALLS[make]
    pipe, seen = make(), []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(1))
    latents(pipe, arguments)
    handle.remove()
    assert len(seen) == 2 * calls


def test_wans_heads_are_refused_by_name():
    arguments = CALLS[kin.wan][0]
    with pytest.raises(
        UserError, match=r"blocks\.0\.attn1\.norm_q normalises all 4 heads together.*--target ffn"
    ):
        prune_(
            kin.wan(),
            [arguments],
            PruningConfig(pattern="structured", num_inference_steps=2, packages=1),
        )
