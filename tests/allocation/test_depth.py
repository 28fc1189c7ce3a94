"""Blocks out of a tiny pipeline, by the API: record, saved folder, resumed run."""

import json
import subprocess
import sys

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_, save_pruned
from obsdiff.allocation import block_effects
from obsdiff.errors import RunFailed, UserError
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.pipelines.record import RECORD, sealed
from obsdiff.pipelines.verify import verify_folder

from ..conftest import PROMPTS, flux, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
DEPTH = PruningConfig(
    pattern="depth", sparsity=0.5, num_prompts=2, allocation_prompts=2, compensation=False, **QUICK
)
STOCK = """
import sys, torch
from diffusers import StableDiffusion3Pipeline
pipe = StableDiffusion3Pipeline.from_pretrained(
    sys.argv[1], dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
)
assert not any(name.startswith("obsdiff") for name in sys.modules)
assert len(pipe.transformer.transformer_blocks) == pipe.transformer.config.num_layers == 2
torch.save(pipe("red apple", generator=torch.Generator().manual_seed(0), output_type="latent",
                num_inference_steps=2, height=16, width=16).images, sys.argv[2])
"""


def drawn(pipe, prompts, seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(list(prompts), generator=generators, output_type="latent", **QUICK).images


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Two of four blocks out of a tiny SD3.5: dense latents, report, pipeline, journal."""
    pipe, journal = sd3(layers=4, dual=(0, 1)), tmp_path_factory.mktemp("journal")
    seeds = [0, 1]
    dense = drawn(pipe, PROMPTS[:2], seeds)
    report = prune_(pipe, PROMPTS[:2], DEPTH, journal=journal)
    return dense, report, pipe, journal


def test_the_recorded_effect_is_the_error_of_the_pruned_pipeline(pruned):
    dense, report, pipe, _ = pruned
    error = relative_latent_error(drawn(pipe, report.prompts, report.seeds), dense)["value"]
    assert report.depth["together"] == pytest.approx(error, rel=1e-4)
    (group,) = report.groups
    assert (group.owner, group.total, group.kept, len(set(group.removed))) == (
        "transformer_blocks",
        4,
        2,
        2,
    )
    assert group.scores[3] is None  # the last block never leaves
    assert report.depth["kept"] == {
        "transformer_blocks": [i for i in range(4) if i not in group.removed]
    }
    assert report.parameters["after"] < report.parameters["before"]
    assert report.gone() == "2 of 4 blocks are gone"
    assert "2 of 4 blocks" in repr(report)


def test_numbers_of_dual_attentions_follow(pruned):
    _, report, pipe, _ = pruned
    kept = report.depth["kept"]["transformer_blocks"]
    config = pipe.transformer.config
    assert config.num_layers == 2
    assert config.dual_attention_layers == tuple(kept.index(i) for i in (0, 1) if i in kept)


def test_a_resumed_run_measures_nothing_again(pruned, monkeypatch):
    _, report, pipe, journal = pruned
    monkeypatch.setattr(block_effects, "latents", None)
    again = sd3(layers=4, dual=(0, 1))
    resumed = prune_(again, PROMPTS[:2], DEPTH, journal=journal)
    assert resumed.depth == report.depth
    for name, weight in pipe.transformer.state_dict().items():
        assert torch.equal(weight, again.transformer.state_dict()[name]), name


@pytest.mark.slow
def test_the_folder_opens_in_diffusers_alone_and_verify_counts_its_blocks(pruned, tmp_path):
    _, report, pipe, _ = pruned
    folder = save_pruned(pipe, tmp_path / "out", report)
    assert verify_folder(folder).files > 5
    card = (folder / "README.md").read_text()
    assert "2 of 4 blocks are gone" in card
    assert "import obsdiff" not in card
    command = [sys.executable, "-c", STOCK, str(folder), str(tmp_path / "latents.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "latents.pt"), drawn(pipe, ["red apple"], [0]))
    record = json.loads((folder / RECORD).read_text())
    record["groups"][0]["kept"] = 3
    (folder / RECORD).write_text(json.dumps(sealed(record)))
    with pytest.raises(RunFailed, match="transformer_blocks has 2 blocks, expected 3"):
        verify_folder(folder)


@pytest.mark.slow
def test_both_lists_of_flux_give_blocks():
    pipe = flux()
    report = prune_(pipe, PROMPTS[:2], DEPTH)
    assert report.gone() == "2 of 4 blocks are gone"
    config = pipe.transformer.config
    assert (config.num_layers, config.num_single_layers) == (1, 1)


def test_there_is_no_dense_pass_to_share():
    with (
        pytest.raises(UserError, match="depth has no Hessians"),
        dense_pass(sd3(), PROMPTS, [DEPTH]),
    ):
        pass
