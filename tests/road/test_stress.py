"""A small sample of each long run of `make stress`."""

import warnings

import pytest
import torch
from diffusers import SD3Transformer2DModel

from stress import disk, fuzz, kill, ranks, soak

from ..conftest import randomise, sd3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A pipeline of three blocks, 128 wide, with random weights: most of a run is its start."""
    pipe = sd3()
    pipe.transformer = randomise(
        SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
            attention_head_dim=64, num_attention_heads=2, joint_attention_dim=32,
            caption_projection_dim=128, pooled_projection_dim=32, pos_embed_max_size=8,
            qk_norm="rms_norm",
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("stress") / "sd3"
    pipe.to(torch.float16).save_pretrained(folder)
    return str(folder)


def test_killed_at_a_random_moment_it_ends_with_the_same_bits(model):
    """Not during its start, which is most of the time of so small a run."""
    sample = ["--model", model, "--earliest", "0.6", "--seed", "1"]
    counts = kill.main(["--times", "1", "--kinds", "live", *sample])
    assert counts["runs"] == 1
    assert counts["kills"] >= 1


def test_two_processes_prune_as_one_does_also_when_one_dies_and_they_go_on(
    tmp_path, model, monkeypatch
):
    few = ("--num-prompts", 2, "--num-inference-steps", 2, "--batch-size", 1)
    monkeypatch.setattr(ranks, "COMMON", few)
    ranks.compare("live", [1], tmp_path, model)
    _, total = ranks.death(tmp_path, tmp_path / "live-1", then=2, model=model)
    assert total > 1_000_000


def test_mutated_input_is_refused_in_one_line():
    counts = fuzz.fuzz(110)
    assert sum(counts.values()) >= 100
    assert {kind for kind, _ in counts} >= {
        "model_index.json",
        "obsdiff.json",
        "results.json",
        "safetensors header",
        "layout in config.json",
        "bitmasks in config.json",
        "header of bitmasks, verified",
        "bytes of bitmasks",
        "prompts",
    }


def test_many_prunings_in_one_process_leave_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = soak.soak(sd3, 14)
    assert after < 1.1 * before  # too few prunings for a tighter bound; the full run requires 2 %


@pytest.mark.skipif(
    disk.why_not() is not None, reason=f"no small file system here: {disk.why_not()}"
)
def test_a_disk_that_fills_up_stops_the_run_which_then_goes_on(model):
    assert disk.main(["--sizes", "6", "--model", model]) == 1
