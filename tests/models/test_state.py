"""Models in another state than from_pretrained's: one line before anything runs."""

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from diffusers.hooks import FirstBlockCacheConfig, apply_group_offloading
from torch import nn

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.models.state import require_ready

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "include": ("*.1.*",)}
CPU = torch.device("cpu")


def prune(pipe):
    return prune_(pipe, PROMPTS[:1], PruningConfig(calibration="single", **QUICK))


def offload_to_disk(pipe, folder):
    apply_group_offloading(
        pipe.transformer, CPU, CPU, "leaf_level", offload_to_disk_path=str(folder)
    )


def compile_one_block(pipe, _):
    pipe.transformer.transformer_blocks[1].compile(backend="eager")


def compile_forward(pipe, _):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


def make_inference_weights(pipe, _):
    layer = pipe.transformer.transformer_blocks[1].ff.net[2]
    with torch.inference_mode():
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)


def wrap(kind):
    return lambda pipe, _: setattr(pipe, "transformer", kind(pipe.transformer))


STATES = {
    "call of the compiler": (lambda pipe, _: pipe.transformer.compile(backend="eager"), "compile"),
    "one compiled block": (compile_one_block, "compiled module at transformer_blocks.1"),
    "compiled forward": (compile_forward, "compile"),
    "compiled wrapper": (wrap(lambda m: torch.compile(m, backend="eager")), "_orig_mod"),
    "data parallel": (wrap(nn.DataParallel), "pipe.transformer.module"),
    "cpu offload": (lambda pipe, _: cpu_offload(pipe.transformer, CPU), "remove_hook"),
    "group offload to disk": (offload_to_disk, "group offloading"),
    "meta": (lambda pipe, _: pipe.transformer.to("meta"), "meta device"),
    "inference tensors": (make_inference_weights, "inference_mode"),
}


@pytest.mark.parametrize(("change", "words"), STATES.values(), ids=STATES)
@pytest.mark.slow
def test_a_state_that_cannot_be_pruned_is_named_before_anything_runs(change, words, tmp_path):
    pipe = sd3()
    change(pipe, tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        prune(pipe)
    assert "transformer: expected a model as from_pretrained opens it" in str(caught.value)


@pytest.mark.parametrize("make", [sd, sd3, flux])
def test_fused_projections_are_named_and_the_call_helps(make):
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    denoiser.fuse_qkv_projections()
    with pytest.raises(UserError, match="unfuse_qkv_projections"):
        prune(pipe)
    denoiser.unfuse_qkv_projections()
    assert prune(pipe).layers


def test_the_advised_call_ends_an_offload():
    pipe = sd3()
    cpu_offload(pipe.transformer, CPU)
    remove_hook_from_submodules(pipe.transformer)
    assert prune(pipe).layers


def test_a_cache_that_skips_blocks_is_named_and_the_call_helps():
    pipe = flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(UserError, match="disable_cache"):
        prune(pipe)
    pipe.transformer.disable_cache()
    assert prune(pipe).layers


def test_other_models_of_the_pipeline_may_be_compiled_but_not_offloaded_to_disk(tmp_path):
    pipe = sd3()
    pipe.vae.compile(backend="eager")
    pipe.text_encoder.compile(backend="eager")
    require_ready(pipe, "transformer")
    apply_group_offloading(
        pipe.text_encoder, CPU, CPU, "leaf_level", offload_to_disk_path=str(tmp_path)
    )
    with pytest.raises(UserError, match=r"text_encoder: .* group offloading to disk"):
        require_ready(pipe, "transformer")


@pytest.mark.parametrize("level", first_quick(["block_level", "leaf_level"]))
@pytest.mark.parametrize("pattern", ["unstructured", "structured"])
@pytest.mark.slow
def test_group_offload_in_memory_prunes_the_model_itself(level, pattern):
    pipe, plain = sd3(), sd3()
    apply_group_offloading(pipe.transformer, CPU, CPU, level, num_blocks_per_group=1)
    config = PruningConfig(
        pattern=pattern, calibration="replay", packages=2, num_inference_steps=2, round_to=1,
        keep_first_last=False, height=16, width=16,
    )  # fmt: skip
    for one in (pipe, plain):
        prune_(one, PROMPTS[:1], config)
    wanted = plain.transformer.state_dict()
    found = pipe.transformer.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_stream_of_group_offload_is_named():
    pipe = sd3()
    apply_group_offloading(pipe.transformer, CPU, CPU, "leaf_level")
    hook = pipe.transformer.transformer_blocks[1].ff.net[2]._diffusers_hook
    hook.hooks["group_offloading"].config.stream = object()
    with pytest.raises(UserError, match="with a stream"):
        require_ready(pipe, "transformer")
